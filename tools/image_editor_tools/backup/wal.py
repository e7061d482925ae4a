"""Positions in PostgreSQL's write-ahead log (WAL), and whether a replay of the archive reached its end."""

from __future__ import annotations

import re
from collections.abc import Iterable

from image_editor_tools.errors import Failure

SEGMENT = 16 * 2**20  # bytes of a WAL file
RECEIVED = re.compile(r"([0-9A-F]{24})\.done")
SEGMENTS_PER_LOG = 2**32 // SEGMENT


def segment_of(position: str) -> int:
    """The number of the segment that holds the byte before a position such as ``0/3000060``."""
    high, low = (int(part, 16) for part in position.split("/"))
    return ((high << 32) + low - 1) // SEGMENT


def parse_name(name: str) -> tuple[int, int]:
    """Timeline and segment number of a WAL file."""
    return int(name[:8], 16), int(name[8:16], 16) * SEGMENTS_PER_LOG + int(name[16:24], 16)


def received(status: Iterable[str]) -> list[str]:
    """The complete WAL files of a former replica, newest first, from the names in its directory ``archive_status``."""
    return sorted((found[1] for name in status if (found := RECEIVED.fullmatch(name))), reverse=True)


def require_no_gap(history: str, last: str) -> None:
    """Fail if a replay ended before ``last``, the newest WAL file in the archive.

    Without a target, PostgreSQL ends a replay silently where a file is missing. ``history`` is the text of the timeline file that
    PostgreSQL wrote at the end of the replay; it names the position of the end.
    """
    entries = [line for line in history.strip().splitlines() if line.strip()]
    if not entries or not last:
        raise Failure("PostgreSQL did not say how far it replayed the archive")
    timeline, position, *_ = entries[-1].split()
    last_timeline, wanted = parse_name(last)
    if last_timeline <= int(timeline) and segment_of(position) < wanted:
        raise Failure(f"WAL is missing: replay ended at {position}, but the archive has {last}")
