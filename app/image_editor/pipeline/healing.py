"""Healing: makes the media hosts hold the same files again after one was away, was replaced or is new.

Whoever stores or removes a file records which hosts missed it (MediaGap). To close a gap, the row of the edit, or of
the upload for many edits, decides: if there is a row, the file is copied to the host; if there is none, the file is
removed from the host. So a file that was removed while a host was away never comes back, neither on that host nor from
it.

A host that is new, or has a new disk, lacks the file ``identity`` that this module writes. Such a host is compared with
the others, one minute's folders after the other, and what it lacks becomes gaps. Each minute is compared once more on
every host an hour later, which finds what nobody recorded, such as files that a power failure took.
"""

import hashlib
import logging
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from image_editor.models import Edit, MediaGap, MediaStore, Upload
from image_editor.pipeline.orphans import SAFE
from image_editor.pipeline.retention import ROUND_SECONDS
from image_editor.pipeline.rows import owners
from image_editor.storage import NotStored, StorageUnavailable, names
from image_editor.storage.webdav import Store, stores

log = logging.getLogger(__name__)

IDENTITY = "identity"
AT_ONCE = 20  # gaps in one transaction
GAPS_MAX = 1000  # gaps of a host that comparing adds up to, before they are closed
LAG = timedelta(hours=1)  # how old a minute is when it is compared again


class _Refused(StorageUnavailable):
    """The host took no file, as with a full disk."""


def heal() -> int:
    """Close gaps for ROUND_SECONDS, and look for more. Returns how many were closed."""
    hosts = stores()
    gone = list(MediaStore.objects.exclude(name__in=[host.name for host in hosts]).values_list("name", flat=True))
    if gone:  # nobody records what they miss, so they are compared if they return
        MediaStore.objects.filter(name__in=gone).delete()
        MediaGap.objects.filter(store__in=gone).delete()
    if len(hosts) < 2 or Edit.objects.order_by("pk").first() is None:
        return 0  # an empty database is hardly the one that the files belong to
    closed, end = 0, time.monotonic() + ROUND_SECONDS
    first = int(time.time()) % len(hosts)  # another host in most rounds, so that each has its turn
    for host in hosts[first:] + hosts[:first]:
        known, _ = MediaStore.objects.get_or_create(name=host.name)
        if not host.resting():
            closed += _heal(host, hosts, known, end)
    if closed:
        log.info("media hosts healed", extra={"files": closed})
    return closed


def _heal(host: Store, hosts: list[Store], known: MediaStore, end: float) -> int:
    """Heal one of the hosts until the end. Returns how many gaps were closed. The next round goes on."""
    closed, others = 0, [other for other in hosts if other is not host]
    try:
        _recognise(host, known)
        closed = _close_gaps(host, others, end)
        trusted = MediaStore.objects.filter(name__in=[other.name for other in others], complete=True).exists()
        if trusted or host is hosts[0]:  # without any complete host, the first one is believed
            _compare(host, others, known, trusted, end)
    except StorageUnavailable as error:
        log.warning("media host not healed", extra={"error": str(error)})
    return closed


def _recognise(host: Store, known: MediaStore) -> None:
    """Begin anew if the host has another disk than before. Raises StorageUnavailable."""
    try:
        found = host.get(IDENTITY).decode(errors="replace")
    except NotStored:
        found = ""
    if found != str(known.identity):
        known.identity, known.compared_to, known.complete = uuid.uuid4(), "", False
        known.save()
        host.put(IDENTITY, str(known.identity).encode())


# --- closing gaps


def _close_gaps(host: Store, others: list[Store], end: float) -> int:
    """Make the host agree with the rows, the oldest gaps first. Returns how many were closed."""
    closed, last, copying = 0, 0, True
    while time.monotonic() < end and not host.resting():
        with transaction.atomic():
            gaps = MediaGap.objects.select_for_update(skip_locked=True).filter(store=host.name, pk__gt=last)
            some = list(gaps.order_by("pk")[:AT_ONCE])
            if not some:
                break
            held = _hold({names.owner(gap.name) for gap in some})
            done = []
            for gap in some:
                if time.monotonic() > end or host.resting():
                    break
                last = gap.pk
                wanted = names.owner(gap.name) in held
                try:
                    if wanted and copying and not all(other.resting() for other in others):
                        _copy(gap.name, host, others)
                    elif not wanted and gap.final_at <= timezone.now():
                        host.delete([gap.name])
                    else:
                        continue
                except StorageUnavailable as error:
                    log.warning("gap not closed", extra={"error": str(error)})
                    copying = copying and not isinstance(error, _Refused)  # it still removes files
                else:
                    done.append(gap.pk)
            MediaGap.objects.filter(pk__in=done).delete()
        closed += len(done)
    return closed


