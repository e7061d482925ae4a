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


def is_saved(info: Mapping[str, Any], before: int, name: str) -> bool:
    """Whether INFO says that a save has succeeded since the node had made ``before`` saves. Raises Refusal if it failed.

    Redis counts its saves. The time of the last save has whole seconds, so it cannot tell two saves of one second apart.
    """
    if info["rdb_bgsave_in_progress"]:
        return False
    if info["rdb_last_bgsave_status"] != "ok":
        raise Refusal(f"{name} could not save, nothing was changed: look at its disk and its journal")
    return info["rdb_saves"] > before


def save(node: Redis, name: str) -> None:
    """Have the node save its data, and wait until it has. Raises Refusal if it cannot."""
    (before,) = wait_for(lambda: begin(node, name), f"{name} is busy with another save", SECONDS, every=0.5)
    wait_for(
        lambda: is_saved(node.info("persistence"), before, name),
        f"{name} is still saving",
        SECONDS,
        retry=UNANSWERED,
    )


def begin(node: Redis, name: str) -> tuple[int] | None:
    """Begin a save; return how many saves the node had made before, or None while another child process is active."""
    saves = node.info("persistence")["rdb_saves"]
    try:
        node.bgsave(schedule=False)
    except ResponseError as error:
        if is_busy(str(error)):
            return None
        raise Refusal(f"{name} cannot save: {error}") from error
    return (saves,)
