"""Two records, compared metric by metric."""

from __future__ import annotations

from typing import NamedTuple

from image_editor_tools.baseline.metrics import BASELINES, METRICS, Metric
from image_editor_tools.baseline.records import Record


class Row(NamedTuple):
    """One metric of both records: how much it changed, how much it may change, and the verdict."""

    metric: Metric
    before: float | None
    after: float | None
    allowed: float  # in the metric's own unit
    verdict: str  # better, same, worse, missing (measured before, not any more), none (never measured)

    @property
    def change(self) -> float | None:
        """The relative change; None without two values, or from zero."""
        return None if not self.before or self.after is None else self.after / self.before - 1


def judge(metric: Metric, before: float | None, after: float | None, tolerance: dict[str, float]) -> Row:
    """Compare one metric. The tolerance is ``percent`` of the value before, and at least ``least``."""
    allowed = max(abs(before or 0) * tolerance["percent"] / 100, tolerance["least"])
    if before is None or after is None:
        return Row(metric, before, after, allowed, "none" if before is None else "missing")
    gain = (after - before) * (1 if metric.more_is_better else -1)
    return Row(metric, before, after, allowed, "same" if abs(gain) <= allowed else "better" if gain > 0 else "worse")


def compare(before: Record, after: Record, tolerances: dict[str, dict[str, float]]) -> list[Row]:
    """Compare every metric that has a tolerance."""
    rows = [
        judge(metric, before["metrics"].get(metric.key), after["metrics"].get(metric.key), tolerances[metric.key])
        for metric in METRICS
        if metric.key in tolerances
    ]
    return [row for row in rows if row.verdict != "none" or row.metric in BASELINES]


def worse(rows: list[Row]) -> list[Row]:
    """The metrics that speak against the change: worse than allowed, or no longer measured."""
    return [row for row in rows if row.verdict in ("worse", "missing")]


def switched(before: Record, after: Record) -> str:
    """The feature switches that differ between two records."""
    pairs = [(name, before["switches"].get(name), value) for name, value in after["switches"].items()]
    return ", ".join(f"{name} {str(was).lower()} → {str(now).lower()}" for name, was, now in pairs if was != now) or "nothing"


def described(record: Record) -> str:
    """Which record this is, in one line."""
    edits = f"{record['edits']['accepted']} edits in {record['seconds']} s"
    if refused := record.get("refused", {}).get("count"):
        edits += f", {refused} more refused: {record['refused']['first']}"
    return f"{record['at']}  release {record['release'] or '?'}  {edits}"
