"""Records: everything that one baseline measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image_editor_tools.baseline.metrics import METRICS, PERCENTILES

Record = dict[str, Any]


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99, interpolated; None if there are no values."""
    if len(values) < 2:
        return {f"p{q}": values[0] if values else None for q in PERCENTILES}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {f"p{q}": cuts[q - 1] for q in PERCENTILES}


def record(raw: dict[str, Any]) -> Record:
    """One record of what the hosts, the table of edits and the client reported. ``raw`` has a part from each."""
    edits = raw["edits"]
    memory = [value for part in raw["samples"] for value in part.get("redis_memory", [])]
    connections = [value for part in raw["samples"] for value in part.get("connections", [])]
    # An edit that the API refused has not succeeded either.
    ended = edits["succeeded"] + edits["failed"] + edits["unfinished"] + raw["load"]["refused"]
    metrics = {
        "success_ratio": edits["succeeded"] / ended if ended else None,
        "redis_memory_bytes": statistics.fmean(memory) if memory else None,
        "database_connections": statistics.fmean(connections) if connections else None,
        **{key: value for key, value in edits.items() if "_seconds_" in key},
        **{f"api_seconds_{name}": value for name, value in percentiles(raw["load"]["api_seconds"]).items()},
    }
    return {
        **raw["about"],
        "release": raw["load"]["release"],
        "edits": {key: value for key, value in edits.items() if "_seconds_" not in key},
        "refused": {"count": raw["load"]["refused"], "first": raw["load"]["refusal"]},
        "peaks": {"redis_memory_bytes": max(memory, default=None), "database_connections": max(connections, default=None)},
        "metrics": {metric.key: _rounded(metrics.get(metric.key)) for metric in METRICS},
    }


def _rounded(value: float | None) -> float | None:
    """Four digits after the point: more would only suggest precision."""
    return None if value is None else round(value, 4)


def earlier(after: Path) -> Path | None:
    """The newest record beside this one that is older and was made under the same load."""
    load = [json.loads(after.read_text())[key] for key in ("load", "seconds")]
    for path in sorted(after.parent.glob("*.json"), reverse=True):
        if path.name < after.name:
            other = json.loads(path.read_text())
            if [other["load"], other["seconds"]] == load:
                return path
    return None
