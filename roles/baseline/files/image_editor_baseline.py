#!/usr/bin/python3
"""Measure the platform at its sources, and say whether a change made it worse.

sample       on a host of PostgreSQL or Redis: look at it every second, print what was seen
load         on the controller: ask which release runs, submit edits at a constant rate, print what it took (token on stdin)
record       make one record of all that was measured (JSON on stdin)
compare      two records: a table, a plot, a verdict; exit code 1 if the second is worse

Why not from Prometheus: the baseline before `monitoring` is switched on could not come from there, and two that were measured in
different ways could not be compared. Only the standard library; `load` alone is a client, with the code of scripts/smoke.py.
"""

from __future__ import annotations

import argparse
import html
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple


class Metric(NamedTuple):
    """What is compared: its name in a record and for people, and whether more of it is better."""

    key: str
    title: str
    unit: str
    more_is_better: bool = False


def _percentiles(key: str, title: str) -> list[Metric]:
    return [Metric(f"{key}_p{q}", f"{title}, p{q}", "s") for q in (50, 95, 99)]


# The four baselines first.
METRICS = [
    Metric("task_seconds_mean", "mean task time", "s"),
    Metric("success_ratio", "success rate", "%", more_is_better=True),
    Metric("redis_memory_bytes", "Redis memory", "MiB"),
    Metric("database_connections", "database connections", ""),
    *_percentiles("task_seconds", "task time"),
    *_percentiles("edit_seconds", "acceptance to end"),
    *_percentiles("api_seconds", "answer to a POST"),
]
BASELINES = METRICS[:4]
FACTORS = {"%": 100, "MiB": 1 / 2**20}

CONNECTIONS = r"""
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = '{database}' \watch i=1 c={seconds}
"""


# --- on the hosts ---------------------------------------------------------------------------------------------------------------


def sample(seconds: int, database: str | None, redis: bool) -> dict:
    """Connections to the database and the Redis node's memory, once a second, both at the same time."""
    result: dict = {}
    with ThreadPoolExecutor() as pool:
        if database:
            result["connections"] = pool.submit(connections, seconds, database)
        if redis:
            result["redis_memory"] = pool.submit(redis_memory, seconds)
        return {name: future.result() for name, future in result.items()}


def connections(seconds: int, database: str) -> list[int]:
    """What PostgreSQL says; this session is in another database and not counted."""
    command = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "--set=ON_ERROR_STOP=1", "--dbname=postgres"]
    asked = CONNECTIONS.format(database=database, seconds=seconds)
    return [
        int(line) for line in subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    ]


