"""The comparison of two records as text."""

from __future__ import annotations

from image_editor_tools.baseline.comparison import Row, described, switched, worse
from image_editor_tools.baseline.records import Record


def table(before: Record, after: Record, rows: list[Row]) -> list[str]:
    """The comparison as lines of text. The last line is the verdict."""
    lines = [f"before    {described(before)}", f"after     {described(after)}", f"switched  {switched(before, after)}", ""]
    lines.append(f"{'metric':24} {'before':>12} {'after':>12} {'change':>9} {'allowed':>12}  verdict")
    for row in rows:
        change = f"{row.change:+.1%}" if row.change is not None else "-"
        sides = f"{row.metric.text(row.before):>12} {row.metric.text(row.after):>12}"
        lines.append(f"{row.metric.title:24} {sides} {change:>9} {row.metric.text(row.allowed):>12}  {row.verdict}")
    return [*lines, "", verdict(rows)]


def verdict(rows: list[Row]) -> str:
    """The verdict in one line."""
    names = ", ".join(row.metric.title for row in worse(rows))
    return f"baseline: worse: {names}" if names else "baseline: ok, nothing is worse than it may be"
