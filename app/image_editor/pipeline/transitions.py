"""The state transitions of an edit: accepted -> queued -> processing -> succeeded | failed | cancelled.

Each transition is one guarded statement, so that the second of two callers changes nothing. Celery delivers at least
once; the guards make the effects happen exactly once. The attempt number fences off a worker that was thought dead:
its result is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from image_editor.imaging.engines import Edited
from image_editor.models import Batch, Callback, Edit, Status
from image_editor.pipeline import killed, publisher, queues
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.state_cache import states
from image_editor.shortcuts.database import prepared, repeat_if_connection_lost
from image_editor.webhooks import callbacks

# A repeated INSERT, after the connection was lost, changes nothing. A repeated idempotency key raises IntegrityError.
_ACCEPT = """
INSERT INTO edit (id, user_id, prompt, image_url, callback_url, idempotency_key, request_digest, accepted_at,
                  status, dispatched_at, dispatches, attempt, result_name, result_type, error_code, error_detail)
VALUES (%(task_id)s, %(user_id)s, %(prompt)s, %(image_url)s, %(callback_url)s, %(idempotency_key)s,
        %(request_digest)s, %(accepted_at)s, 'queued', %(accepted_at)s, 1, 0, '', '', '', '')
ON CONFLICT (id) DO NOTHING
"""

_CLAIM = """
UPDATE edit
   SET status = 'processing', attempt = attempt + 1, started_at = COALESCE(started_at, now()),
       lease_expires_at = now() + make_interval(secs => %(lease)s)
 WHERE id = %(id)s AND attempt < %(attempts_max)s
   AND (status IN ('accepted', 'queued')
        OR status = 'processing' AND (lease_expires_at < now() OR %(redelivered)s))
