"""The metrics of a baseline."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """One metric: its name in a record, its name for people, its unit, and whether more of it is better."""

    key: str
    title: str
    unit: str
    more_is_better: bool = False

    def text(self, value: float | None) -> str:
        """A value of this metric, for people."""
        if value is None:
            return "-"
        return f"{value * FACTORS.get(self.unit, 1):.4g} {self.unit}".strip()


# A record has seconds, bytes and ratios. People read other units.
FACTORS = {"%": 100, "MiB": 1 / 2**20}
PERCENTILES = (50, 95, 99)


def _percentiles(key: str, title: str) -> list[Metric]:
    return [Metric(f"{key}_p{q}", f"{title}, p{q}", "s") for q in PERCENTILES]


# Every comparison shows these four metrics, even if they were never measured.
BASELINES = [
    Metric("task_seconds_mean", "mean task time", "s"),
    Metric("success_ratio", "success rate", "%", more_is_better=True),
    Metric("redis_memory_bytes", "Redis memory", "MiB"),
    Metric("database_connections", "database connections", ""),
]
METRICS = [
    *BASELINES,
    *_percentiles("task_seconds", "task time"),
    *_percentiles("edit_seconds", "acceptance to end"),
    *_percentiles("api_seconds", "answer to a POST"),
]
