"""Checks before a run begins: no other run of the kind is active, and the disk has room."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from image_editor_tools.backup.host import STATE
from image_editor_tools.errors import Refusal

SPARE = 64 * 2**20  # bytes that stay free


@contextlib.contextmanager
def locked(kind: str) -> Iterator[None]:
    """Hold the lock of a kind. Refuses if another run holds it."""
    directory = STATE / kind
    with (directory / "lock").open("a") as lock:
        if os.geteuid() == 0:  # the lock file must stay usable for the user of the timer's service
            os.fchown(lock.fileno(), directory.stat().st_uid, directory.stat().st_gid)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(
                f"another run for {kind} is under way on this host: nothing was done, wait until it has ended"
            ) from None
        yield


def require_room(directory: Path, needed: int, purpose: str) -> None:
    """Refuse if ``needed`` bytes would fill the disk."""
    free = shutil.disk_usage(directory).free
    if free < needed + SPARE:
        raise Refusal(
            f"{directory} has {free >> 20} MiB free, {purpose} may need {needed >> 20} MiB and {SPARE >> 20} MiB to spare: "
            f"nothing was done, make room"
        )
