"""Nothing accepted is lost: messages that the broker lost or never got are published again from PostgreSQL.

Any number of reconcilers may run at a time: each takes its rows with SKIP LOCKED, and marks them as it takes them.
"""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, Subquery
from django.db.models.functions import Coalesce, Now

from image_editor.models import UNFINISHED, Edit, Status
from image_editor.pipeline import broker, publisher, queues, transitions
from image_editor.pipeline.message import EditMessage
from image_editor.webhooks import callbacks

log = logging.getLogger(__name__)

ROUND_MAX = 500  # rows in a transaction
REFILL_SECONDS = 5.0  # for which a broker that has lost a queue is refilled, until the next call
MISSING = timedelta(seconds=20)  # the time that a published message has to show up on the broker
LONG = 10_000  # messages; of a longer queue, only this many are read, and it is not refilled further

UNHELD = ~Q(status=Status.PROCESSING) | Q(lease_expires_at=None) | Q(lease_expires_at__lt=Now())
SPENT = "every attempt ended without a result: the worker was lost, or failed, while it edited this image"
OLD = "the platform could not do the edit in time, because its media store or its engine was down: submit it again"


def reconcile() -> dict[str, int]:
    """Returns the number of edits that were given up, and of messages published to each queue."""
    publisher.resume()
    done = {"abandoned": _give_up()}
    done |= {queue.name: _refill(partial(_publish, queue)) for queue in queues.EDIT_QUEUES}
    done[queues.CALLBACK.name] = _refill(callbacks.publish_due)
    if any(done.values()):
        log.warning("reconciled", extra=done)
    return done


def _refill(publish: Callable[[], int]) -> int:
    """Publish round after round while there is more, for a while. Returns how many were published."""
    total, until = 0, time.monotonic() + REFILL_SECONDS
    while True:
        sent = publish()
        total += sent
        if sent < ROUND_MAX or time.monotonic() > until:
            return total


def _give_up() -> int:
    """Fail the edits that nobody works on and nobody may try again. Returns how many."""
    spent = Edit.objects.filter(
        UNHELD, attempt__gte=F("faults") + F("forgiven") + settings.TASK_ATTEMPTS_MAX, status__in=UNFINISHED
    )
    old = Edit.objects.alias(since=Coalesce("requeued_at", "accepted_at")).filter(
        status=Status.ACCEPTED, faults__gt=0, since__lt=Now() - timedelta(seconds=settings.TASK_MAX_AGE)
    )
    return sum(
        transitions.give_up(edit, why) for edits, why in ((spent, SPENT), (old, OLD)) for edit in edits[:ROUND_MAX]
    )


def _missing(client: redis.Redis, queue: queues.Queue) -> Q:
    """The queued edits whose message is gone. Raises redis.RedisError.

    Messages are taken in the order in which they were published. So in a long queue, an edit is missing if it was
    published before the edits that are taken next, and is not among them. Only the message of a worker that was lost
    goes back to the end of the queue. It may be published twice, and the claim drops the second one.
    """
    # In this order: a message that moves from the queue to a worker in between is seen twice, and never missed.
    waiting = broker.oldest_waiting(client, queue.name, LONG)
    present = waiting + broker.unacknowledged(client, queues.EDIT_TASKS)
    published_before = Now()
    if len(waiting) == LONG:
        # An edit can have been published again after this message. It was accepted before either.
        published_before = Subquery(Edit.objects.filter(pk=waiting[0]).values("accepted_at"))
    missing = Q(dispatched_at=None) | Q(dispatched_at__lt=published_before - MISSING)
    return missing & Q(status=Status.QUEUED) & ~Q(pk__in=present)


def _publish(queue: queues.Queue) -> int:
    """Publish again the edits that should be in this queue or with a worker, and are not. Returns how many."""
    # An accepted edit has no message: the broker did not take it, or the edit waits for its next attempt.
    due = Q(status=Status.ACCEPTED, retry_at=None) | Q(status=Status.ACCEPTED, retry_at__lt=Now())
    try:
        with broker.client() as client:
            lost = due | Q(UNHELD, status=Status.PROCESSING) | _missing(client, queue)
    except redis.RedisError as error:
        log.warning("broker unavailable", extra={"queue": queue.name, "error": repr(error)})
        return 0
    with transaction.atomic():
        edits = list(
            Edit.objects.filter(lost, status__in=UNFINISHED, **queue.rows)
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
