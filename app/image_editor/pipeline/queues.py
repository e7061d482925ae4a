"""The queues: the only place that names them.

Celery's queues and routes, the edit tasks, the metrics, the reconciler and the comparison after a restore all follow
from ``QUEUES``. To add a queue, add an entry here, and a worker for the queue in the inventory.

The settings read this module, so it imports nothing of Django's or Celery's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, and what its messages are about.

    ``carries`` says what a message stands for. A message of ``edits`` or ``callbacks`` stands for a row of PostgreSQL:
    the reconciler publishes a lost one again. A message of ``jobs`` stands for nothing: the scheduler sends the next.
    """

    name: str
    carries: Literal["edits", "callbacks", "jobs"]
    tasks: tuple[str, ...]  # names of Celery tasks, as messages carry them; a queue of edits has exactly one
    rows: Mapping[str, object] = field(default_factory=dict)  # for edits: Django's filter of the rows that belong here


EDIT = Queue("edit", "edits", ("image_editor.tasks.edit",), {"batch__isnull": True})
# Items of batches have a queue and workers of their own, so that a batch never delays a single edit.
BATCH = Queue("batch", "edits", ("image_editor.tasks_batch.edit",), {"batch__isnull": False})
CALLBACK = Queue("callback", "callbacks", ("image_editor.tasks.callback",))
MAINTENANCE = Queue(
    "maintenance",
    "jobs",
    (
        "image_editor.tasks.reconcile",
        "image_editor.tasks.purge",
        "image_editor.tasks.sweep",
        "image_editor.tasks.heal",
    ),
)

QUEUES = (EDIT, BATCH, CALLBACK, MAINTENANCE)

EDIT_QUEUES = tuple(queue for queue in QUEUES if queue.carries == "edits")
EDIT_TASKS = frozenset(queue.tasks[0] for queue in EDIT_QUEUES)
# Queues whose lost messages are published again.
RECONCILED = tuple(queue.name for queue in QUEUES if queue.carries != "jobs")
NAMES = tuple(queue.name for queue in QUEUES)
ROUTES = {task: {"queue": queue.name} for queue in QUEUES for task in queue.tasks}


def queue_of_edit(in_batch: bool) -> Queue:
    """The queue that a newly accepted edit is published to. It must agree with ``Queue.rows``."""
    return BATCH if in_batch else EDIT


def label(task: str) -> str:
    """The label ``task`` of the metrics: the last word of the task's name, such as ``edit``."""
    return task.rpartition(".")[2]
