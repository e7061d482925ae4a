"""Orphans: files without an edit or upload, which a crash between storing and recording leaves; and empty folders.

A folder of the store holds the files of one minute (image_editor.storage.names), so it is listed as a whole. Each
folder is swept when every request of its minute has certainly ended, and again when retention has removed its edits.
The cache remembers which minute is next. Folders of earlier releases are left alone.
"""

import logging
import time
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from image_editor import storage
from image_editor.models import Edit
from image_editor.pipeline.retention import ROUND_SECONDS
from image_editor.pipeline.rows import owners
from image_editor.pipeline.state_cache import client, states
from image_editor.storage import names

log = logging.getLogger(__name__)

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
# A request takes two minutes at most. And whoever restores the wrong backup of the database has a day to notice.
SAFE = DAY
BACK = timedelta(days=7)  # without a position, a sweep begins this long before the newest folder that is old enough


def sweep() -> int:
    """Sweep folders that are old enough, for ROUND_SECONDS. Returns how many orphans were removed.

    Raises StorageUnavailable. The next round goes on.
    """
    if Edit.objects.order_by("pk").first() is None:
        return 0  # an empty database is hardly the one that the files belong to
    end = time.monotonic() + ROUND_SECONDS
    removed = 0
    for number, age in enumerate(_ages()):
        newest = timezone.now() - age - MINUTE
        key = f"orphans:{number}"
        at = _position(key) or newest - BACK
        day, stored = None, False
        while at <= newest and time.monotonic() < end:
            if at.date() != day:
                day, stored = at.date(), _is_stored(at)
            if stored:
                removed += _sweep(at)
                at += MINUTE
            else:
                at = min(_midnight(at) + DAY, newest + MINUTE)
            states.attempt(lambda key=key, at=at: client.set(key, at.timestamp()), None)
    if removed:
        log.warning("orphans removed", extra={"files": removed})
    return removed


def _ages() -> list[timedelta]:
    """How old a folder is each time that it is swept. An edit that was requeued stays for a second retention."""
    after = settings.RETENTION_DAYS * DAY + DAY
    return [SAFE, SAFE + after, SAFE + 2 * after] if settings.RETENTION_DAYS else [SAFE]


def _position(key: str) -> datetime | None:
    found = states.attempt(lambda: client.get(key), None)
    return datetime.fromtimestamp(float(found), UTC) if found else None


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _is_stored(at: datetime) -> bool:
    """Whether a folder of this day exists. A young site has none for most of the days that it sweeps."""
    for top in names.TOPS:
        try:
            storage.entries(f"{top}/{names.day(at)}/")
        except storage.NotStored:
            continue
        return True
    return False


def _sweep(at: datetime) -> int:
    """Remove the orphans of a minute, and its folders if nothing is left. At the end of a day, also those of the day.

    Returns how many orphans.
    """
    at = at.replace(second=0, microsecond=0)
    removed = sum(_clear(f"{top}/{names.minute(at)}/", at, MINUTE) for top in names.TOPS)
    if (at + MINUTE).date() > at.date():
        for top in names.TOPS:
            _clear(f"{top}/{names.day(at)}/", _midnight(at), DAY)
    return removed


def _clear(folder: str, first: datetime, length: timedelta) -> int:
    """Remove what has no edit or upload, and the folder if nothing is left and no edit can still write to it."""
    try:
        found = [folder + entry for entry in storage.entries(folder)]
    except storage.NotStored:
        return 0
    owned = {name: owner for name in found if (owner := names.owner(name))}
    there = owners(owned.values())
    lost = [name for name, owner in owned.items() if owner not in there]
    storage.delete(*lost)
    if len(lost) == len(found) and not _accepted(first, first + length):
        storage.delete(folder)
    return len(lost)


def _accepted(first: datetime, end: datetime) -> bool:
    """Whether an edit was accepted in this time. Asks the index of each user."""
    edits = Edit.objects.filter(user=OuterRef("pk"), accepted_at__gte=first, accepted_at__lt=end)
    newest = Subquery(edits.order_by("-accepted_at").values("pk")[:1])
    return User.objects.alias(newest=newest).filter(newest__isnull=False).exists()
