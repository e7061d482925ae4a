"""Record a measured figure in build/figures.jsonl, or print the newest value of each figure as a table.

figures.py                                  print the table; exit 1 if a newest value misses its limit
figures.py NAME VALUE UNIT [LIMIT]          record a value; LIMIT is `<=480` or `>=4`; exit 1 if the value misses the limit
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

FIGURES = Path(__file__).resolve().parent.parent / "build" / "figures.jsonl"


def record(figure: str, value: float, unit: str, limit: str | None = None) -> dict:
    """Record a value and return its entry; ``ok`` says whether the value keeps the limit. Without a limit it is None."""
    ok = None
    if limit:
        bound = float(limit[2:])
        ok = value <= bound if limit.startswith("<=") else value >= bound
    entry = {
        "figure": figure,
        "value": value,
        "unit": unit,
        "limit": limit,
        "ok": ok,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    FIGURES.parent.mkdir(exist_ok=True)
    with FIGURES.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    return entry


def newest() -> dict[str, dict]:
    """Return the newest entry of each figure, by name."""
    if not FIGURES.exists():
        return {}
    return {entry["figure"]: entry for entry in map(json.loads, FIGURES.read_text().splitlines())}


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    if arguments:
        name, value, unit, *limit = arguments
        entry = record(name, float(value), unit, limit[0] if limit and limit[0] else None)
        print(json.dumps(entry))
        return 1 if entry["ok"] is False else 0
    entries = newest()
    if not entries:
        print("figures: no figure is measured yet. These commands measure: make up, make test, make bench-app, make bench-deploy")
        return 0
    print(f"{'figure':36} {'value':>12} {'unit':10} {'limit':>10}  {'':4} measured at")
    for entry in sorted(entries.values(), key=lambda entry: entry["figure"]):
        verdict = "" if entry["limit"] is None else "ok" if entry["ok"] else "MISS"
        print(
            f"{entry['figure']:36} {entry['value']:>12g} {entry['unit']:10} {entry['limit'] or '':>10}  {verdict:4} {entry['at']}"
        )
    return 1 if any(entry["ok"] is False for entry in entries.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
