"""Whose backups the store has: this host's, or those of a host before it.

A new host has nothing that is worth a backup. A backup of it would be the newest, and a restore begins with the newest. So a new
host makes no backup of a kind as long as the store has backups of that kind from a host before it. A restore, or ``adopt``, makes
the stored backups this host's own.

The database has an identifier, which the repository remembers. For Redis and media this host remembers the answer in a file.
A Redis set has an identifier, too: its replication ID. Each backup carries it, so that another host of the set, which a failover
has made primary, knows the backups as its own.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from image_editor_tools.backup import restic
from image_editor_tools.backup.database import system_identifier
from image_editor_tools.backup.host import STATE, Host
from image_editor_tools.backup.pgbackrest import database_of, information, with_archive
from image_editor_tools.errors import Refusal
from image_editor_tools.shell import run


class Owner(StrEnum):
    """Whose backups of a kind the store has."""

    NOBODY = "nobody"  # there are none
    HERE = "here"  # this host's
    BEFORE = "before"  # those of a host before this one


class Foreign(Refusal):
    """The newest backup in the store is from a host before this one."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"the store has backups of {kind} from a host before this one, and a newer one would hide them: nothing was done. "
            "Bring them back with playbooks/restore.yml (docs/restore.md), or begin anew beside them: "
            f"image-editor-backup adopt {kind}"
        )


def database_owner(stored: int | None, live: int) -> Owner:
    """Whose backups of the database the repository has, from the two identifiers."""
    if stored is None:
        return Owner.NOBODY
    return Owner.HERE if stored == live else Owner.BEFORE


def owner(host: Host, kind: str) -> Owner:
    """Whose backups of a kind the store has."""
    if kind == "postgresql":
        return database_owner(database_of(information()), system_identifier(host.conninfo))
    remembered = _source(kind)
    if remembered.exists():
        return Owner(remembered.read_text())
    stored = restic.snapshots(host, kind)
    if not stored:
        return Owner.NOBODY
    return Owner.HERE if kind == "redis" and is_of_this_set(stored) else Owner.BEFORE


def is_of_this_set(stored: list[restic.Snapshot]) -> bool:
    """Whether the newest backup of Redis is of the set of this host's node, whichever host made it."""
    return bool(stored) and restic.tag(stored[-1], "set") in replication_ids()


def parse_replication_ids(info: str) -> list[str]:
    """The replication ID of a node, from `INFO replication`, and the ID it had before the last failover.

    A replica that becomes primary takes a new ID and keeps the former primary's as its second. Without one, Redis reports zeros.
    """
    found = re.findall(r"^master_replid2?:(\w+)", info, re.MULTILINE)
    return [replication_id for replication_id in found if replication_id.strip("0")]


def replication_ids() -> list[str]:
    """The replication IDs of this host's Redis node: the current one first."""
    return parse_replication_ids(run("image-editor-redis-cli", "INFO", "replication"))


def claim(host: Host, kind: str) -> tuple[Owner, bool]:
    """Find out whose backups of a kind the store has, and remember it; take a store that is empty.

    Returns the owner, and whether a repository was created.
    """
    found = owner(host, kind)
    if kind == "postgresql":
        if found is Owner.NOBODY:
            with_archive("stanza-create")
            return Owner.HERE, True
        return found, False
    found = Owner.HERE if found is Owner.NOBODY else found
    _remember(kind, found)
    return found, False


def adopt(host: Host, kind: str) -> bool:
    """Back this host up beside the backups of a host before it. Return whether that changed anything."""
    found = owner(host, kind)
    if kind != "postgresql":
        adopt_stored(kind)
    elif found is Owner.BEFORE:
        with_archive("stanza-upgrade")
    return found is Owner.BEFORE


def adopt_stored(kind: str) -> None:
    """Remember that the store's backups of Redis or media are this host's own."""
    _remember(kind, Owner.HERE)


def require_own(host: Host, kind: str) -> None:
    """Refuse a backup that would hide those of a host before this one."""
    if kind == "postgresql":
        foreign = owner(host, kind) is Owner.BEFORE
    else:
        foreign = _source(kind).exists() and _source(kind).read_text() == Owner.BEFORE
    if foreign:
        raise Foreign(kind)


def _source(kind: str) -> Path:
    return STATE / kind / "source"


def _remember(kind: str, found: Owner) -> None:
    path = _source(kind)
    path.write_text(found)
    path.chmod(0o644)
