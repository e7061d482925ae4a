"""Copies of the repositories, on the host that keeps them. Other hosts write to the repositories, and none reaches a copy."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_editor_tools.backup import metrics
from image_editor_tools.backup.guards import locked
from image_editor_tools.backup.host import Host
from image_editor_tools.errors import Failure
from image_editor_tools.shell import run

KEPT = 3
REPOSITORIES = ("pgbackrest", "store")
VANISHED = 24  # rsync's exit code if files were removed meanwhile, as a backup that expires


def make(host: Host) -> dict[str, Any]:
    """Copy the repositories, unless a kind of backup was not verified since the copy before. As root.

    So damaged backups never replace the copies of good ones. What has not changed since the copy before takes no more room.
    """
    directory = Path(host.repository) / "copies"
    with locked("copying"):
        before = found(directory)
        if unverified := waiting(host.kinds, before):
            return {"skipped": f"not copied: {', '.join(unverified)} was not verified since the copy before"}
        began, new = time.time(), directory / "new"
        if new.exists():  # a run was killed
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        same = [f"--link-dest={before[-1]}"] if before else []
        repositories = [Path(host.repository) / name for name in REPOSITORIES]
        try:
            run("rsync", "--archive", "--no-owner", "--no-group", *same, *repositories, new)
        except Failure as failure:
            if failure.code != VANISHED:
                raise
        copy = new.rename(directory / f"{datetime.fromtimestamp(began, UTC):%Y%m%dT%H%M%SZ}")
        for old in [*before, copy][:-KEPT]:
            shutil.rmtree(old)
    return {"copy": str(copy), "seconds": time.time() - began}


def found(directory: Path) -> list[Path]:
    """The copies, oldest first."""
    return sorted(directory.glob("*Z"))


def waiting(kinds: list[str], copies: list[Path]) -> list[str]:
    """The kinds that were not verified since the newest copy."""
    newest = datetime.strptime(copies[-1].name, "%Y%m%dT%H%M%S%z").timestamp() if copies else 0
    verified = metrics.by_kind()
    return [kind for kind in kinds if verified.get(kind, {}).get("verified_timestamp_seconds", 0) <= newest]
