"""The rollback matrix: the promises of every rollback, and which of them the tests have proven.

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

Cell = tuple[str, str]  # a rollback and a promise

PROVEN = Path(__file__).resolve().parent.parent / "build" / "rollbacks.jsonl"

# The rollbacks, and the scenarios that test them.
ROLLBACKS = {
    "task_payload": "single_host",
    "result_backend": "single_host",
    "flower": "single_host",
    "monitoring": "single_host",
    "redis_replication": "default",
    "postgresql_replication": "postgresql_ha",
    "release": "rolling_release",
}
PROMISES = {
    "backups": "It makes its backups first: a dump that can be restored, and a Redis snapshot",
    "done": "It does what it says",
    "second_run": "A second run changes nothing",
    "check": "`--check` says what would be done, and changes nothing",
    "site": "`site.yml` keeps it rolled back",
    "forward": "The feature or release can be brought back",
    "release": "It is refused while a release is under way",
    "unreachable": "It is refused while a host does not answer",
    "unhealthy": "It is refused while the Redis set or the database's cluster is unhealthy",
    "missing_switch": "It is refused if the inventory lacks the line that it changes",
    "load": "Meanwhile no edit is refused, lost or done twice",
}
# Promises that a rollback does not make, and the reason.
NOT_APPLICABLE: dict[Cell, str] = {
    ("release", "backups"): (
        "The rollback of the release leaves database and Redis as they are. With `rollback_migrations=true` it dumps the"
        " database."
    ),
    **{
        (rollback, "unhealthy"): "Only the rollbacks of `redis_replication` and `postgresql_replication` change which nodes run."
        for rollback in ROLLBACKS
        if rollback not in ("redis_replication", "postgresql_replication")
    },
    **{
        ("postgresql_replication", promise): (
            "The rollback of `postgresql_replication` does this with the same steps as the other features (rollback_feature.yml)."
        )
        for promise in ("backups", "site", "release", "unreachable")
    },
    ("postgresql_replication", "load"): "The rollback of `postgresql_replication` restarts the database once.",
}
# `make test` has no time for this rollback on twelve hosts.
LONG = "redis_replication"
# The rollbacks of features share these steps, so `make test` proves a step with some of them.
SHARED: dict[str, tuple[str, ...]] = {
    "release": ("flower",),
    "unreachable": ("flower",),
    "missing_switch": ("flower", "postgresql_replication"),
    "check": ("monitoring", "postgresql_replication"),
    "second_run": ("task_payload", "postgresql_replication"),
    "site": ("task_payload", "result_backend", "flower", "monitoring"),
}
IN_SOAK: set[Cell] = {
    (rollback, promise)
    for promise in PROMISES
    for rollback in ROLLBACKS
    if (rollback, promise) not in NOT_APPLICABLE
    and (rollback == LONG or (promise in SHARED and rollback not in (*SHARED[promise], "release")))
}
# What a test may prove, and what `make test` has to prove.
ALL_CELLS: list[Cell] = [
    (rollback, promise) for promise in PROMISES for rollback in ROLLBACKS if (rollback, promise) not in NOT_APPLICABLE
]
CELLS: list[Cell] = [cell for cell in ALL_CELLS if cell not in IN_SOAK]
LEGEND = (
    "in soak: only `make soak` proves it. For `redis_replication` that is the whole rollback, on twelve hosts. For the others it",
    "is a step that rollbacks of features share, and `make test` proves it with another one.",
    "",
    "–: the promise does not apply, or another rollback proves it:",
    "",
)


def prove(rollback: str, promise: str) -> None:
    """Record that a test has just proven a promise of a rollback."""
    if (rollback, promise) not in ALL_CELLS:
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
    return "\n".join([*lines, "", *LEGEND, *(f"- {reason}" for reason in reasons)])


def cell(of: Cell, found: Collection[Cell]) -> str:
    """What the table says of a promise of a rollback."""
    if of in NOT_APPLICABLE:
        return "–"
    if of in found:
        return "proven"
    return "in soak" if of in IN_SOAK else "NOT PROVEN"


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
