"""Retention: removes edits that ended long ago, with their images and callbacks, and expired sessions."""

import logging
from datetime import timedelta

from django.contrib.sessions.models import Session
from django.db.models.functions import Now

from image_editor import storage
from image_editor.imaging import inspection
from image_editor.models import FINAL, Batch, Edit
from image_editor.pipeline.state_cache import states
from image_editor.webhooks import callbacks

log = logging.getLogger(__name__)

AT_ONCE = 200


def purge(days: float, at_most: int = 100_000) -> int:
    """Remove edits that ended more than ``days`` days ago. Returns how many.

    Images are removed before their row, so that no image is left behind.

    Raises StorageUnavailable if the media store is down; the next call removes the rest.
    """
    old = Edit.objects.filter(status__in=FINAL, finished_at__lt=Now() - timedelta(days=days)).order_by("finished_at")
    purged = 0
    while purged < at_most and (edits := list(old[:AT_ONCE])):
        for edit in edits:
            for name in _names(edit):
                storage.delete(name)
            states.forget(edit.pk)
        old.filter(pk__in=[edit.pk for edit in edits]).delete()  # not one that was requeued meanwhile
        purged += len(edits)
    Batch.objects.filter(unfinished=0, items=None).delete()
    callbacks.purge(days)
    Session.objects.filter(expire_date__lt=Now()).delete()
    if purged:
        log.info("purged", extra={"edits": purged, "days": days})
    return purged


def _names(edit: Edit) -> list[str]:
    """The names of all files that the edit can have left, also those of attempts that were overtaken."""
    names = {edit.result_name} if edit.result_name else set()
    uploaded = edit.image_url.startswith("media:")
    # The first attempt has the number 0 for an upload, else 1. If the result is its own, it left no other file.
    only = edit.result_name.startswith(f"results/{edit.pk}/{0 if uploaded else 1}.")
    if edit.attempt > 1 or not only:
        for number in range(edit.attempt - edit.faults + 1):
            names |= {f"results/{edit.pk}/{number}.{extension}" for extension in inspection.EXTENSIONS.values()}
    if uploaded:
        names.add(edit.image_url.removeprefix("media:"))
    return sorted(names)
