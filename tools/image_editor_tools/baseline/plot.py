"""The comparison of two records as an SVG image."""

from __future__ import annotations

import html

from image_editor_tools.baseline.comparison import Row, described, switched
from image_editor_tools.baseline.records import Record

COLOURS = {"better": "#2e7d32", "same": "#78909c", "worse": "#c62828", "missing": "#c62828", "none": "#cfd8dc"}
# Positions in pixels: where the titles end, where the centre of the bars is, half their width, and the height of a row.
TITLES, CENTRE, HALF, ROW = 180, 430, 150, 30
HEAD, TOP = 88, 76


def plot(before: Record, after: Record, rows: list[Row]) -> str:
    """One bar for each metric: to the right is better, over the grey band of what is allowed. A bar ends at 100 %."""
    height = HEAD + ROW * len(rows)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="860" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20">before: {html.escape(described(before))}</text>',
        f'<text x="10" y="38">after: {html.escape(described(after))}</text>',
        f'<text x="10" y="56">switched: {html.escape(switched(before, after))}</text>',
        f'<g fill="#607d8b"><text x="{CENTRE - HALF}" y="72">worse</text>'
        f'<text x="{CENTRE + HALF}" y="72" text-anchor="end">better</text>'
        f'<text x="{CENTRE + HALF + 15}" y="72">grey: allowed change</text></g>',
    ]
    bars = [line for number, row in enumerate(rows) for line in _bar(row, TOP + ROW * number)]
    axis = f'<line x1="{CENTRE}" y1="70" x2="{CENTRE}" y2="{height - 12}" stroke="#37474f"/></svg>'
    return "\n".join([*head, *bars, axis]) + "\n"


def _bar(row: Row, y: int) -> list[str]:
    """Title, band, bar and values of one metric."""
    band = min(row.allowed / row.before, 1) * HALF if row.before else HALF
    gain = (row.change or 0) * (1 if row.metric.more_is_better else -1)
    width = min(abs(gain), 1) * HALF
    values = f"{row.metric.text(row.before)} → {row.metric.text(row.after)} ({row.verdict})"
    return [
        f'<text x="{TITLES - 10}" y="{y + 14}" text-anchor="end">{html.escape(row.metric.title)}</text>',
        f'<rect x="{CENTRE - band:.1f}" y="{y}" width="{2 * band:.1f}" height="20" fill="#eceff1"/>',
        f'<rect x="{CENTRE if gain >= 0 else CENTRE - width:.1f}" y="{y + 4}" width="{max(width, 1):.1f}" height="12"'
        f' fill="{COLOURS[row.verdict]}"/>',
        f'<text x="{CENTRE + HALF + 15}" y="{y + 14}">{values}</text>',
    ]
