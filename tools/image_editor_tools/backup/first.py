"""The first backup of a kind, on a host that never made one."""

from __future__ import annotations

from enum import StrEnum

from image_editor_tools.backup import media, metrics, ownership, postgresql, redis, restic, units
from image_editor_tools.backup.host import Host


class Result(StrEnum):
    """The outcome of the first backup."""

    MADE = "made"
    PRESENT = "present"  # this host, or another of its Redis set, has made backups before
    FOREIGN = "foreign"  # the store has backups of a host before this one
    NOTHING = "nothing"  # another host has the data


def make(host: Host, kind: str, adopt: bool = False) -> tuple[Result, list[str]]:
    """Make the first backup of a kind unless there is one. Return the result and the lines that describe it. As root."""
    reason = redis.elsewhere() if kind == "redis" else media.elsewhere(host) if kind == "media" else ""
    if reason:
        return Result.NOTHING, [reason]
    begun = ownership.adopt(host, kind) if adopt else False
    # A host that has backed up Redis or media owns the store. A database can be exchanged at any time.
    if kind == "postgresql" or not metrics.was_backed_up(kind):
        owner, created = ownership.claim(host, kind)
        begun = begun or created
        if owner is ownership.Owner.BEFORE:
            return Result.FOREIGN, [str(ownership.Foreign(kind))]
    wanted = kind == "postgresql" and postgresql.WANTED.exists()
    # A failover may have made this host the primary of a Redis set that another host has backed up.
    present = metrics.was_backed_up(kind) or (kind == "redis" and ownership.is_of_this_set(restic.snapshots(host, kind)))
    if present and not begun and not wanted:
        return Result.PRESENT, [f"{kind} has been backed up before: nothing was done"]
    return Result.MADE, units.run_now(kind)
