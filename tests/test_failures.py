"""docs/failures.md has the tables of scripts/failures.py, which fills them with what was measured."""

from __future__ import annotations

import re
import sys

import pytest
from conftest import ROOT, load

sys.path.insert(0, str(ROOT / "scripts"))
import failures

PAGE = failures.PAGE.read_text()


def unmeasured(text: str) -> str:
    """The text with dashes in the place of figures."""
    return re.sub(r"(?<=\| )[\d.]+( s)?(?= \|)", "–", text)


def test_the_page_has_the_tables():
    page = unmeasured(PAGE)
    assert all(unmeasured(table) in page for table in failures.tables({})), "run: python scripts/failures.py"


def test_every_event_is_measured():
    measured = "".join(path.read_text() for path in (ROOT / "molecule").glob("*/test_*.py"))
    assert [figure for figure in failures.EVENTS if f'record("{figure}"' not in measured] == []


def test_figures_reach_their_cells_and_everything_else_stays():
    measured = {
        "host_loss_killed_gap_seconds_edge": {"value": 1.25},
        "host_loss_failed_requests_edge": {"value": 7},
        "scheduler_takeover_seconds": {"value": 17.5},
    }
    page = failures.fill(PAGE, measured)
    assert "| an edge | 5 s without an answer | 1.25 s | – | – | 7 |\n" in page
    assert re.search(r"another scheduler sends \| 30 s \| 17\.5 s \|\n", page)
    assert failures.fill(page, {}) == failures.fill(PAGE, {})
    assert len(page.splitlines()) == len(PAGE.splitlines())


def test_a_page_without_a_table_is_refused():
    with pytest.raises(ValueError, match="has 0 tables"):
        failures.fill("# Failures\n", {})


def test_the_table_has_every_host_of_the_lab():
    lab = load(ROOT / "inventories/lab/hosts.yml")["all"]
    assert {host for group in failures.LOSSES for host in lab["children"][group]["hosts"]} == set(lab["hosts"])