def _hold(wanted: set[str]) -> set[str]:
    """The owners that have a row. Until the transaction ends, retention leaves the rows and their files alone."""
    ids = [uuid.UUID(owner) for owner in wanted if owner]
    edits = Edit.objects.raw("SELECT id FROM edit WHERE id = ANY(%s::uuid[]) FOR KEY SHARE", [ids])
    uploads = Upload.objects.raw("SELECT id FROM upload WHERE id = ANY(%s::uuid[]) FOR KEY SHARE", [ids])
    return {str(row.pk) for rows in (edits, uploads) for row in rows}


def _copy(name: str, host: Store, others: list[Store]) -> None:
    """Copy a file to the host, and read it back. Raises StorageUnavailable.

    Of several copies, the largest counts: a power failure leaves a copy that is too small, or empty. The host may have
    the file, too: it took the file, and its answer came too late.
    """
    if name.endswith("/"):
        return  # a restore of the database brought the row back
    awake = [other for other in others if not other.resting()]
    if not awake:
        raise StorageUnavailable(f"{name} for {host.name}: no other host answers")
    source = max(awake, key=lambda other: other.size(name)) if len(awake) > 1 else awake[0]
    try:
        data = source.get(name)
    except NotStored as error:
        # The gap stays until the edit is gone, or a host has the file again, such as one whose disk was not mounted.
        raise StorageUnavailable(f"{name} for {host.name}: no host that answers has it") from error
    if host.size(name) > len(data):
        _record(source, [(name, False)], removable=False)
        return
    checksum = hashlib.sha256(data).digest()
    try:
        host.put(name, data)
    except StorageUnavailable as error:
        raise _Refused(str(error)) from error
    if hashlib.sha256(host.get(name)).digest() != checksum:
        raise StorageUnavailable(f"{host.name} returned other bytes than it was given for {name}")


# --- looking for gaps


def _compare(host: Store, others: list[Store], known: MediaStore, trusted: bool, end: float) -> None:
    """Find what the host lacks, minute by minute; at first all minutes, then each one an hour later.

    If the host is new or returns, and one of the others is complete (``trusted``), an old file without an edit that no
    other host has was removed while the host was away. Raises StorageUnavailable if one of the hosts does not answer.
    """
    now = timezone.now()
    until = names.minute(now - LAG if known.complete else now)
    this_one = MediaStore.objects.filter(pk=known.pk, identity=known.identity)
    if known.compared_to >= until:
        return
    for minute in _minutes([host, *others], known.compared_to, until):
        if time.monotonic() > end or MediaGap.objects.filter(store=host.name)[:GAPS_MAX].count() == GAPS_MAX:
            return
        removable = trusted and not known.complete and minute < names.minute(now - SAFE)
        for top in names.TOPS:
            _record(host, _differences(host, others, f"{top}/{minute}/"), removable)
        this_one.update(compared_to=minute)
    this_one.update(complete=True, compared_to=names.minute(now - LAG))


def _minutes(hosts: Iterable[Store], after: str, until: str) -> Iterator[str]:
    """The minutes in which any host has files, in order. Folders of earlier releases are left out."""

    def folders(*parents: str) -> list[str]:
        listings = [host.listing(parent) or {} for host in hosts for parent in parents]
        return sorted({name.rstrip("/") for listing in listings for name in listing if name.endswith("/")})

    for day in folders(*[f"{top}/" for top in names.TOPS]):
        if re.fullmatch(r"\d{4}-\d\d-\d\d", day) and after[:10] <= day <= until[:10]:
            for minute in folders(*[f"{top}/{day}/" for top in names.TOPS]):
                if after < f"{day}/{minute}" <= until:
                    yield f"{day}/{minute}"


def _differences(host: Store, others: list[Store], folder: str) -> Iterator[tuple[str, bool]]:
    """The files of the folder that the host lacks, or has in part; and those that it alone has, with True."""
    here = host.listing(folder) or {}
    there = [other.listing(folder) or {} for other in others]
    for name in sorted(set(here).union(*there)):
        largest = max(listing.get(name, -1) for listing in there)
        if name.endswith("/"):
            yield from _differences(host, others, folder + name)
        elif here.get(name, -1) < largest:
            yield folder + name, False
        elif largest < 0:
            yield folder + name, True


def _record(host: Store, differences: Iterable[tuple[str, bool]], removable: bool) -> None:
    """Record gaps: files of edits that the host lacks and, if removable, files without an edit on this host alone."""
    found = {name: alone for name, alone in differences if names.owner(name)}
    there = owners({names.owner(name) for name in found})
    gaps = []
    for name, alone in found.items():
        owned = names.owner(name) in there
        if (removable and not owned) if alone else owned:
            gaps.append(MediaGap(store=host.name, name=name, final_at=timezone.now()))
    MediaGap.objects.bulk_create(gaps, ignore_conflicts=True)
