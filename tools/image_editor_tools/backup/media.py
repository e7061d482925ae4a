"""Backups and restores of the images on the media host."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_editor_tools.backup import ownership, restic
from image_editor_tools.backup.guards import locked
from image_editor_tools.backup.host import Host
from image_editor_tools.backup.metrics import record_success
from image_editor_tools.errors import Failure

# The application knows a media host by this file. A host that is restored has another disk, so it must not get the file back.
IDENTITY = "identity"
PARTS_OF_THE_STORE = 7  # one of them is read back every day
DUTY = 90 * 60  # seconds that the host of the newest backup stays on duty; backups are made every hour
COMPLETE = 0.9  # share of the newest backup's images that a host needs in order to take the duty over


def elsewhere(host: Host) -> str:
    """Why this host has nothing to do: another media host is on duty. Empty if this host is.

    The host that made the newest backup is on duty until that backup is too old. Then the first host that notices takes over.
    """
    peers = [name for name in host.media_hosts if name != host.me]
    newest = (restic.snapshots(host, "media") or [{}])[-1] if peers else {}
    if newest.get("hostname") not in peers:
        return ""
    if time.time() - datetime.fromisoformat(newest["time"]).timestamp() < DUTY:
        return f"nothing to do: {newest['hostname']} backs the images up, not {host.me}"
    wanted = newest["summary"]["total_files_processed"]
    there = sum(path.is_file() for path in (Path(host.media) / "files").rglob("*"))
    if there < COMPLETE * wanted:
        return f"nothing to do: {host.me} has {there} of {wanted} images, and would hide the backup of {newest['hostname']}"
    return ""


def back_up(host: Host) -> dict[str, Any]:
    """Store the images that are new since the last backup. ``skipped``: another media host does."""
    began = time.time()
    with locked("media"):
        if reason := elsewhere(host):
            return {"skipped": reason}
        ownership.require_own(host, "media")
        restic.prepare(host, "media")
        files = Path(host.media) / "files"
        options = ("--quiet", "--one-file-system", "--host", host.me, "--exclude", files / IDENTITY)
        restic.restic(host, "media", "backup", *options, files)
        made = restic.snapshots(host, "media")[-1]["summary"]
        record_success("media", began, made["total_bytes_processed"])
    return {"files": made["total_files_processed"], "new": made["files_new"], "seconds": time.time() - began}


def restore(host: Host, to: str) -> dict[str, Any]:
    """Bring back images that are missing or damaged. Images that are newer than the backup stay. As root."""
    with locked("media"):
        snapshot = restic.fetch(host, "media", to, Path("/"))
    ownership.adopt_stored("media")
    summary = snapshot["summary"]
    return {"to": to, "snapshot": snapshot["short_id"], "reached": snapshot["time"], "files": summary["total_files_processed"]}


def verify(host: Host, work: Path) -> str:
    """Read a seventh of the store back, and restore the newest backup into a scratch directory if there is room for it."""
    part = f"{datetime.now(UTC).isoweekday()}/{PARTS_OF_THE_STORE}"
    restic.restic(host, "media", "check", "--quiet", "--read-data-subset", part)
    newest = restic.choose(restic.snapshots(host, "media"), "media", "latest")
    files, size = newest["summary"]["total_files_processed"], newest["summary"]["total_bytes_processed"]
    if shutil.disk_usage(work).free < 2 * size:
        return f"{newest['short_id']}: {files} files, complete; too large to be restored here, a seventh of the store was read"
    restic.fetch(host, "media", "latest", work)
    there = sum(path.is_file() for path in work.rglob("*"))
    if there != files:
        raise Failure(f"{there} of {files} files came back")
    return f"{files} files came back as they were"
