"""Times as operators write them, and ages as they read them."""

from __future__ import annotations

from datetime import UTC, datetime

from image_editor_tools.errors import Refusal

SHORTEST = len("2026-01-01T00:00")  # a shorter text is the name of a backup


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """The time that ``text`` names, or None if it is the name of a backup. Refuses a time without a zone or in the future."""
    try:
        named = datetime.fromisoformat(text)
    except ValueError:
        return None
    if len(text) < SHORTEST:
        return None
    if named.tzinfo is None:
        raise Refusal(f"{text} has no time zone: write {text}+00:00 for UTC")
    if named > (now or datetime.now(UTC)):
        raise Refusal(f"{text} is in the future")
    return named


def age(seconds: float) -> str:
    """A duration as text, in the largest unit in which it is at least 2."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
