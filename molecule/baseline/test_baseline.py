"""Baselines of a platform on one host, and a rollout that uses them. Neither needs Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT, changed

# One edit a second. Other scenarios use the machine too, and at a higher rate the edge sometimes answers 504.
EDITS = 12
LOAD = {"baseline_load": EDITS, "rollout_load": EDITS, "baseline_seconds": 12}
TOLERANT = {"percent": 10000, "least": 1e9}  # other scenarios use the machine, so times are no evidence


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """A copy of the scenario's inventory, whose switches may be changed."""
    copy = tmp_path_factory.mktemp("environment") / "inventory"
    shutil.copytree(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory", copy)
    return copy


@pytest.fixture(scope="module")
def play(inventory, tmp_path_factory):
    """Run a playbook for that inventory, with variables; return the finished process and all records."""
    directory = tmp_path_factory.mktemp("baselines")

    def run(name: str, **variables: object) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
        variables = LOAD | {"baseline_directory": str(directory), "feature_file": str(switches(inventory))} | variables
        process = subprocess.run(
            ["ansible-playbook", "-i", str(inventory), "-e", json.dumps(variables), f"playbooks/{name}.yml"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return process, [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]

    run.directory = directory
    return run


def switches(inventory: Path) -> Path:
    return inventory / "group_vars/all/features.yml"


def payload(host) -> str:
    """The payload setting of the application on the host."""
    return re.search(r'^IMAGE_EDITOR_TASK_PAYLOAD="(\w+)"', host.file("/etc/image-editor/image-editor.env").content_string, re.M)[
        1
    ]


def test_a_record_has_every_metric_the_switches_and_the_release(play):
    process, records = play("baseline")
    assert process.returncode == 0, process.stdout[-3000:]
    assert "there is no earlier one of the same load" in process.stdout
    (record,) = records
    assert record["refused"] == {"count": 0, "first": ""}
    assert record["edits"] == {"accepted": EDITS, "succeeded": EDITS, "failed": 0, "cancelled": 0, "unfinished": 0}
    assert record["switches"]["task_payload"] == "full"
    assert re.fullmatch(r"[0-9a-f]{8,64}", record["release"])
    metrics = record["metrics"]
    assert metrics["success_ratio"] == 1
    for name in ("task_seconds", "edit_seconds", "api_seconds"):
        assert 0 < metrics[f"{name}_p50"] <= metrics[f"{name}_p95"] <= metrics[f"{name}_p99"] < 60
    assert metrics["task_seconds_mean"] < metrics["edit_seconds_p99"]
    assert 2**20 < metrics["redis_memory_bytes"] < 2**28
    assert 2 <= metrics["database_connections"] <= 100


def test_a_second_run_fails_and_names_the_metric_that_is_worse(play):
    """Compared with a better record, the playbook fails, names the metric, and leaves an image."""
    (path,) = play.directory.glob("*.json")
    better = json.loads(path.read_text())
    better["metrics"] |= {"task_seconds_mean": 1e-6, "success_ratio": 0.5}
    path.write_text(json.dumps(better))
    tolerances = {"task_seconds_mean": {"percent": 20, "least": 0.0001}, "success_ratio": {"percent": 0, "least": 0.01}}
    process, records = play("baseline", baseline_tolerances=tolerances)
    assert process.returncode != 0
    assert "baseline: worse: mean task time" in process.stdout, process.stdout[-3000:]
    assert re.search(r"success rate .* better", process.stdout)
    assert len(records) == 2
    (image,) = play.directory.glob("*.svg")
    assert "mean task time" in image.read_text()


def test_a_load_above_the_rate_limit_is_refused_before_any_edit(play):
    process, records = play("baseline", baseline_load=1000, baseline_seconds=60)
    assert process.returncode != 0
    assert "a user may submit 600 a minute" in " ".join(process.stdout.split())
    assert len(records) == 2


def test_a_rollout_of_a_feature_that_is_on_is_refused(play):
    process, _ = play("rollout", optimisation="task_payload")
    assert process.returncode != 0
    assert "task_payload is on already" in " ".join(process.stdout.split())


def test_a_switch_changes_one_line_of_the_inventory_and_the_platform(play, host, inventory):
    before = switches(inventory).read_text()
    process, _ = play("feature", feature_name="task_payload", feature_enabled=False)
    assert process.returncode == 0, process.stdout[-3000:]
    assert switches(inventory).read_text() == before.replace("task_payload: full", "task_payload: id")
    assert payload(host) == "id"
    process, _ = play("feature", feature_name="task_payload", feature_enabled=False)
    assert not changed(process.stdout)


def test_a_rollout_that_makes_a_metric_worse_is_rolled_back(play, host, inventory):
    """With a negative tolerance an unchanged metric counts as worse. Both baselines are recorded, and a dump is made first."""
    before = switches(inventory).read_text()
    process, records = play(
        "rollout", optimisation="task_payload", rollout_rollback_if_worse=True,
        baseline_tolerances={"task_seconds_mean": TOLERANT, "success_ratio": {"percent": -1, "least": -1}},
    )  # fmt: skip
    assert process.returncode != 0
    assert "task_payload made something worse" in " ".join(process.stdout.split()), process.stdout[-3000:]
    assert [record["switches"]["task_payload"] for record in records[-2:]] == ["id", "full"]
    assert {record["edits"]["succeeded"] for record in records[-2:]} == {EDITS}
    assert switches(inventory).read_text() == before
    assert payload(host) == "id"
    dumps = host.check_output("find /var/lib/image-editor-backup/dumps -name 'before-task-payload-*' -user postgres -perm 600")
    assert dumps


def test_a_rollout_that_makes_no_metric_worse_is_kept(play, host, inventory):
    process, _ = play("rollout", optimisation="task_payload", baseline_tolerances={"success_ratio": TOLERANT})
    assert process.returncode == 0, process.stdout[-3000:]
    assert "task_payload is on, and nothing is worse than it may be" in " ".join(process.stdout.split())
    assert "task_payload: full #" in switches(inventory).read_text()
    assert payload(host) == "full"
