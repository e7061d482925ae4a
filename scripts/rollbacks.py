"""The rollback matrix: the promises of every rollback (docs/rollback.yml), and which of them the tests have proven.

rollbacks.py            print the table of docs/rollback.md; exit 1 if a promise is not proven
rollbacks.py --record   the same, and record the two figures of the table

A test calls ``prove`` when it has proven a promise. `make test` begins without any proof, and fails at its end if one is
missing: if a test was removed, skipped or renamed, for example.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path

import figures
import yaml

Cell = tuple[str, str]  # a rollback and a promise

ROOT = Path(__file__).resolve().parent.parent
PROVEN = ROOT / "build/rollbacks.jsonl"
TABLE = yaml.safe_load((ROOT / "docs/rollback.yml").read_text())
ROLLBACKS, PROMISES = TABLE["rollbacks"], TABLE["promises"]
NOT_APPLICABLE: dict[Cell, str] = {
    (rollback, promise): without["reason"]
    for without in TABLE["not_applicable"]
    for rollback in without["rollbacks"]
    for promise in without["promises"]
}
CELLS: list[Cell] = [
    (rollback, promise) for promise in PROMISES for rollback in ROLLBACKS if (rollback, promise) not in NOT_APPLICABLE
]


def prove(rollback: str, promise: str) -> None:
    """Record that a test has just proven a promise of a rollback."""
    if (rollback, promise) not in CELLS:
        raise ValueError(f"the table has no promise {promise} of {rollback}")
    PROVEN.parent.mkdir(exist_ok=True)
    with PROVEN.open("a") as stream:
        stream.write(json.dumps([rollback, promise]) + "\n")


def proven() -> set[Cell]:
    """The promises that tests have proven since `make test` began."""
    if not PROVEN.exists():
        return set()
    return {(rollback, promise) for rollback, promise in map(json.loads, PROVEN.read_text().splitlines())}


def table(found: Collection[Cell]) -> str:
    """The table in Markdown, with the reasons for the promises that do not apply."""
    lines = [
        f"| promise | {' | '.join(f'`{rollback}`' for rollback in ROLLBACKS)} |",
        "| --- |" + " --- |" * len(ROLLBACKS),
        f"| (tested in) | {' | '.join(ROLLBACKS.values())} |",
    ]
    for promise, text in PROMISES.items():
        shown = [cell((rollback, promise), found) for rollback in ROLLBACKS]
        lines.append(f"| {text} | {' | '.join(shown)} |")
    reasons = dict.fromkeys(NOT_APPLICABLE.values())
    return "\n".join([*lines, "", "–: the promise does not apply:", "", *(f"- {reason}" for reason in reasons)])


def cell(of: Cell, found: Collection[Cell]) -> str:
    """What the table says of a promise of a rollback."""
    if of in NOT_APPLICABLE:
        return "–"
    return "proven" if of in found else "NOT PROVEN"


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    every = proven()
    found = len(every & set(CELLS))
    print(table(every))
    print(f"\nrollback_cells        {len(CELLS)}\nrollback_cells_proven {found}")
    if "--record" in arguments:
        figures.record("rollback_cells", len(CELLS), "cells")
        figures.record("rollback_cells_proven", found, "cells", f">={len(CELLS)}")
    return 0 if found == len(CELLS) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
