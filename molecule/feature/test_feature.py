"""A switch changes one line of the inventory, the run uses the new value, and hosts remember a rollback."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, changed, in_soak, playbook

LAB = (ROOT / "inventories/lab/group_vars/all/features.yml").read_text()


MEMORY = "/var/lib/image-editor/rolled-back.json"
CONVERGED = "the platform would be converged"


def switch(file: Path, name: str, enabled: bool, *arguments: str):
    variables = {"scenario_file": str(file), "scenario_name": name, "scenario_enabled": enabled}
    return playbook("molecule/feature/converge.yml", *arguments, "-e", json.dumps(variables))


def site(*arguments: str, **variables: object):
    """Run site.yml of this scenario with every feature on, except where ``variables`` say otherwise; return the process."""
    features = yaml.safe_load(LAB) | variables
    return playbook("molecule/feature/site.yml", *arguments, "-e", json.dumps(features))


def says(run) -> str:
    return " ".join(run.stdout.split())


@pytest.fixture
def file(tmp_path, host):
    """A copy of the lab's switches, all on. The host remembers no rollback."""
    host.check_output(f"rm -f {MEMORY}")
    copy = tmp_path / "features.yml"
    copy.write_text(LAB)
    return copy


def test_a_switch_changes_one_line_and_keeps_its_comment():
    changed = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "features.yml").read_text()
    assert changed == LAB.replace("flower_enabled: true #", "flower_enabled: false #")
    assert changed != LAB


@in_soak
def test_switching_off_and_on_again_restores_the_file_byte_for_byte(file):
    """After off and on, the file has the same bytes as before. Each run used the new value."""
    off = switch(file, "task_payload", False)
    assert off.returncode == 0, off.stdout[-3000:]
    assert file.read_text() == LAB.replace("task_payload: full #", "task_payload: id #")
    assert "known: task_payload=id step=task_payload" in off.stdout
    on = switch(file, "task_payload", True)
    assert "task_payload=full" in on.stdout
    assert file.read_text() == LAB


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        pytest.param(LAB, "turbo", "turbo is not a feature. Known are: task_payload, result_backend,", id="unknown"),
        pytest.param(LAB.replace("flower_", ""), "flower", "needs one line `flower_enabled: …`; it has 0", id="missing"),
        pytest.param(LAB + "flower_enabled: true\n", "flower", "needs one line `flower_enabled: …`; it has 2", id="twice"),
    ],
)  # fmt: skip
def test_an_unknown_feature_and_a_missing_or_repeated_switch_are_refused(file, text, name, says):
    file.write_text(text)
    result = switch(file, name, False)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
    assert file.read_text() == text


def test_a_feature_that_has_no_first_host_takes_no_canary(file):
    refused = switch(file, "flower", False, "-e", "feature_canary=1")
    assert refused.returncode != 0
    assert "feature_canary works with task_payload, result_backend." in says(refused)
    assert file.read_text() == LAB


@pytest.fixture
def memory(host):
    """What the host remembers of rollbacks."""
    return lambda: json.loads(host.file(MEMORY).content_string)


def test_a_rolled_back_feature_is_remembered_and_not_brought_back_by_accident(file, host, memory):
    """The edited line is lost, as in a second clone: the run is refused before it changes anything."""
    assert switch(file, "flower", False).returncode == 0
    found = host.file(MEMORY)
    assert (found.user, found.group, found.mode) == ("root", "root", 0o644)
    entry = memory()["flower"]
    assert entry["rolled_back"]
    refused = site()
    assert refused.returncode != 0
    assert CONVERGED not in refused.stdout
    assert not changed(refused.stdout)
    text = says(refused)
    assert f"flower was rolled back on {entry['at'].replace('T', ' ').removesuffix('Z')} UTC by {entry['by']}" in text
    assert entry["by"].startswith(f"{os.environ.get('SUDO_USER') or getpass.getuser()}@")
    assert "commit this line in group_vars/all/features.yml: flower_enabled: false" in text
    assert "-e feature_bring_back=flower" in text


def test_an_inventory_with_the_committed_line_is_not_refused(file):
    assert switch(file, "flower", False).returncode == 0
    run = site(flower_enabled=False)
    assert run.returncode == 0, run.stdout[-3000:]
    assert CONVERGED in run.stdout
    assert not changed(run.stdout)


def test_an_operator_who_names_a_rolled_back_feature_brings_it_back(file, memory):
    assert switch(file, "flower", False).returncode == 0
    meant = site(feature_bring_back="flower")
    assert meant.returncode == 0, meant.stdout[-3000:]
    assert not memory()["flower"]["rolled_back"]
    again = site()
    assert again.returncode == 0, again.stdout[-3000:]
    assert not changed(again.stdout)


@in_soak
def test_a_feature_that_is_switched_on_again_is_no_longer_refused(file):
    assert switch(file, "monitoring", False).returncode == 0
    assert site().returncode != 0
    assert switch(file, "monitoring", True).returncode == 0
    assert site().returncode == 0


def test_check_mode_remembers_nothing(file, host):
    run = switch(file, "task_payload", False, "--check")
    assert run.returncode == 0, run.stdout[-3000:]
    assert not host.file(MEMORY).exists
    assert file.read_text() == LAB


@in_soak
def test_a_rolled_back_release_is_refused_until_it_is_named(file, memory):
    release = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD:app"], text=True).strip()
    refused = site(scenario_release=release)
    assert refused.returncode != 0
    assert f"release {release} was rolled back on" in says(refused)
    assert "commit this line in group_vars/all/releases.yml: release_version: 0123456" in says(refused)
    assert site(release_bring_back=release).returncode == 0
    assert site(scenario_release=release, scenario_rolled_back=False).returncode == 0
    assert not memory()[f"release {release}"]["rolled_back"]
    assert site().returncode == 0
