"""docs/rollback.md has the table of scripts/rollbacks.py, and the script counts what the tests have proven."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT, load

sys.path.insert(0, str(ROOT / "scripts"))
import rollbacks


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    """An empty record of what is proven."""
    monkeypatch.setattr(rollbacks, "PROVEN", tmp_path / "build/rollbacks.jsonl")


def test_the_document_has_the_table():
    assert rollbacks.table(rollbacks.CELLS) in (ROOT / "docs/rollback.md").read_text(), "copy it: python scripts/rollbacks.py"


def test_the_table_has_every_rollback():
    playbooks = {path.stem for path in (ROOT / "playbooks/rollback").glob("*.yml")}
    assert set(rollbacks.ROLLBACKS) == playbooks
    assert playbooks - {"release"} == set(load(ROOT / "roles/feature/vars/main.yml")["__feature_known"])


def test_every_promise_is_proven_or_has_a_reason_why_it_does_not_apply():
    known = [*rollbacks.CELLS, *rollbacks.NOT_APPLICABLE]
    assert len(known) == len(set(known)) == len(rollbacks.ROLLBACKS) * len(rollbacks.PROMISES)


def test_every_promise_that_does_not_apply_has_a_reason():
    assert all(rollbacks.NOT_APPLICABLE.values())


def test_one_promise_that_is_not_proven_fails_the_command(capsys):
    *most, last = rollbacks.CELLS
    for cell in most:
        rollbacks.prove(*cell)
    assert rollbacks.main([]) == 1
    assert capsys.readouterr().out.count("NOT PROVEN") == 1
    rollbacks.prove(*last)
    assert rollbacks.main([]) == 0
    assert rollbacks.table(rollbacks.CELLS) in capsys.readouterr().out


def test_a_proof_of_a_promise_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match="no promise unhealthy of flower"):
        rollbacks.prove("flower", "unhealthy")
