"""Publishing tasks: bounded in time, and never raising, because the rows in PostgreSQL are what counts."""

import logging
import time
import uuid
from collections.abc import Sequence

import redis

from image_editor.pipeline import broker, queues
from image_editor.pipeline.message import EditMessage
from image_editor.shortcuts.task_message import task_message

log = logging.getLogger(__name__)

# Seconds without a publish after a failed one, so that requests do not wait for a broker that is down. Then one call at
# a time finds out whether the broker is back. What is not published meanwhile is published by the reconciler.
PAUSE = 1.0
_paused_until = 0.0  # monotonic seconds

# A request has 2 s for the broker. A lost connection and a new one that does not answer take this time-out twice.
_broker = broker.client(seconds=0.65)


def publish_edits(messages: Sequence[EditMessage], queue: queues.Queue = queues.EDIT) -> int:
    """Publish edits in one round trip. Returns how many: all of them, or 0 if the broker does not answer."""
    return _publish(queue.tasks[0], [((message.payload(),), message.task_id) for message in messages], queue)


def publish_callbacks(callbacks: Sequence[tuple[str, int]]) -> int:
    """Publish callbacks, each an id and the number of its tries so far. A message is good for one try only."""
    calls = [(callback, str(uuid.uuid4())) for callback in callbacks]
    return _publish(queues.CALLBACK.tasks[0], calls, queues.CALLBACK)


def resume() -> None:
    """End a pause early. The reconciler has a pace of its own."""
    global _paused_until
    _paused_until = 0.0


def _publish(task: str, calls: Sequence[tuple[tuple, str]], queue: queues.Queue) -> int:
    """Publish a call of the task for each pair of arguments and task id, in this order."""
    global _paused_until
    if not calls or time.monotonic() < _paused_until:
        return 0
    if _paused_until:
        _paused_until = time.monotonic() + PAUSE
    try:
        _broker.lpush(queue.name, *(task_message(task, args, task_id, queue.name) for args, task_id in calls))
    except redis.RedisError as error:
        _paused_until = time.monotonic() + PAUSE
        log.warning("publish failed", extra={"task": task, "messages": len(calls), "error": repr(error)})
        return 0
    _paused_until = 0.0
    return len(calls)
