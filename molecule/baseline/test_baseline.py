"""Baselines of a platform on one host, and rollouts that use them. (Rollout of Redis replication: scenario default.)"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from helpers import ROOT, changed, until

# One edit a second. Lint uses the machine too, and at a higher rate the edge sometimes answers 504.
EDITS = 12
LOAD = {"baseline_load": EDITS, "rollout_load": EDITS, "baseline_seconds": 12}
INTERVAL = 5  # seconds between two scrapes, and between two evaluations of the rules
PROMETHEUS = {f"prometheus_{name}_interval": f"{INTERVAL}s" for name in ("scrape", "evaluation")} | {"grafana_install": "none"}
TOLERANT = {"percent": 10000, "least": 1e9}  # twelve edits are too few for a verdict on times
TOLERANCES = yaml.safe_load((ROOT / "roles/baseline/defaults/main.yml").read_text())["baseline_tolerances"]
# In the order of docs/rollout.md, each with its switch.
SWITCHES = {
    "task_payload": "task_payload",
    "result_backend": "celery_result_backend_enabled",
    "flower": "flower_enabled",
    "monitoring": "monitoring_enabled",
}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """A copy of the scenario's inventory, in which tests change switches. Rollouts switch the last three features on."""
    copy = tmp_path_factory.mktemp("environment") / "inventory"
    shutil.copytree(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory", copy)
    text = switches(copy).read_text()
    for name in list(SWITCHES.values())[1:]:
        assert f"{name}: true" in text
        text = text.replace(f"{name}: true", f"{name}: false")
    switches(copy).write_text(text)
    return copy


@pytest.fixture(scope="module")
def play(inventory, tmp_path_factory):
    """Run a playbook for that inventory, with variables; return the finished process and all records."""
    directory = tmp_path_factory.mktemp("baselines")

    def run(name: str, **variables: object) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
        files = {"feature_file": "features.yml", "rolling_release_pin_file": "releases.yml"}
        files = {name: str(inventory / "group_vars/all" / file) for name, file in files.items()}
        variables = LOAD | PROMETHEUS | files | {"baseline_directory": str(directory)} | variables
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


def results(host) -> int:
    """The number of task results that Celery has stored."""
    return int(host.check_output("image-editor-redis-cli -n 2 DBSIZE"))


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


def test_a_rollout_to_another_release_is_refused(play, host):
    """The name HEAD^{commit} is not the pin, although it is the same release."""
    assert "release_version: HEAD\n" in (ROOT / "inventories/lab/group_vars/all/releases.yml").read_text()
    current = host.check_output("readlink /opt/image-editor/current")
    process, records = play("rollout", optimisation="result_backend", release_version="HEAD^{commit}")
    assert process.returncode != 0
    assert "Leave -e release_version out" in " ".join(process.stdout.split()), process.stdout[-3000:]
    assert not changed(process.stdout)
    assert len(records) == 2, "a baseline was measured"
    assert host.check_output("readlink /opt/image-editor/current") == current


def test_a_rollout_of_the_first_hosts_alone_is_refused(play, host):
    before = payload(host), results(host)
    process, _ = play("rollout", optimisation="result_backend", feature_canary=1)
    assert process.returncode != 0
    assert "feature_canary works only with playbooks/feature.yml" in " ".join(process.stdout.split()), process.stdout[-3000:]
    assert not changed(process.stdout)
    assert (payload(host), results(host)) == before


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


@pytest.mark.parametrize("optimisation", SWITCHES)
def test_a_rollout_that_makes_no_metric_worse_is_kept(play, host, inventory, optimisation):
    """The two baselines differ in this switch alone, and the platform uses the feature afterwards."""
    before = yaml.safe_load(switches(inventory).read_text())
    stored = results(host)
    short = {} if optimisation == "monitoring" else {"rollout_load": 6, "baseline_seconds": 6}
    process, records = play(
        "rollout", optimisation=optimisation, baseline_tolerances={"success_ratio": TOLERANCES["success_ratio"]}, **short
    )
    assert process.returncode == 0, process.stdout[-3000:]
    assert f"{optimisation} is on, and nothing is worse than it may be" in " ".join(process.stdout.split())
    after = yaml.safe_load(switches(inventory).read_text())
    assert [name for name in after if after[name] != before[name]] == [SWITCHES[optimisation]]
    one, other = records[-2:]
    assert [name for name in one["switches"] if one["switches"][name] != other["switches"][name]] == [SWITCHES[optimisation]]
    assert one["release"] == other["release"]
    assert one["metrics"]["success_ratio"] == other["metrics"]["success_ratio"] == 1
    if optimisation == "task_payload":
        assert payload(host) == "full"
    elif optimisation == "result_backend":
        assert results(host) == stored + other["edits"]["succeeded"], "Celery stored no result for each edit after the switch"
    elif optimisation == "flower":
        assert host.check_output("curl -sk -o /dev/null -w '%{http_code}' https://localhost/flower/") == "401"


def test_the_recording_rules_and_the_baseline_say_the_same(play, host):
    """Prometheus has watched the last baseline, which measured the platform when the rollout had switched monitoring on."""
    record = json.loads(max(play.directory.glob("*.json")).read_text())
    assert record["switches"]["monitoring_enabled"]
    began, seconds = datetime.fromisoformat(record["at"]).timestamp(), record["seconds"]

    def ask(expression: str, at: float | None = None) -> float | None:
        query = f"query={quote(expression)}" + (f"&time={at}" if at else "")
        answer = json.loads(host.check_output(f"curl -s 'http://127.0.0.1:9090/prometheus/api/v1/query?{query}'"))
        return float(answer["data"]["result"][0]["value"][1]) if answer["data"]["result"] else None

    # The workers restarted when monitoring was switched on, so their counters have the edits of this baseline and no others.
    count = 'image_editor_task_seconds_count{task="edit"}'
    until("Prometheus has seen each edit", lambda: ask(f"sum({count})") == record["edits"]["succeeded"], 60)
    times = range(int(began), int(time.time()) + INTERVAL, INTERVAL)  # the last of them is not before the time of that scrape
    at = next(at for at in times if ask(f"sum({count})", at) == record["edits"]["succeeded"]) + 2 * INTERVAL
    until("the rules have been evaluated after that", lambda: time.time() > at + INTERVAL, 60)
    # Both have the same edits. The worker's time also has the commit.
    mean = ask(f"sum({count.replace('count', 'sum')}) / sum({count})", at)
    assert 0 < mean - record["metrics"]["task_seconds_mean"] < 0.2
    # The rule's rate() leaves out what a series had at its first scrape: the first edit after a restart, which is slow. Each
    # series has a mean of its own. rate() weighs them by their first and last scrape, so the rule's mean lies between them.
    evaluated = ask("timestamp(image_editor:task_seconds:mean5m)", at)
    grown = "(max_over_time({0}[5m]) - min_over_time({0}[5m]))"
    means = f"({grown.format(count.replace('count', 'sum'))} / ({grown.format(count)} > 0))"
    least, most = (ask(f"{function}({means})", evaluated) for function in ("min", "max"))
    assert least * 0.999 <= ask("image_editor:task_seconds:mean5m", at) <= most * 1.001
    ruled = {"success_ratio": ask("image_editor:success_ratio:5m", at)}
    for metric in ("redis_memory_bytes", "database_connections"):
        ruled[metric] = ask(f"avg_over_time(image_editor:{metric}[{seconds}s])", began + seconds)
    print(ruled, record["metrics"])
    # The tolerances of the verdict, without the 8 MiB of Redis's memory, which is more than the memory that is used here.
    for metric, value in ruled.items():
        least = 0 if metric == "redis_memory_bytes" else TOLERANCES[metric]["least"]
        assert value == pytest.approx(record["metrics"][metric], rel=TOLERANCES[metric]["percent"] / 100, abs=least), metric
