"""Nothing accepted is lost: what the broker lost, forgot or never got is published again from PostgreSQL.

Any number of these may run at a time: rows are taken with SKIP LOCKED and marked as they are taken.
"""

import json
import logging
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from backend.celery import app
from image_editor.models import Edit, Status
from image_editor.pipeline import publisher, transitions
from image_editor.pipeline.message import EditMessage
from image_editor.webhooks import callbacks

log = logging.getLogger(__name__)

AT_ONCE = 500  # rows a round, so that a round is short and a returning broker is not flooded
NEVER_SENT = timedelta(seconds=10)  # for the process that inserted a row to publish it
MISSING = timedelta(seconds=20)  # for a published message to show up on the broker; deliveries take milliseconds
SHORT = 1000  # messages; a longer queue is not read through, and a queued edit is presumed to wait its turn in it


def reconcile() -> dict[str, int]:
    """One round. What was done, by kind; zero everywhere is the usual result."""
    publisher.resume()
    done = {
        "abandoned": _abandon(),
        "edit": _publish("edit"),
        "batch": _publish("batch"),
        "callback": callbacks.sweep(),
    }
    if any(done.values()):
        log.warning("reconciled", extra=done)
    return done


def _abandon() -> int:
    spent = Edit.objects.filter(
        status=Status.PROCESSING, lease_expires_at__lt=Now(), attempt__gte=settings.TASK_ATTEMPTS_MAX
    )
    return sum(transitions.abandon(edit) for edit in spent[:AT_ONCE])


def _publish(queue: str) -> int:
    """Publish again what should be on this queue, or under way, and is not."""
    lost = (
        Q(status=Status.ACCEPTED, retry_at=None, accepted_at__lt=Now() - NEVER_SENT)
        | Q(status=Status.ACCEPTED, retry_at__lt=Now())
        | Q(status=Status.PROCESSING, lease_expires_at__lt=Now(), attempt__lt=settings.TASK_ATTEMPTS_MAX)
    )
    try:
        present = _on_broker(queue)
    except Exception as error:  # whatever the transport raises: without a broker there is nothing to publish to
        log.warning("broker unavailable", extra={"queue": queue, "error": repr(error)})
        return 0
    if present is not None:
        lost |= Q(status=Status.QUEUED, dispatched_at__lt=Now() - MISSING) & ~Q(pk__in=present)
    with transaction.atomic():
        edits = list(
            Edit.objects.filter(lost, batch__isnull=queue == "edit")
            .select_related("user")
            .select_for_update(skip_locked=True, of=("self",))
            .order_by("accepted_at")[:AT_ONCE]
        )
        Edit.objects.filter(pk__in=[edit.pk for edit in edits]).update(
            status=Status.QUEUED,
            dispatched_at=Now(),
            dispatches=F("dispatches") + 1,
            lease_expires_at=None,
            retry_at=None,
        )
    sent = publisher.publish_edits([EditMessage.of(edit, edit.user.username) for edit in edits], queue)
    transitions.not_published([edit.pk for edit in edits[sent:]])
    return sent


def _on_broker(queue: str) -> list[str] | None:
    """The ids of the edits that wait in the queue or are with a worker. None if the queue is too long to look."""
    with app.connection_or_acquire() as connection:
        redis = connection.default_channel.client
        if redis.llen(queue) > SHORT:
            return None
        # In this order: a message that moves from one to the other in between is seen twice, not overlooked.
        waiting = [json.loads(message) for message in redis.lrange(queue, 0, SHORT)]
        under_way = [json.loads(entry)[0] for entry in redis.hvals("unacked")]
    return [
        message["headers"]["id"]
        for message in waiting + under_way
        if message["headers"].get("task") in publisher.EDIT_TASKS.values()
    ]
