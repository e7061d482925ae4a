"""Retention: removes edits that ended long ago, with their files, callbacks and batches; and expired sessions.

Rows go first, and note the names of their files. The files are removed within seconds, or once the media store is back:
however slow the store is, it holds no row. An owner can have an edit, a batch or an upload removed before its time in
the same way. An upload for many edits is removed when no edit has used it for so long that the last of them has ended
and is old.

Edits have no index by the time of their end, because every index costs every edit. The edits of each user are read in
the order of their acceptance instead. The cache remembers how far, because the index keeps entries of removed rows
until the next vacuum. A position ends after an hour: then edits that had to stay are read again.
"""

import json
import logging
import time
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from image_editor import storage
from image_editor.models import Batch, Callback, Edit, RemovedFile, RevokedToken, Upload
from image_editor.pipeline import transitions
from image_editor.pipeline.state_cache import client, states
from image_editor.storage import names
from image_editor.webhooks import callbacks

log = logging.getLogger(__name__)

# A round is short: the processes that take the maintenance queue also send callbacks.
ROUND_SECONDS = 2
ROUND_MAX = 2000  # edits
AT_ONCE = 100  # edits in one transaction
FILES_AT_ONCE = 5  # each takes up to 10 s, and PostgreSQL ends a transaction that has been idle for 60 s
UPLOAD_LONGER = timedelta(seconds=settings.TASK_MAX_AGE)  # an edit can end so long after it was accepted
REVOKED_KEPT = timedelta(days=400)  # ensure_user refuses a revoked token for so long
POSITIONS = "retention:positions"  # JSON: the id of a user, and the acceptance of the last edit that was removed
POSITIONS_TTL = 3600  # seconds

# A batch and its items stay until all of them are old. What has a pending callback stays until the callback has ended.
_OLD = """
SELECT old.*
  FROM auth_user
  LEFT JOIN jsonb_each_text(%(positions)s) AS position (user_id, accepted_at) ON position.user_id = auth_user.id::text
 CROSS JOIN LATERAL (
       SELECT * FROM edit
        WHERE edit.user_id = auth_user.id
          AND edit.accepted_at >= COALESCE(position.accepted_at::timestamptz, '-infinity')
          AND edit.accepted_at < now() - %(age)s
          AND status IN ('succeeded', 'failed', 'cancelled') AND finished_at < now() - %(age)s
          AND NOT EXISTS (SELECT FROM callback WHERE edit_id = edit.id AND state = 'pending')
          AND (batch_id IS NULL OR EXISTS (
              SELECT FROM batch WHERE batch.id = edit.batch_id AND unfinished = 0 AND finished_at < now() - %(age)s
                 AND NOT EXISTS (SELECT FROM callback WHERE callback.batch_id = batch.id AND state = 'pending')))
        ORDER BY edit.accepted_at, edit.id
        LIMIT %(at_once)s
          FOR UPDATE OF edit SKIP LOCKED) AS old
 LIMIT %(at_once)s
"""


def purge(days: float) -> int:
    """Remove all edits that ended more than ``days`` days ago, and all files without rows. Returns how many edits.

    Raises StorageUnavailable. The next call removes the other files.
    """
    states.attempt(lambda: client.delete(POSITIONS), None)
    purged = 0
    while removed := purge_round(days):
        purged += removed
    while remove_files():
        pass
    return purged


def purge_round(days: float) -> int:
    """Remove such edits for ROUND_SECONDS, without their files. Returns how many."""
    positions = states.attempt(lambda: json.loads(client.get(POSITIONS) or "null"), None)
    if positions is None:  # once an hour
        positions = {}
        states.attempt(lambda: client.set(POSITIONS, "{}", ex=POSITIONS_TTL), None)
        callbacks.purge(days)
        Session.objects.filter(expire_date__lt=Now()).delete()
        RevokedToken.objects.filter(revoked_at__lt=Now() - REVOKED_KEPT).delete()
    purged, end = 0, time.monotonic() + ROUND_SECONDS
    while purged < ROUND_MAX and time.monotonic() < end and (removed := _purge_some(days, positions)):
        purged += removed
        # Not if the hour has ended meanwhile: the positions would stay for ever.
        states.attempt(lambda: client.set(POSITIONS, json.dumps(positions), xx=True, keepttl=True), None)
    while time.monotonic() < end and _purge_uploads(days):
        pass
    if purged:
        log.info("purged", extra={"edits": purged, "days": days})
    return purged


