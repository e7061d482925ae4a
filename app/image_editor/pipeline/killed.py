"""Edits whose pool process was killed. Such an edit is not tried as often as others, because it probably kills again.

Only the worker's main process sees how a child ended (``tasks.EditRequest``). It kills a child that has reached the
hard time limit: no soft limit interrupts libvips. Any other SIGKILL comes from the kernel, when the memory of the unit
or of the host is used up. An operator can send it too, and a host can stand still for as long as the limit, so nothing
is concluded from one kill.

The counts are in the cache, for a day. Without the cache, such an edit uses up all its attempts and fails with
``gave_up``.
"""

from typing import Literal

from image_editor.pipeline import state_cache
from image_editor.pipeline.state_cache import states

MAX = 2
DETAIL = (
    f"the process that edited this image was killed {MAX} times, most likely because it used too much memory: "
    f"send a smaller image, or ask for less"
)
TTL = 24 * 3600  # seconds

Cause = Literal["memory", "time"]


def _key(edit_id: str) -> str:
    return f"edit:kills:{edit_id}"


def count(edit_id: str, cause: Cause) -> None:
    """Count a kill."""

    def increment() -> None:
        with state_cache.client.pipeline() as pipe:
            pipe.hincrby(_key(edit_id), cause, 1).expire(_key(edit_id), TTL).execute()

    states.attempt(increment, None)


def times(edit_id: str) -> dict[Cause, int]:
    """How often a process was killed while it edited this image."""
    counts = states.attempt(lambda: state_cache.client.hgetall(_key(edit_id)), {})
    return {"memory": int(counts.get(b"memory", 0)), "time": int(counts.get(b"time", 0))}


def too_often(edit_id: str) -> Cause | None:
    """Why processes were killed so often that the edit ends without another try. None if it may be tried again."""
    causes: tuple[Cause, ...] = ("time", "memory")
    counts = times(edit_id)
    return next((cause for cause in causes if counts[cause] >= MAX), None)


def forget(edit_id: str) -> None:
    """Start counting again, because an operator requeued the edit."""
    states.attempt(lambda: state_cache.client.delete(_key(edit_id)) and None, None)
