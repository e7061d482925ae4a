"""pgBackRest: the repository of the database's backups, and which of them a restore begins with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from image_editor_tools.backup.moments import moment
from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.shell import run
from image_editor_tools.waiting import wait_for

STANZA = "image-editor"
OK, UNREADABLE, NO_BACKUP = 0, 99, 2  # status codes of `pgbackrest info`
LOCKED = 50  # exit code: another process of pgBackRest holds a lock
LOCK_SECONDS = 60


class Locked(Failure):
    """Another process of pgBackRest holds the lock."""


@dataclass(frozen=True)
class Backup:
    """A backup that was marked, so that a restore of it can be compared with what was backed up."""

    label: str
    kind: str  # full or diff
    size: int  # bytes of the database
    stored: int  # bytes that the backup took
    stopped: float
    manifest: dict[str, Any]  # what database.mark recorded

    @property
    def at(self) -> datetime:
        """The moment of the mark."""
        return datetime.fromisoformat(self.manifest["at"])


def pgbackrest(*arguments: str) -> str:
    """Run pgBackRest on our stanza, as the user postgres."""
    return run("pgbackrest", f"--stanza={STANZA}", *arguments, user="postgres")


def with_archive(*arguments: str) -> None:
    """Run a command that takes our stanza's lock for archiving. The database holds the lock while it tries to send WAL."""

    def done() -> bool:
        try:
            pgbackrest(*arguments)
        except Failure as failure:
            if failure.code == LOCKED:
                raise Locked(str(failure)) from failure
            raise
        return True

    wait_for(done, "the lock of the repository is not free", LOCK_SECONDS, every=1, retry=(Locked,), error=Failure)


def parse_information(text: str) -> dict[str, Any]:
    """What `pgbackrest info --output=json` says of the stanza. Fails if the repository cannot be read."""
    (stanza,) = json.loads(text, strict=False)  # pgBackRest may quote bytes that it cannot decipher
    unreadable = [repo["status"]["message"].splitlines()[0] for repo in stanza["repo"] if repo["status"]["code"] == UNREADABLE]
    if unreadable:
        hint = "; was backup_passphrase changed?" if "FormatError" in unreadable[0] else ""
        raise Failure(f"pgbackrest: {unreadable[0].rstrip(':')}{hint}")
    return stanza


def information() -> dict[str, Any]:
    """What pgBackRest says of the stanza."""
    return parse_information(pgbackrest("info", "--output=json"))


def marked(stanza: dict[str, Any]) -> list[Backup]:
    """The stanza's complete backups that were marked, oldest first."""
    if stanza["status"]["code"] not in (OK, NO_BACKUP):
        raise Failure(f"pgbackrest: {stanza['status']['message']}")
    return [
        Backup(
            entry["label"],
            entry["type"],
            entry["info"]["size"],
            entry["info"]["repository"]["delta"],
            entry["timestamp"]["stop"],
            json.loads(entry["annotation"]["manifest"]),
        )
        for entry in stanza["backup"]
        if entry.get("annotation", {}).get("manifest") and not entry["error"]
    ]


def backups() -> list[Backup]:
    """The marked backups in the repository, oldest first."""
    return marked(information())


def database_of(stanza: dict[str, Any]) -> int | None:
    """The system identifier of the database whose backups the repository takes; None if there is no repository yet."""
    return stanza["db"][-1]["system-id"] if stanza["db"] else None


def last_segment(stanza: dict[str, Any]) -> str:
    """The newest WAL segment in the archive of the current database; empty if there is none."""
    current = stanza["db"][-1]["id"]
    return max((archive["max"] or "" for archive in stanza["archive"] if archive["database"]["id"] == current), default="")


def next_kind(made: Iterable[Backup], now: float, full_days: int) -> str:
    """full if the newest full backup is older than ``full_days``, otherwise diff: what has changed since."""
    newest = max((backup.stopped for backup in made if backup.kind == "full"), default=0)
    return "full" if newest < now - full_days * 86400 else "diff"


def choose(made: Sequence[Backup], to: str) -> Backup:
    """The backup to begin a restore with: the newest before the moment ``to``, or the one of that name."""
    if not made:
        raise Refusal("there is no backup")
    if to == "latest":
        return made[-1]
    if at := moment(to):
        earlier = [backup for backup in made if backup.at <= at]
        if not earlier:
            raise Refusal(f"{to} is before the oldest moment that can be reached, {made[0].at.isoformat()}")
        return earlier[-1]
    named = [backup for backup in made if backup.label == to]
    if not named:
        known = ", ".join(backup.label for backup in made)
        raise Refusal(f"there is no backup {to}: name one of {known}, a time with its zone, or latest")
    return named[0]
