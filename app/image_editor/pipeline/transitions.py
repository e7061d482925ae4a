"""The state transitions of an edit: accepted -> queued -> processing -> succeeded | failed | cancelled.

Each transition is one guarded statement, so that the second of two callers changes nothing. Celery delivers at least
once; the guards make the effects happen exactly once. The attempt number fences off a worker that was thought dead:
its result is refused. docs/app/api.md has a table of the states. Every time is PostgreSQL's.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from image_editor.imaging.engines import Edited
from image_editor.models import Batch, Callback, Edit, Status, reference_in
from image_editor.pipeline import holder, killed, publisher, queues
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.state_cache import states
from image_editor.shortcuts.database import prepared, repeat_if_connection_lost
from image_editor.webhooks import callbacks

# A repeated INSERT, after the connection was lost, changes nothing. A repeated idempotency key raises IntegrityError.
_ACCEPT = """
INSERT INTO edit (id, user_id, prompt, output, image_url, callback_url, idempotency_key, request_digest, accepted_at,
                  metadata, reference,
                  status, dispatched_at, dispatches, attempt, result_name, result_type, error_code, error_detail)
VALUES (%(task_id)s, %(user_id)s, %(prompt)s, %(output)s::jsonb, %(image_url)s, %(callback_url)s, %(idempotency_key)s,
        %(request_digest)s, %(accepted_at)s, %(metadata)s::jsonb, %(reference)s,
        'queued', now(), 1, 0, '', '', '', '')
ON CONFLICT (id) DO NOTHING
"""

# The process that asks holds the edit: the reply to its claim was lost. A process makes one attempt at a time. A worker
# of an earlier release counts the attempt up and leaves the holder as it is, so the attempt must match too.
_MINE = "(status = 'processing' AND holder = %(me)s::text || ':' || attempt)"
_NEXT = f"attempt + (NOT {_MINE})::int"
_CLAIM = f"""
UPDATE edit
   SET status = 'processing', attempt = {_NEXT}, holder = %(me)s::text || ':' || ({_NEXT}),
       started_at = COALESCE(started_at, now()), lease_expires_at = now() + make_interval(secs => %(lease)s)
 WHERE id = %(id)s
   AND ({_MINE}
        OR attempt - faults - forgiven < %(attempts_max)s
           AND (status IN ('accepted', 'queued')
                OR status = 'processing'
                   AND (COALESCE(lease_expires_at, '-infinity') < now() OR holder = %(gone)s::text || ':' || attempt)))
RETURNING attempt, attempt - faults, started_at, accepted_at
"""  # noqa: S608

_HOLDER = """
SELECT left(holder, -length(':' || attempt)) FROM edit
 WHERE id = %(id)s AND status = 'processing' AND right(holder, length(':' || attempt)) = ':' || attempt
"""

# If a renewal came late, the reconciler has queued the edit. Until the next attempt begins, this one still holds it.
_RENEW = """
UPDATE edit SET status = 'processing', lease_expires_at = now() + make_interval(secs => %(lease)s)
 WHERE id = %(id)s AND attempt = %(held)s AND status IN ('accepted', 'queued', 'processing')
"""

_POSTPONE = """
UPDATE edit
   SET status = 'accepted', dispatched_at = NULL, lease_expires_at = NULL, faults = faults + %(faults)s,
       retry_at = now() + make_interval(secs => 10 * 2 ^ LEAST(attempt, 5))
 WHERE id = %(id)s AND status = 'processing' AND attempt = %(held)s
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on an edit until its lease ends."""

    attempt: int  # 0: the claim is put off
    # Part of the names of files. Only an attempt that was postponed shares its number with a later attempt.
    number: int = 0
    started_at: datetime | None = None
    accepted_at: datetime | None = None
    began: float = field(default_factory=time.monotonic, compare=False)


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
        "output": json.dumps(message.output) if message.output else None,
        "image_url": message.image_url,
        "callback_url": message.callback_url,
        "accepted_at": message.accepted_at,
        "idempotency_key": idempotency_key,
        "request_digest": request_digest,
        "metadata": json.dumps(message.metadata) if message.metadata else None,
        "reference": reference_in(message.metadata),
    }
    prepared(_ACCEPT, values)


def accept_batch(batch: Batch, items: list[Edit], username: str) -> None:
    """Commit a batch with its items in one transaction, then publish the items in one round trip.

    Raises IntegrityError for a repeated idempotency key.
    """
    for item in items:
        item.status, item.dispatched_at, item.dispatches = Status.QUEUED, Now(), 1
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

    A message that is delivered again proves nothing about its former worker: a lost connection to the broker is enough.
    So a live lease is taken over only if its process has certainly ended.
    """
    values = {
        "id": edit_id,
        "me": holder.me(),
        "gone": "",
        "lease": settings.TASK_LEASE,
        "attempts_max": settings.TASK_ATTEMPTS_MAX,
    }
    row = prepared(_CLAIM, values).fetchone()
    if row is None and redelivered:
        held_by = prepared(_HOLDER, values).fetchone()
        if held_by and holder.gone(held_by[0]):
            row = prepared(_CLAIM, values | {"gone": held_by[0]}).fetchone()
    return Claim(*row) if row else None


@repeat_if_connection_lost
def renew(edit_id: str, claim: Claim) -> bool:
    """Extend the lease. False if the edit has ended, or a later attempt has begun."""
    values = {"id": edit_id, "held": claim.attempt, "lease": settings.TASK_LEASE}
    return prepared(_RENEW, values).rowcount == 1


# No later attempt has begun. A finished image is accepted even if the lease has expired.
_HELD = "attempt = %(held)s"


