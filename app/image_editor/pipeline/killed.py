"""Edits whose pool process was killed. Such an edit is not tried as often as others, because it probably kills again.

Only the worker's main process sees how a child ended (``tasks.EditRequest``). SIGKILL comes from the kernel, when the
memory of the unit or of the host is used up. An operator can send it too, so nothing is concluded from one kill. A
child that exceeds the hard time limit is not counted: Celery reports it in another way.

The counts are in the cache, for a day. Without the cache, such an edit uses up all its attempts and fails with
``gave_up``.
"""

from image_editor.pipeline import state_cache
from image_editor.pipeline.state_cache import states

MAX = 2
DETAIL = (
    f"the process that edited this image was killed {MAX} times, most likely because it used too much memory: "
    f"send a smaller image, or ask for less"
)
TTL = 24 * 3600  # seconds


def _key(edit_id: str) -> str:
    return f"edit:killed:{edit_id}"


def count(edit_id: str) -> None:
    """Count a kill."""

    def increment() -> None:
        with state_cache.client.pipeline() as pipe:
            pipe.incr(_key(edit_id)).expire(_key(edit_id), TTL).execute()

    states.attempt(increment, None)


def times(edit_id: str) -> int:
    """How often a process was killed while it edited this image."""
    return states.attempt(lambda: int(state_cache.client.get(_key(edit_id)) or 0), 0)


def forget(edit_id: str) -> None:
    """Start counting again, because an operator requeued the edit."""
    states.attempt(lambda: state_cache.client.delete(_key(edit_id)) and None, None)
