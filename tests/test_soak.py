"""The ledger of the long tests: which pieces are due, what a run records, and the promises that a page may make."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load

sys.path.insert(0, str(ROOT / "scripts"))
import promises
import soak

SUITE = load(ROOT / "molecule/suite.yml")


def record(piece: str, **fields) -> dict:
    told = {"piece": piece, "ok": True, "commit": "0" * 12, "inputs": soak.inputs(piece), "start": "2026-01-01T00:00:00+00:00"}
    return told | {"end": "2026-01-01T00:30:00+00:00", "figures": {}, **fields}


@pytest.fixture
def ledger(tmp_path, monkeypatch) -> Path:
    """An empty ledger."""
    path = tmp_path / "proofs.jsonl"
    monkeypatch.setattr(soak, "PROOFS", path)
    return path


def test_a_piece_is_due_until_it_is_proven_for_its_inputs(ledger):
    assert set(soak.due()) == set(soak.PIECES)
    lines = [
        record("pki"),
        record("firewall", inputs="other"),
        record("large", ok=False),
        record("fuzz"),
        record("fuzz", ok=False),
    ]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert set(soak.PIECES) - set(soak.due()) == {"pki"}
    assert soak.due()[-1] == "firewall", "the oldest proof comes first, and none is older than any"
    assert "due: its inputs have changed" in next(line for line in soak.table().splitlines() if line.startswith("firewall"))


def test_a_proof_depends_on_its_scenario_and_on_no_other():
    assert soak.inputs("pki") != soak.inputs("firewall")


def test_every_piece_runs_something_that_exists():
    for name, piece in soak.PIECES.items():
        assert ("command" in piece) != ("test" in piece), name
        if "test" in piece:
            assert (ROOT / "molecule" / piece["test"]).is_dir(), name


def test_every_promise_names_pieces_and_scenarios_that_exist():
    for promise in promises.PROMISES:
        assert set(promise["pieces"]) <= soak.PIECES.keys(), promise["event"]
        assert set(promise.get("scenarios", [])) <= SUITE["tests"].keys(), promise["event"]
        assert bool(promise.get("scenarios")) == ("suite" in promise["pieces"]), promise["event"]


def test_a_promise_without_proof_says_so():
    promise = next(promise for promise in promises.PROMISES if promise["pieces"] == ["platform"])
    proven = {name: record(name) for name in soak.PIECES if name != "platform"}
    row = next(line for line in promises.table("docs/promises.md", proven).splitlines() if promise["event"] in line)
    assert row.endswith("| not yet |")
    proven["platform"] = record("platform", figures={promise["figure"]: 0})
    row = next(line for line in promises.table("docs/promises.md", proven).splitlines() if promise["event"] in line)
    assert row.endswith(f"| `{promise['figure']}` 0 | 2026-01-01, 00000000 |")


@pytest.mark.parametrize("page", promises.PAGES)
def test_the_pages_have_the_rows_of_the_ledger(page):
    text = (ROOT / page).read_text()
    assert promises.fill(page, text, soak.proofs()) == text, "write them: python scripts/promises.py"