def succeed(message: EditMessage, claim: Claim, name: str, edited: Edited, reported: bool, again: bool = False) -> bool:
    """Record a stored result. False if this attempt no longer holds the edit; then nothing was changed.

    A try whose reply was lost may have committed. So if this is not the first try (``again`` says so, too), a row that
    has this result already is a success. The reconciler publishes its callback.

    The first delivery of a fresh message is in the cache only if its progress was ``reported``. For any other message,
    the cache can also hold a state from before a requeue. Attempt 0 was never claimed. It becomes the first attempt
    now, unless another worker's attempt did.
    """
    unclaimed = "attempt = 1, started_at = now() - make_interval(secs => %(seconds)s)"
    tries = int(again)

    @repeat_if_connection_lost
    def record() -> bool:
        nonlocal tries
        tries += 1
        done = _end(
            message,
            _HELD,
            {"held": claim.attempt, "seconds": time.monotonic() - claim.began},
            also="" if claim.attempt else unclaimed,
            cached=reported or claim.attempt > 1 or not message.fresh,
            status=Status.SUCCEEDED,
            result_name=name,
            result_type=edited.content_type,
            result_width=edited.width,
            result_height=edited.height,
            result_bytes=len(edited.data),
        )
        return done or (tries > 1 and _has_succeeded(message.task_id, name))

    return record()


def _has_succeeded(edit_id: str, result_name: str) -> bool:
    return Edit.objects.filter(pk=edit_id, status=Status.SUCCEEDED, result_name=result_name).exists()


@repeat_if_connection_lost
def fail(message: EditMessage, claim: Claim, code: str, detail: str) -> bool:
    """Record that the edit cannot be done. False if this attempt no longer holds the edit."""
    return _end(message, _HELD, {"held": claim.attempt}, status=Status.FAILED, error_code=code, error_detail=detail)


@repeat_if_connection_lost
def postpone(message: EditMessage, claim: Claim, fault: bool) -> bool:
    """Give the edit back. The reconciler publishes it again, each time after longer.

    After a ``fault`` of the platform, the attempt does not count. False if this attempt no longer holds the edit.
    """
    values = {"id": message.task_id, "held": claim.attempt, "faults": int(fault)}
    changed = prepared(_POSTPONE, values).rowcount == 1
    states.forget(message.task_id)
    return changed


def give_up(edit: Edit, why: str) -> bool:
    """Fail an edit that nobody works on. False if that changed since the row was read."""
    return _end(
        edit,
        "attempt = %(attempt)s AND faults = %(faults)s"
        " AND (status <> 'processing' OR COALESCE(lease_expires_at, '-infinity') < now())",
        {"attempt": edit.attempt, "faults": edit.faults},
        status=Status.FAILED,
        error_code="gave_up",
        error_detail=why,
    )


def cancel(edit: Edit) -> bool:
    """End an unfinished edit. Its worker stops when it renews the lease. False if the edit had ended."""
    done = _end(edit, "true", {}, status=Status.CANCELLED)
    if done:
        states.set_cancelled(edit.pk)
    return done


def _end(
    edit: Edit | EditMessage,
    guard: str,
    parameters: dict[str, Any],
    *,
    also: str = "",
    cached: bool = True,
    **values: Any,
) -> bool:
    """Move an unfinished edit into a final state. False if the guard does not hold; then nothing was changed.

    The callback's row and the batch's count are part of the same transaction. ``values`` are columns of the row,
    ``also`` sets more columns, in SQL, and ``parameters`` are those of ``guard`` and ``also``.
    """
    edit_id = str(edit.pk) if isinstance(edit, Edit) else edit.task_id
    # The names of the columns come from this module, never from a request.
    columns = [*(f"{name} = %({name})s" for name in values), *([also] if also else [])]
    statement = f"""
        UPDATE edit SET {", ".join(columns)}, finished_at = now(), lease_expires_at = NULL
         WHERE id = %(id)s AND status IN ('accepted', 'queued', 'processing') AND {guard}
    """  # noqa: S608

    def update() -> bool:
        return prepared(statement, values | parameters | {"id": edit_id}).rowcount == 1

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
            if edit.batch_id and (url := _count_down(edit.batch_id)):
                announced.append(callbacks.new(url, batch_id=edit.batch_id))
            Callback.objects.bulk_create(announced)
    if cached:
        states.forget(edit_id)
    publisher.publish_callbacks([(str(callback.pk), callback.tries) for callback in announced])
    return True


_COUNT_DOWN = """
UPDATE batch
   SET unfinished = unfinished - 1, finished_at = CASE WHEN unfinished = 1 THEN now() ELSE finished_at END
 WHERE id = %(id)s
RETURNING unfinished, callback_url
"""


def _count_down(batch_id: UUID | str) -> str:
    """Count an ended item. Returns the callback URL of the batch to the item that was the last one, else "".

    The row lock makes finishing items wait for each other, so exactly one of them sees zero.
    """
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_DOWN, {"id": str(batch_id)})
        unfinished, url = cursor.fetchone()
    return "" if unfinished else url


def forgive(edits: QuerySet[Edit], **values: Any) -> int:
    """Give edits all their attempts and their whole age again, and set these columns. Returns how many changed.

    The attempt number goes on, so that whoever held an edit before is fenced off and no name of a file is used again.
    """
    begun = F("attempt") + 1
    return edits.update(attempt=begun, forgiven=begun - F("faults"), requeued_at=Now(), lease_expires_at=None, **values)


def requeue(edit: Edit) -> bool:
    """Start a failed or cancelled edit again, with all its attempts. False if it is in another state."""
    with transaction.atomic():
        changed = forgive(
            Edit.objects.filter(pk=edit.pk, status__in=(Status.FAILED, Status.CANCELLED)),
            status=Status.ACCEPTED,
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
