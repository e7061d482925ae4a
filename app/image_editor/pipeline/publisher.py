"""Handing work to the broker: bounded, never raising, because the rows in PostgreSQL are what counts."""

import base64
import json
import logging
import time
import uuid
from collections.abc import Sequence

import redis
from celery.utils.nodenames import anon_nodename
from django.conf import settings

from backend.celery import app
from image_editor.observability.request_id import request_id
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.redis_connection import Line

log = logging.getLogger(__name__)

# After a failed publish this process leaves the broker alone for so long, and then one call at a time finds out whether
# it is back: while it is down, requests are accepted without waiting for it. It is down for a second or two in a
# switchover, and what is not published meanwhile waits for the reconciler.
PAUSE = 1.0  # seconds
_paused_until = 0.0


# A connection of our own, that waits as long as the settings allow.
_broker = Line(
    settings.BROKER_URL,
    socket_timeout=settings.CELERY_BROKER_TRANSPORT_OPTIONS["socket_timeout"],
    socket_connect_timeout=settings.CELERY_BROKER_TRANSPORT_OPTIONS["socket_connect_timeout"],
    socket_keepalive=True,
)
_ORIGIN = anon_nodename()

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
    if _paused_until:
        _paused_until = time.monotonic() + PAUSE
    try:
        _broker("LPUSH", queue, *(message(task, args, task_id or str(uuid.uuid4()), queue) for args, task_id in calls))
    except redis.RedisError as error:  # the reconciler publishes it later
        _paused_until = time.monotonic() + PAUSE
        log.warning("publish failed", extra={"task": task, "messages": len(calls), "error": repr(error)})
        return 0
    _paused_until = 0.0
    return len(calls)


def message(task: str, args: tuple, task_id: str, queue: str) -> str:
    """What Celery's ``send_task`` would push, which takes five times as long and a round trip for each.

    The headers and the body are Celery's own work, the envelope is kombu's for Redis; a test compares it with theirs.
    """
    built = app.amqp.as_task_v2(
        task_id, task, args, argsrepr=f"({task_id!r},)", kwargsrepr="{}", origin=_ORIGIN, ignore_result=None
    )
    envelope = {
        "body": base64.b64encode(json.dumps(built.body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": built.headers | {"request_id": request_id.get()},
        "properties": built.properties
        | {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(envelope)


def resume() -> None:
    """Forget a pause: the reconciler has its own pace."""
    global _paused_until
    _paused_until = 0.0
