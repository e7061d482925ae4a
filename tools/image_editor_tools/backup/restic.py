"""The store of Redis's dumps, images and logical dumps: one restic repository for each kind.

Hosts reach the store over mutual TLS: nginx knows them by their certificates, and `rclone serve restic` behind it lets them
add and read but remove nothing.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from image_editor_tools.backup.guards import require_room
from image_editor_tools.backup.host import CONFIGURATION, STATE, Host
from image_editor_tools.backup.moments import moment
from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.shell import run

NO_REPOSITORY = 10  # restic's exit code
KEPT_AT_LEAST = 3  # snapshots of each kind, however old

Snapshot = dict[str, Any]


def restic(host: Host, kind: str, *arguments: str | Path, local: str = "") -> str:
    """Run restic on a kind's repository. ``local``: directly on the store's host, without the store's service."""
    with tempfile.NamedTemporaryFile("w") as pair:  # restic wants certificate and key in one file
        pair.write(Path(host.certificate).read_text() + Path(host.private_key).read_text())
        pair.flush()
        environment = os.environ | {
            "RESTIC_REPOSITORY": local or f"rest:{host.store}/{kind}/",
            "RESTIC_PASSWORD_FILE": str(CONFIGURATION / f"{kind}.passphrase"),
            "RESTIC_CACHE_DIR": str(STATE / kind / "cache"),
        }
        own = (STATE / kind).exists() and (STATE / kind).stat().st_uid == os.geteuid()
        options = ["--cacert", host.ca, "--tls-client-cert", pair.name, "--retry-lock", "2m", *([] if own else ["--no-cache"])]
        try:
            return run("restic", *options, *arguments, env=environment)
        except Failure as failure:
            if "(500)" not in str(failure):
                raise
            raise Failure(
                f"the store cannot take it: look at its disk, then at its journal (image-editor-backup-store); {failure}",
                failure.code,
            ) from None


def answers(host: Host) -> bool:
    """Whether the store's host accepts connections. If it does not, restic would try again for a quarter of an hour."""
    store = urlsplit(host.store)
    try:
        socket.create_connection((store.hostname, store.port), timeout=5).close()
    except OSError:
        return False
    return True


def prepare(host: Host, kind: str) -> None:
    """Create the kind's repository if there is none."""
    try:
        restic(host, kind, "cat", "config", "--no-lock")
    except Failure as failure:
        if failure.code != NO_REPOSITORY:
            raise
        restic(host, kind, "init", "--quiet")


def expire(host: Host, kind: str) -> None:
    """Remove snapshots that are too old. Only on the store's own host, because the store's service refuses to remove anything.

    STORE comes from store.env, which the timer's service reads.
    """
    if (store := os.environ.get("STORE")) and snapshots(host, kind):
        keep = ["--group-by", "", "--keep-within", f"{host.keep_days}d", "--keep-last", str(KEPT_AT_LEAST)]
        restic(host, kind, "forget", "--quiet", *keep, "--prune", local=f"rclone:{store}/{kind}")


def parse_snapshots(text: str) -> list[Snapshot]:
    """The snapshots in the output of `restic snapshots --json`, oldest first."""
    return sorted(json.loads(text or "null") or [], key=lambda snapshot: snapshot["time"])


def snapshots(host: Host, kind: str) -> list[Snapshot]:
    """The kind's snapshots, oldest first; none if the repository has not been created yet."""
    try:
        return parse_snapshots(restic(host, kind, "snapshots", "--json", "--no-lock"))
    except Failure as failure:
        if failure.code != NO_REPOSITORY:
            raise
        return []


def choose(found: Sequence[Snapshot], kind: str, to: str) -> Snapshot:
    """The newest snapshot at or before a moment; of dumps the one with that name."""
    if kind == "dumps":
        found = [snapshot for snapshot in found if to in snapshot.get("tags", [])]
    elif to != "latest":
        at = moment(to)
        found = [snapshot for snapshot in found if at and datetime.fromisoformat(snapshot["time"]) <= at]
    if not found:
        raise Refusal(f"there is no backup of {kind} for {to}")
    return found[-1]


def tag(snapshot: Snapshot, name: str) -> str:
    """The value of a tag ``name=value``; empty if the snapshot does not have it."""
    return next((text.split("=", 1)[1] for text in snapshot.get("tags", []) if text.startswith(name + "=")), "")


def restored_files(lines: Iterable[str]) -> int:
    """How many files and directories came back, from the output of `restic restore --json`."""
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    summary = next((message for message in reversed(messages) if message.get("message_type") == "summary"), {})
    return summary.get("files_restored", 0) + summary.get("files_skipped", 0)


def fetch(host: Host, kind: str, to: str, into: Path) -> Snapshot:
    """Restore a snapshot below a directory, and have restic read it back and compare; return its description."""
    snapshot = choose(snapshots(host, kind), kind, to)
    files, size = snapshot["summary"]["total_files_processed"], snapshot["summary"]["total_bytes_processed"]
    require_room(into, size, f"{files} files of {kind}")
    output = restic(host, kind, "restore", snapshot["id"], "--target", into, "--verify", "--json")
    # restic counts directories too, so a complete restore never counts fewer than the files that were backed up.
    if (there := restored_files(output.splitlines())) < files:
        raise Failure(f"{there} of {files} files of {kind} came back")
    return snapshot
