"""Nothing accepted is lost: messages that the broker lost or never got are published again from PostgreSQL.

Any number of reconcilers may run at a time: each takes its rows with SKIP LOCKED, and marks them as it takes them.
"""

import logging
from datetime import timedelta

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from image_editor.models import Edit, Status
from image_editor.pipeline import broker, publisher, queues, transitions
from image_editor.pipeline.message import EditMessage
from image_editor.webhooks import callbacks

log = logging.getLogger(__name__)

ROUND_MAX = 500  # rows in a round, so that a round is short and a broker that comes back is not flooded
NEVER_SENT = timedelta(seconds=10)  # the time that the process which inserted a row has to publish it
MISSING = timedelta(seconds=20)  # the time that a published message has to show up on the broker
LONG = 1000  # messages; a longer queue is not read through: a queued edit is presumed to wait in it


def reconcile() -> dict[str, int]:
    """Run one round. Returns the number of edits that were given up, and of messages published to each queue."""
    publisher.resume()
    done = {"abandoned": _abandon()}
    done |= {queue.name: _publish(queue) for queue in queues.EDIT_QUEUES}
    done[queues.CALLBACK.name] = callbacks.publish_due()
    if any(done.values()):
        log.warning("reconciled", extra=done)
    return done


def _abandon() -> int:
    """Fail the edits whose last attempt lost its worker. Returns how many."""
    spent = Edit.objects.filter(
        status=Status.PROCESSING, lease_expires_at__lt=Now(), attempt__gte=settings.TASK_ATTEMPTS_MAX
    )
    return sum(transitions.abandon(edit) for edit in spent[:ROUND_MAX])


def _publish(queue: queues.Queue) -> int:
    """Publish again the edits that should be in this queue or with a worker, and are not. Returns how many."""
    lost = (
        Q(status=Status.ACCEPTED, retry_at=None, accepted_at__lt=Now() - NEVER_SENT)
        | Q(status=Status.ACCEPTED, retry_at__lt=Now())
        | Q(status=Status.PROCESSING, lease_expires_at__lt=Now(), attempt__lt=settings.TASK_ATTEMPTS_MAX)
    )
    try:
        with broker.client() as client:
            present = broker.published_ids(client, queue.name, queues.EDIT_TASKS, LONG)
    except redis.RedisError as error:
        log.warning("broker unavailable", extra={"queue": queue.name, "error": repr(error)})
        return 0
    if present is not None:
        lost |= Q(status=Status.QUEUED, dispatched_at__lt=Now() - MISSING) & ~Q(pk__in=present)
    with transaction.atomic():
        edits = list(
            Edit.objects.filter(lost, **queue.rows)
            .select_related("user")
            .select_for_update(skip_locked=True, of=("self",))
            .order_by("accepted_at")[:ROUND_MAX]
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
