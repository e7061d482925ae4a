"""Metrics of backups, in files that the node exporter reads: one ``metrics.prom`` for each kind of run."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

from image_editor_tools.backup.host import STATE

PREFIX = "image_editor_backup_"
SAMPLE = re.compile(rf'^{PREFIX}(\w+)\{{kind="(\w+)"\}} (\S+)$', re.MULTILINE)

Samples = dict[tuple[str, str], float]  # by metric and kind


def parse(text: str) -> Samples:
    """The samples of a file."""
    return {(metric, kind): float(value) for metric, kind, value in SAMPLE.findall(text)}


def render(samples: Mapping[tuple[str, str], float]) -> str:
    """The text of a file, in Prometheus's format, sorted."""
    lines: list[str] = []
    for metric in sorted({metric for metric, _ in samples}):
        lines.append(f"# TYPE {PREFIX}{metric} gauge")
        lines += [
            f'{PREFIX}{name}{{kind="{kind}"}} {samples[name, kind]:.3f}' for name, kind in sorted(samples) if name == metric
        ]
    return "".join(f"{line}\n" for line in lines)


def record(run: str, samples: Mapping[tuple[str, str], float]) -> None:
    """Add samples to the file of a kind of run. Its other samples stay."""
    path = STATE / run / "metrics.prom"
    found = parse(path.read_text()) if path.exists() else {}
    replacement = path.with_suffix(".new")
    replacement.write_text(render({**found, **samples}))
    replacement.chmod(0o644)
    replacement.replace(path)


def record_success(kind: str, began: float, size: int) -> None:
    """Record a backup that was just made."""
    now = time.time()
    record(
        kind,
        {
            ("last_success_timestamp_seconds", kind): now,
            ("duration_seconds", kind): now - began,
            ("size_bytes", kind): size,
        },
    )


def was_backed_up(kind: str) -> bool:
    """Whether this host has ever made a backup of the kind."""
    path = STATE / kind / "metrics.prom"
    return path.exists() and ("last_success_timestamp_seconds", kind) in parse(path.read_text())


def by_kind(directory: Path = STATE) -> dict[str, dict[str, float]]:
    """All samples of this host."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(directory.glob("*/metrics.prom")):
        for (metric, kind), value in parse(path.read_text()).items():
            found.setdefault(kind, {})[metric] = value
    return found