RETURNING attempt, started_at
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on an edit until its lease ends."""

    attempt: int
    started_at: datetime


def accept(message: EditMessage, idempotency_key: str | None = None, request_digest: str = "") -> Status:
    """Commit the row, then publish its message. While the broker is down, the edit only starts later.

    The INSERT says ``queued`` already, which saves an UPDATE for each edit. If the publish fails, the state becomes
    ``accepted``. Raises IntegrityError for a repeated idempotency key.
    """
    _insert(message, idempotency_key, request_digest)
    if publisher.publish_edits([message], queues.queue_of_edit(in_batch=False)):
        return Status.QUEUED
    not_published([message.task_id])
    return Status.ACCEPTED


@repeat_if_connection_lost
def _insert(message: EditMessage, idempotency_key: str | None, request_digest: str) -> None:
    values = {
        "task_id": message.task_id,
        "user_id": message.user_id,
        "prompt": message.prompt,
        "image_url": message.image_url,
        "callback_url": message.callback_url,
        "accepted_at": message.accepted_at,
        "idempotency_key": idempotency_key,
        "request_digest": request_digest,
    }
    prepared(_ACCEPT, values)


def accept_batch(batch: Batch, items: list[Edit], username: str) -> None:
    """Commit a batch with its items in one transaction, then publish the items in one round trip.

    Raises IntegrityError for a repeated idempotency key.
    """
    for item in items:
        item.status, item.dispatched_at, item.dispatches = Status.QUEUED, item.accepted_at, 1
    with transaction.atomic():
        batch.save(force_insert=True)
        Edit.objects.bulk_create(items)
    messages = [EditMessage.of(item, username) for item in items]
    sent = publisher.publish_edits(messages, queues.queue_of_edit(in_batch=True))
    for item in items[sent:]:
        item.status = Status.ACCEPTED
    not_published([item.pk for item in items[sent:]])


def not_published(edit_ids: Sequence[UUID | str]) -> None:
    """Set rows back to ``accepted`` whose message the broker did not take. The reconciler publishes them later."""
    if edit_ids:
        Edit.objects.filter(pk__in=edit_ids, status=Status.QUEUED).update(status=Status.ACCEPTED, dispatched_at=None)


@repeat_if_connection_lost
def claim(edit_id: str, redelivered: bool) -> Claim | None:
    """Begin an attempt. None if the edit has ended, is under way, has used up its attempts or does not exist.

    The broker marks a message that it delivers again after a worker was lost. Then the lease need not expire first.
    """
    values = {
        "id": edit_id,
        "lease": settings.TASK_LEASE,
        "attempts_max": settings.TASK_ATTEMPTS_MAX,
        "redelivered": redelivered,
    }
    row = prepared(_CLAIM, values).fetchone()
    return Claim(*row) if row else None


# No later attempt has begun. A finished image is accepted even if the lease has expired.
_HELD = "attempt = %(held)s"


@repeat_if_connection_lost
def succeed(message: EditMessage, claim: Claim, name: str, edited: Edited, reported: bool) -> bool:
    """Record a stored result. False if this attempt no longer holds the edit; then nothing was changed.

    The first delivery of a fresh message is in the cache only if its progress was ``reported``. For any other message,
    the cache can also hold a state from before a requeue. Attempt 0 was never claimed. It becomes the first attempt
    now, unless another worker's attempt did.
    """
    unclaimed = {} if claim.attempt else {"attempt": 1, "started_at": claim.started_at}
    return _end(
        message,
        _HELD,
        {"held": claim.attempt},
        cached=reported or claim.attempt > 1 or not message.fresh,
        status=Status.SUCCEEDED,
        result_name=name,
        result_type=edited.content_type,
        result_width=edited.width,
        result_height=edited.height,
        result_bytes=len(edited.data),
        **unclaimed,
    )


@repeat_if_connection_lost
def fail(message: EditMessage, claim: Claim, code: str, detail: str) -> bool:
    """Record that the edit cannot be done. False if this attempt no longer holds the edit."""
    return _end(message, _HELD, {"held": claim.attempt}, status=Status.FAILED, error_code=code, error_detail=detail)


@repeat_if_connection_lost
def postpone(message: EditMessage, claim: Claim) -> bool:
    """Give the edit back after a fault of the platform. The reconciler publishes it again, each time after longer.

    False if this attempt no longer holds it. Not for the last attempt: nobody could claim the edit again.
    """
    delay = timedelta(seconds=10 * 2 ** min(claim.attempt, 5))
    changed = Edit.objects.filter(pk=message.task_id, status=Status.PROCESSING, attempt=claim.attempt).update(
        status=Status.ACCEPTED, dispatched_at=None, lease_expires_at=None, retry_at=Now() + delay
    )
    states.forget(message.task_id)
    return bool(changed)


def abandon(edit: Edit) -> bool:
    """Fail an edit whose lease expired on its last attempt: the edit may be what kills the workers."""
    return _end(
        edit,
        "status = 'processing' AND attempt = %(attempt)s AND lease_expires_at < now()",
        {"attempt": edit.attempt},
        status=Status.FAILED,
        error_code="gave_up",
        error_detail=f"the worker was lost {edit.attempt} times while it edited this image",
    )


def cancel(edit: Edit) -> bool:
    """End an unfinished edit. The result of a worker that still works on it is refused. False if the edit had ended."""
    return _end(edit, "true", {}, status=Status.CANCELLED)


def _end(edit: Edit | EditMessage, guard: str, guarded: dict[str, Any], *, cached: bool = True, **values: Any) -> bool:
    """Move an unfinished edit into a final state. False if the guard does not hold; then nothing was changed.

    The callback's row and the batch's count are part of the same transaction. ``guarded`` are the parameters of the
    guard, ``values`` are columns of the row.
    """
    edit_id = str(edit.pk) if isinstance(edit, Edit) else edit.task_id
    now = timezone.now()
    values |= {"finished_at": now, "lease_expires_at": None}
    # The names of the columns come from this module, never from a request.
    statement = f"""
        UPDATE edit SET {", ".join(f"{name} = %({name})s" for name in values)}
         WHERE id = %(id)s AND status IN ('accepted', 'queued', 'processing') AND {guard}
    """  # noqa: S608

    def update() -> bool:
        return prepared(statement, values | guarded | {"id": edit_id}).rowcount == 1

    announced: list[Callback] = []
    if not edit.callback_url and not edit.batch_id:
        if not update():
            return False
    else:
        with transaction.atomic():
            if not update():
                return False
            if edit.callback_url:
                announced.append(callbacks.new(edit.callback_url, edit_id=edit_id))
            if edit.batch_id and (url := _count_down(edit.batch_id, now)):
                announced.append(callbacks.new(url, batch_id=edit.batch_id))
            Callback.objects.bulk_create(announced)
    if cached:
        states.forget(edit_id)
    publisher.publish_callbacks([(str(callback.pk), callback.tries) for callback in announced])
    return True


_COUNT_DOWN = """
UPDATE batch
   SET unfinished = unfinished - 1, finished_at = CASE WHEN unfinished = 1 THEN %(now)s ELSE finished_at END
 WHERE id = %(id)s
RETURNING unfinished, callback_url
"""


def _count_down(batch_id: UUID | str, now: datetime) -> str:
    """Count an ended item. Returns the callback URL of the batch to the item that was the last one, else "".

    The row lock makes finishing items wait for each other, so exactly one of them sees zero.
    """
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_DOWN, {"id": str(batch_id), "now": now})
        unfinished, url = cursor.fetchone()
    return "" if unfinished else url


def requeue(edit: Edit) -> bool:
    """Start a failed or cancelled edit again, with all its attempts. False if it is in another state."""
    with transaction.atomic():
        changed = Edit.objects.filter(pk=edit.pk, status__in=(Status.FAILED, Status.CANCELLED)).update(
            status=Status.ACCEPTED,
            attempt=0,
            dispatched_at=None,
            retry_at=Now(),
            finished_at=None,
            error_code="",
            error_detail="",
        )
        if changed:
            Callback.objects.filter(edit=edit.pk).delete()
            if edit.batch_id:
                Batch.objects.filter(pk=edit.batch_id).update(unfinished=F("unfinished") + 1, finished_at=None)
                Callback.objects.filter(batch=edit.batch_id).delete()
    states.forget(edit.pk)
    killed.forget(str(edit.pk))
    return bool(changed)
