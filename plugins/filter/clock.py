"""A filter that compares a host's clock with the controller's. Role preflight uses it."""

from __future__ import annotations

from typing import Any


def clock_error(answer: str, now: float) -> int:
    """Return by how many seconds the host's clock is at least wrong: positive if it is ahead, negative if it is behind.

    ``answer``: the host's time when it was asked, and the controller's time before that. ``now``: the controller's time after
    that. All are seconds since 1970. The time that the question took is not counted as an error.

    >>> clock_error("1700000065 1700000000", 1700000003)
    62
    """
    host, before = (int(part) for part in answer.split())
    return max(host - int(now), 0) or min(host - before, 0)


class FilterModule:
    """What Ansible loads from this file."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by its name."""
        return {"clock_error": clock_error}