def redis_memory(seconds: int) -> list[int]:
    """What the node held, in bytes, once a second; one that does not run held nothing."""
    command = ["/usr/local/sbin/image-editor-redis-cli", "-r", str(seconds), "-i", "1", "INFO", "memory", "replication"]
    if not Path(command[0]).exists():
        return []
    return primary_memory(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def primary_memory(info: str) -> list[int]:
    """What was held while the node was primary: a replica holds the same once more.

    Without replication's backlog: it fills up to its size with whatever is written, so it says how long a set has run.
    """
    found: list[int] = []
    fields = {"used_memory": 0, "mem_replication_backlog": 0}
    for line in info.split():
        name, _, value = line.partition(":")
        if name in fields:
            fields[name] = int(value)
        elif line == "role:master":
            found.append(fields["used_memory"] - fields["mem_replication_backlog"])
    return found


# --- on the controller ----------------------------------------------------------------------------------------------------------


def load(client: Path, url: str, ca: str | None, photo: Path, edits: int, seconds: int, prompt: str) -> dict:
    """Submit the edits evenly over the time, however slow the answers are; without edits, only wait."""
    sys.path.insert(0, str(client))
    import requests
    import smoke

    session = requests.Session()
    session.trust_env = False
    session.verify = ca or True
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=32))
    session.headers["Authorization"] = f"Bearer {sys.stdin.readline().strip()}"
    content = photo.read_bytes()

    refused: list[str] = []

    def submit(number: int) -> float | None:
        time.sleep(max(0.0, started + number * seconds / edits - time.monotonic()))
        begun = time.monotonic()
        upload = {"files": {"image": ("photo.jpg", content, "image/jpeg")}, "data": {"prompt": prompt}}
        try:
            smoke.post(session, f"{url}/api/v1/edits", **upload)
        except (smoke.SmokeFailed, requests.exceptions.RequestException) as error:
            refused.append(str(error))
            return None
        return time.monotonic() - begun

    try:
        smoke.check_edge(session, url)
        release = session.get(f"{url}/readyz", timeout=10).headers.get("X-Release", "")
        started = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            took = list(pool.map(submit, range(edits)))
    except smoke.SmokeFailed as error:
        sys.exit(f"baseline: failed {error}")
    time.sleep(max(0.0, started + seconds - time.monotonic()))
    if refused and len(refused) == edits:
        sys.exit(f"baseline: failed {refused[0]}")
    return {"release": release, "api_seconds": [one for one in took if one is not None], "refused": len(refused)}


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99, interpolated; None of nothing."""
    if len(values) < 2:
        only = values[0] if values else None
        return dict.fromkeys(("p50", "p95", "p99"), only)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {f"p{q}": cuts[q - 1] for q in (50, 95, 99)}


def record(raw: dict) -> dict:
    """One record of what the hosts, the table of edits and the client said; ``raw`` has a part from each."""
    edits = raw["edits"]
    memory = [value for part in raw["samples"] for value in part.get("redis_memory", [])]
    connections = [value for part in raw["samples"] for value in part.get("connections", [])]
    # One that the API did not accept has not succeeded either.
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
        "peaks": {"redis_memory_bytes": max(memory, default=None), "database_connections": max(connections, default=None)},
        "metrics": {metric.key: _rounded(metrics.get(metric.key)) for metric in METRICS},
    }


def _rounded(value: float | None) -> float | None:
    """Four digits after the point are more than is meant by any of them."""
    return None if value is None else round(value, 4)


class Row(NamedTuple):
    """One metric of both records: how it changed, by how much it may, and what that means."""

    metric: Metric
    before: float | None
    after: float | None
    allowed: float  # in the metric's own unit
    verdict: str  # better, same, worse, missing (it was there before), none (it never was)

    @property
    def change(self) -> float | None:
        """Relative; None without two values, or from nothing."""
        return None if not self.before or self.after is None else self.after / self.before - 1


def judge(metric: Metric, before: float | None, after: float | None, tolerance: dict) -> Row:
    """Compare one metric; ``tolerance`` has ``percent`` of the value before and ``least``, below which nothing counts."""
    allowed = max(abs(before or 0) * tolerance["percent"] / 100, tolerance["least"])
    if before is None or after is None:
        return Row(metric, before, after, allowed, "none" if before is None else "missing")
    gain = (after - before) * (1 if metric.more_is_better else -1)
    return Row(metric, before, after, allowed, "same" if abs(gain) <= allowed else "better" if gain > 0 else "worse")


def compare(before: dict, after: dict, tolerances: dict[str, dict]) -> list[Row]:
    """Every metric that there is a tolerance for."""
    rows = [
        judge(metric, before["metrics"].get(metric.key), after["metrics"].get(metric.key), tolerances[metric.key])
        for metric in METRICS
        if metric.key in tolerances
    ]
    return [row for row in rows if row.verdict != "none" or row.metric in BASELINES]


def earlier(after: Path) -> Path | None:
    """The newest record beside this one that is older and was made under the same load; names sort by time."""
    same = [json.loads(after.read_text())[key] for key in ("load", "seconds")]
    for path in sorted(after.parent.glob("*.json"), reverse=True):
        if path.name < after.name:
            one = json.loads(path.read_text())
            if [one["load"], one["seconds"]] == same:
                return path
    return None


def is_worse(rows: list[Row]) -> bool:
    """Whether the change should not be kept: something is worse, or cannot be measured any more."""
    return any(row.verdict in ("worse", "missing") for row in rows)


def said(metric: Metric, value: float | None) -> str:
    """A value for people."""
    if value is None:
        return "-"
    return f"{value * FACTORS.get(metric.unit, 1):.4g} {metric.unit}".strip()


def described(one: dict) -> str:
    """Which record this is."""
    return f"{one['at']}  release {one['release'] or '?'}  {one['edits']['accepted']} edits in {one['seconds']} s"


def switched(before: dict, after: dict) -> str:
    """The switches that differ."""
    pairs = [(name, before["switches"].get(name), value) for name, value in after["switches"].items()]
    return ", ".join(f"{name} {str(was).lower()} → {str(now).lower()}" for name, was, now in pairs if was != now) or "nothing"


def table(before: dict, after: dict, rows: list[Row]) -> list[str]:
    """The comparison as lines of text, the verdict last."""
    lines = [f"before    {described(before)}", f"after     {described(after)}", f"switched  {switched(before, after)}", ""]
    lines.append(f"{'metric':24} {'before':>12} {'after':>12} {'change':>9} {'allowed':>12}  verdict")
    for row in rows:
        change = f"{row.change:+.1%}" if row.change is not None else "-"
        sides = f"{said(row.metric, row.before):>12} {said(row.metric, row.after):>12}"
        lines.append(f"{row.metric.title:24} {sides} {change:>9} {said(row.metric, row.allowed):>12}  {row.verdict}")
    worse = [row.metric.title for row in rows if row.verdict in ("worse", "missing")]
    return [*lines, "", f"baseline: worse: {', '.join(worse)}" if worse else "baseline: ok, nothing is worse than it may be"]


COLOURS = {"better": "#2e7d32", "same": "#78909c", "worse": "#c62828", "missing": "#c62828", "none": "#cfd8dc"}


def plot(before: dict, after: dict, rows: list[Row]) -> str:
    """An SVG: how far each metric moved, right is better, over the band that is allowed; beyond 100 % it ends in the margin."""
    left, middle, half, line = 180, 430, 150, 30
    height = 88 + line * len(rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="860" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20">before: {html.escape(described(before))}</text>',
        f'<text x="10" y="38">after: {html.escape(described(after))}</text>',
        f'<text x="10" y="56">switched: {html.escape(switched(before, after))}</text>',
        f'<g fill="#607d8b"><text x="{middle - half}" y="72">worse</text>'
        f'<text x="{middle + half}" y="72" text-anchor="end">better</text>'
        f'<text x="{middle + half + 15}" y="72">grey: what it may be off by</text></g>',
    ]
    for number, row in enumerate(rows):
        y = 76 + line * number
        band = min(row.allowed / row.before, 1) * half if row.before else half
        gain = (row.change or 0) * (1 if row.metric.more_is_better else -1)
        width = min(abs(gain), 1) * half
        out += [
            f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{html.escape(row.metric.title)}</text>',
            f'<rect x="{middle - band:.1f}" y="{y}" width="{2 * band:.1f}" height="20" fill="#eceff1"/>',
            f'<rect x="{middle if gain >= 0 else middle - width:.1f}" y="{y + 4}" width="{max(width, 1):.1f}" height="12"'
            f' fill="{COLOURS[row.verdict]}"/>',
            f'<text x="{middle + half + 15}" y="{y + 14}">{said(row.metric, row.before)} → {said(row.metric, row.after)}'
            f" ({row.verdict})</text>",
        ]
    out.append(f'<line x1="{middle}" y1="70" x2="{middle}" y2="{height - 12}" stroke="#37474f"/></svg>')
    return "\n".join(out) + "\n"


# --- the command ----------------------------------------------------------------------------------------------------------------


def show(after: Path, before: Path | None, tolerances: dict, svg: Path | None) -> int:
    """Print the comparison and draw it; return the exit code."""
    before = before or earlier(after)
    if not before:
        print("baseline: recorded; there is no earlier one of the same load to compare it with")
        return 0
    one, other = (json.loads(path.read_text()) for path in (before, after))
    rows = compare(one, other, tolerances)
    if svg:
        svg.write_text(plot(one, other, rows))
    print("\n".join(table(one, other, rows)))
    return int(is_worse(rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sampler = commands.add_parser("sample")
    sampler.add_argument("--seconds", type=int, required=True)
    sampler.add_argument("--database", help="name of the database whose connections count")
    sampler.add_argument("--redis", action="store_true")
    loader = commands.add_parser("load")
    loader.add_argument("--client", type=Path, required=True, help="directory of smoke.py")
    loader.add_argument("--url", required=True)
    loader.add_argument("--ca")
    loader.add_argument("--photo", type=Path, required=True)
    loader.add_argument("--edits", type=int, required=True)
    loader.add_argument("--seconds", type=int, required=True)
    loader.add_argument("--prompt", required=True)
    commands.add_parser("record")
    comparison = commands.add_parser("compare")
    comparison.add_argument("after", type=Path)
    comparison.add_argument("--before", type=Path, help="otherwise the newest earlier one of the same load")
    comparison.add_argument("--tolerances", type=json.loads, required=True)
    comparison.add_argument("--svg", type=Path)
    return parser.parse_args()


def main() -> int:
    """See the module's docstring."""
    options = vars(arguments())
    command = options.pop("command")
    if command == "compare":
        return show(**options)
    result = {"sample": sample, "load": load, "record": lambda: record(json.load(sys.stdin))}[command](**options)
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
