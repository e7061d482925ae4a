"""Write what clients noticed of lost hosts, as measured last, into the tables of docs/failures.md.

failures.py     reads build/figures.jsonl, to which scenarios host_loss and postgresql_ha add. A dash: nothing was measured
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import figures

PAGE = Path(__file__).resolve().parent.parent / "docs/failures.md"
# The group in the names of the figures, what is lost, and what it may cost (molecule/host_loss/test_host_loss.py).
LOSSES = {
    "edge": ("an edge", "5 s without an answer"),
    "web": ("a web host", "no failed request"),
    "worker": ("a worker host, with a scheduler", "no failed request"),
    "postgresql": ("a database host", "30 s without an accepted edit"),
    "redis": ("a Redis host", "no failed request; an edit is accepted within 3 s"),
    "media": ("a media host, which also monitors", "no failed request"),
}
EVENTS = {
    "postgresql_host_gap_seconds_median": ("the database's primary is lost: median until an edit is accepted", "25 s"),
    "postgresql_crash_gap_seconds_max": ("the server of the database's primary is killed: until a write succeeds", "6 s"),
    "postgresql_switchover_gap_seconds_max": ("a planned switchover of PostgreSQL: until a write succeeds", "5 s"),
    "scheduler_takeover_seconds": ("the scheduler's host is lost: until another scheduler sends", "30 s"),
}


def table(header: str, rows: list[list[str]]) -> str:
    """A table of the page."""
    columns = header.split(" | ")
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows]) + "\n"


def tables(measured: Mapping[str, dict]) -> list[str]:
    """The tables with the newest entry of each figure."""

    def cell(figure: str, unit: str = " s") -> str:
        return f"{measured[figure]['value']:g}{unit}" if figure in measured else "–"

    losses = [
        [
            *texts,
            *(cell(f"host_loss_{kind}_gap_seconds_{group}") for kind in ("killed", "frozen", "cut_off")),
            cell(f"host_loss_failed_requests_{group}", ""),
        ]
        for group, texts in LOSSES.items()
    ]
    events = [[*texts, cell(figure)] for figure, texts in EVENTS.items()]
    return [
        table("lost | at most | killed | frozen | cut off | failed requests", losses),
        table("event | at most | measured", events),
    ]


def fill(page: str, measured: Mapping[str, dict]) -> str:
    """The page with the tables in the place of those that have the same header."""
    for new in tables(measured):
        header = new.partition("\n")[0]
        page, count = re.subn(rf"(?m)^{re.escape(header)}\n(?:\|.*\n)*", lambda _, new=new: new, page)
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} tables with the header {header}")
    return page


def main() -> int:
    """See the module's docstring."""
    PAGE.write_text(fill(PAGE.read_text(), figures.newest()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
