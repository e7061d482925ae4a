"""A dump of the data on a node's disk, confirmed by Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from image_editor_tools.errors import Refusal
from image_editor_tools.redis.connection import UNANSWERED
from image_editor_tools.waiting import wait_for

SECONDS = 600  # for another save to end, and again for this save
# Redis refuses BGSAVE while it has a child process: another save, or a rewrite of the append-only file.
BUSY = ("already in progress", "child process is active")


def is_busy(message: str) -> bool:
    """Whether BGSAVE was refused only because a child process is active."""
    return any(text in message for text in BUSY)


def is_saved(info: Mapping[str, Any], before: Mapping[str, Any], name: str) -> bool:
    """Whether the save has ended that began after ``before``. Both are INFO. Raises Refusal if it ended without success.

    ``rdb_saves`` counts the saves that began. ``rdb_last_save_time`` is the second in which the last save succeeded. A restart
    of the node sets the count to zero and the time to its start, and a save that Redis stops itself leaves the status "ok", so
    neither value is enough alone.
    """
    if info["rdb_bgsave_in_progress"]:
        return False
    if info["rdb_last_bgsave_status"] != "ok":
        raise Refusal(f"{name} could not save, nothing was changed: look at its disk and its journal")
    if info["rdb_saves"] <= before["rdb_saves"] or info["rdb_last_save_time"] == before["rdb_last_save_time"]:
        raise Refusal(f"{name} did not end its save, nothing was changed: it restarted or copies another primary; try again")
    return True


def save(node: Redis, name: str) -> None:
    """Have the node save its data, and wait until it has. Raises Refusal if it cannot."""
    before = wait_for(lambda: begin(node, name), f"{name} is busy with another save", SECONDS, every=0.5)
    wait_for(
        lambda: is_saved(node.info("persistence"), before, name),
        f"{name} is still saving",
        SECONDS,
        retry=UNANSWERED,
    )


def begin(node: Redis, name: str) -> Mapping[str, Any] | None:
    """Begin a save; return INFO from before it, or None if the node cannot begin a save yet.

    BGSAVE SCHEDULE would not spare the waiting: during another save Redis refuses it too, and a scheduled save begins at an
    unknown time, so INFO from before it is not known.
    """
    before = node.info("persistence")
    if before["rdb_last_save_time"] == node.time()[0]:
        return None  # a save that ends within this second would have the same time as the save before it
    try:
        node.bgsave(schedule=False)
    except ResponseError as error:
        if is_busy(str(error)):
            return None
        raise Refusal(f"{name} cannot save: {error}") from error
    return before
