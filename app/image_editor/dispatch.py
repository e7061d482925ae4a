"""Handing work to the broker: bounded, never raising, because the rows in PostgreSQL are what counts."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery.result import denied_join_result

from backend.celery import app
from image_editor.context import request_id
from image_editor.message import EditMessage

log = logging.getLogger(__name__)

# After a failed publish this process leaves the broker alone for so long: while it is down, requests are accepted
# without waiting for it one by one.
PAUSE = 5.0  # seconds
_paused_until = 0.0


EDIT_TASKS = {"edit": "image_editor.tasks.edit", "batch": "image_editor.tasks_batch.edit"}


def publish_edits(messages: Sequence[EditMessage], queue: str = "edit") -> int:
    """Publish edits in one round trip. How many were taken: not all when the broker does not answer."""
    return _publish(EDIT_TASKS[queue], [((m.payload(),), m.task_id) for m in messages], queue)


def publish_callbacks(callbacks: Sequence[tuple[str, int]]) -> int:
    """Publish callbacks, each an id and the number of its tries so far: a message is good for one try only."""
    return _publish("image_editor.tasks.callback", [(callback, None) for callback in callbacks], "callback")


def _publish(task: str, calls: Sequence[tuple[tuple, str | None]], queue: str) -> int:
    global _paused_until
    if not calls or time.monotonic() < _paused_until:
        return 0
    try:
        # Outside this context Celery subscribes to the result first, and a dead result backend blocks the publish.
        with denied_join_result(), app.producer_or_acquire() as producer, _pipelined(producer, len(calls)):
            for args, task_id in calls:
                app.send_task(
                    task,
                    args,
                    task_id=task_id,
                    queue=queue,
                    producer=producer,
                    headers={"request_id": request_id.get()},
                )
    except Exception as error:  # whatever the transport raises, the reconciler publishes it later
        _paused_until = time.monotonic() + PAUSE
        log.warning("publish failed", extra={"task": task, "messages": len(calls), "error": repr(error)})
        return 0
    return len(calls)


@contextmanager
def _pipelined(producer: Any, messages: int) -> Iterator[None]:
    """Collect what kombu would push message by message, and push it at once: a batch costs one round trip."""
    if messages == 1:
        yield
        return
    channel = producer.channel
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        channel._put = lambda queue, message, **_: pipe.lpush(channel._q_for_pri(queue, 0), json.dumps(message))
        try:
            yield
        finally:
            del channel._put
        pipe.execute()


def resume() -> None:
    """Forget a pause: the reconciler has its own pace."""
    global _paused_until
    _paused_until = 0.0