def _purge_some(days: float, positions: dict[str, str]) -> int:
    """Remove up to AT_ONCE edits, and advance the positions. Returns how many.

    The rows are locked. So a requeue has happened before, and the edit stays, or it comes later, and finds no row.
    """
    old = {"age": timedelta(days=days), "at_once": AT_ONCE, "positions": json.dumps(positions)}
    with transaction.atomic():
        edits = _without_pending_callback(list(Edit.objects.raw(_OLD, old)))
        if not edits:
            return 0
        _give_up(name for edit in edits for name in _names(edit))
        _delete(edits)
    states.forget_final([edit.pk for edit in edits])
    positions |= {str(edit.user_id): edit.accepted_at.isoformat() for edit in edits}
    return len(edits)


def _purge_uploads(days: float) -> int:
    """Remove up to AT_ONCE uploads that no edit has used for long enough. Returns how many."""
    unused = Upload.objects.filter(used_at__lt=Now() - (timedelta(days=days) + UPLOAD_LONGER))
    with transaction.atomic():
        uploads = list(unused.order_by("used_at").select_for_update(skip_locked=True)[:AT_ONCE])
        if not uploads:
            return 0
        _give_up(upload.name for upload in uploads)
        Upload.objects.filter(pk__in=[upload.pk for upload in uploads]).delete()
    return len(uploads)


def remove_edit(edit: Edit) -> None:
    """Remove an edit before its time, in any state and also if a callback is pending."""
    transitions.cancel(edit)  # an item counts as finished in its batch
    _remove(Edit.objects.filter(pk=edit.pk))


def remove_batch(batch: Batch) -> None:
    """Remove a batch with all items before its time, in any state and also if a callback is pending."""
    _remove(batch.items.all())


def remove_upload(upload: Upload) -> None:
    """Remove an upload before its time."""
    with transaction.atomic():
        _give_up(row.name for row in Upload.objects.filter(pk=upload.pk).select_for_update())
        Upload.objects.filter(pk=upload.pk).delete()


def _remove(edits: QuerySet[Edit]) -> None:
    """Remove edits. No media host is asked meanwhile: it may be slow, and the rows are locked.

    A worker that edits one of them stops, and removes what it has stored meanwhile (Attempt in attempts.py).
    """
    with transaction.atomic():
        removed = list(edits.order_by("pk").select_for_update())
        _give_up(name for edit in removed for name in _names(edit))
        _delete(removed)
    states.set_gone([edit.pk for edit in removed])


def _give_up(files: Iterable[str]) -> None:
    """Let `remove_files` remove files, once the transaction that removes their rows is committed."""
    RemovedFile.objects.bulk_create([RemovedFile(name=name) for name in files])


def remove_files() -> int:
    """Remove the files whose rows are gone, for ROUND_SECONDS. Returns how many names.

    Raises StorageUnavailable. The next round goes on.
    """
    removed, end = 0, time.monotonic() + ROUND_SECONDS
    while time.monotonic() < end and (some := _remove_some_files()):
        removed += some
    return removed


def _remove_some_files() -> int:
    """Remove FILES_AT_ONCE files. Returns how many. 0 also if Redis may still show their edits: they stay noted."""
    with transaction.atomic():
        files = list(RemovedFile.objects.order_by("pk").select_for_update(skip_locked=True)[:FILES_AT_ONCE])
        storage.delete(*[file.name for file in files])
        if not states.set_gone({names.owner(file.name) for file in files} - {""}):
            return 0
        RemovedFile.objects.filter(pk__in=[file.pk for file in files]).delete()
    return len(files)


def _delete(edits: list[Edit]) -> None:
    """Remove rows of edits, which are locked, with their callbacks, and batches that have no other item."""
    batches = Batch.objects.filter(pk__in={edit.batch_id for edit in edits if edit.batch_id})
    # Locked, so that of two who remove the last two items one sees that none is left.
    list(batches.order_by("pk").select_for_update())
    Edit.objects.filter(pk__in=[edit.pk for edit in edits]).delete()
    batches.filter(items=None).delete()


def _without_pending_callback(edits: list[Edit]) -> list[Edit]:
    """Lock the callbacks of the edits and of their batches, and leave out what is being delivered again meanwhile."""
    about = Q(edit__in=edits) | Q(batch__in={edit.batch_id for edit in edits if edit.batch_id})
    locked = Callback.objects.filter(about).select_for_update(of=("self",))
    pending = [callback for callback in locked if callback.state == Callback.State.PENDING]
    held = {callback.edit_id or callback.batch_id for callback in pending}
    return [edit for edit in edits if held.isdisjoint({edit.pk, edit.batch_id})]


def _names(edit: Edit) -> list[str]:
    """The upload, unless it serves other edits too, and the folders of the results of every attempt."""
    folder = names.results(edit.pk, edit.accepted_at)
    found = [folder]
    if edit.attempt > 1 or not edit.result_name.startswith(folder):
        found.append(f"results/{edit.pk}/")  # of a worker of an earlier release
    upload = edit.image_url.removeprefix("media:")
    if upload != edit.image_url and names.owner(upload) in ("", str(edit.pk)):
        found.append(upload)
    return found
