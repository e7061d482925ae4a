"""The Celery tasks of the pipeline. Messages carry their names, so a name never changes."""

import logging
import signal
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery import shared_task
from celery.app.task import Task
from celery.worker.request import Request
from django.conf import settings
from django.db import Error, connection

from image_editor import postgresql, storage
from image_editor.observability.request_id import request_id
from image_editor.pipeline import attempts, healing, killed, orphans, queues, reconciler, retention

log = logging.getLogger(__name__)


class EditRequest(Request):
    """The main process's view of an edit under way. Counts the kill before the message returns to the queue."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError) and signal.SIGKILL.name in str(error):
            killed.count(self.id, "memory")
        super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft:
            killed.count(self.id, "time")
        super().on_timeout(soft, timeout)


def edit(self: Task, payload: dict[str, Any] | str) -> dict[str, str]:
    """Edit one image. Takes the whole message or, from an older release or with TASK_PAYLOAD=id, the id of the edit."""
    request = self.request
    request_id.set((request.headers or {}).get("request_id") or "")
    delivery = request.delivery_info or {}
    return attempts.run(
        payload,
        task_id=request.id,
        queue=delivery.get("routing_key", ""),
        redelivered=bool(delivery.get("redelivered")),
    )


for _queue in queues.EDIT_QUEUES:
    shared_task(edit, bind=True, name=_queue.tasks[0], Request=EditRequest)


@shared_task(name="image_editor.tasks.reconcile", acks_late=False, ignore_result=True)
def reconcile() -> dict[str, int] | None:
    """Publish what was accepted and is neither on the broker nor with a worker. Returns the counts by kind."""
    return _if_possible(reconciler.reconcile, None)


@shared_task(name="image_editor.tasks.purge", acks_late=False, ignore_result=True)
def purge() -> int:
    """Remove edits that are older than the retention, for two seconds. Returns how many."""
    return _if_possible(lambda: retention.purge_round(settings.RETENTION_DAYS), 0)


@shared_task(name="image_editor.tasks.sweep", acks_late=False, ignore_result=True)
def sweep() -> int:
    """Remove files that belong to no edit, for two seconds. Returns how many."""
    return _if_possible(orphans.sweep, 0)


@shared_task(name="image_editor.tasks.heal", acks_late=False, ignore_result=True)
def heal() -> int:
    """Remove files whose rows are gone, and bring media hosts that missed something up to date, two seconds each.

    Returns how many files were removed or brought up to date.
    """
    return _if_possible(retention.remove_files, 0) + _if_possible(healing.heal, 0)


def _if_possible[T, U](job: Callable[[], T], otherwise: U) -> T | U:
    """The job's answer, or ``otherwise`` while the media store or PostgreSQL is away: the next job comes soon."""
    try:
        return job()
    except storage.StorageUnavailable as error:
        log.warning("media store unavailable", extra={"error": str(error)})
    except Error as error:
        if not postgresql.away(error):
            raise
        connection.close()
        log.warning("PostgreSQL is away", extra={"error": repr(error)})
    return otherwise
