"""Switches of an inventory: one line changes, the run knows, what is unclear is refused. (A platform: scenario baseline.)"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import ROOT, playbook

LAB = (ROOT / "inventories/lab/group_vars/all/features.yml").read_text()


def switch(file: Path, name: str, enabled: bool):
    variables = {"scenario_file": str(file), "scenario_name": name, "scenario_enabled": enabled}
    return playbook("molecule/feature/converge.yml", "-e", json.dumps(variables))


@pytest.fixture
def file(tmp_path):
    copy = tmp_path / "features.yml"
    copy.write_text(LAB)
    return copy


def test_one_line_changes_and_its_comment_stays():
    changed = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "features.yml").read_text()
    assert changed == LAB.replace("flower_enabled: true #", "flower_enabled: false #")
    assert changed != LAB


def test_there_and_back(file):
    """Off and on again: the file is byte for byte what it was, and the run knew each time."""
    off = switch(file, "task_payload", False)
    assert off.returncode == 0, off.stdout[-3000:]
    assert file.read_text() == LAB.replace("task_payload: full #", "task_payload: id #")
    assert "known: task_payload=id playbooks=application" in off.stdout
    on = switch(file, "task_payload", True)
    assert "task_payload=full" in on.stdout
    assert file.read_text() == LAB


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        pytest.param(LAB, "turbo", "turbo is no optimisation: task_payload, result_backend,", id="unknown"),
        pytest.param(LAB.replace("flower_", ""), "flower", "needs one line `flower_enabled: …`; it has 0", id="missing"),
        pytest.param(LAB + "flower_enabled: true\n", "flower", "needs one line `flower_enabled: …`; it has 2", id="twice"),
    ],
)  # fmt: skip
def test_what_is_unclear_is_refused(file, text, name, says):
    file.write_text(text)
    result = switch(file, name, False)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
    assert file.read_text() == text
