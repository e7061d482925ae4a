"""A rollout makes a metric worse and is rolled back. Then all features are brought back: one by a rollout, in the soak each.

The order of the tests matters: all features are off at first, as test_rollback.py leaves them, and on at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import yaml
from feature_rollback import OFF
from features import EDITS, ON, TOLERANCES
from helpers import LOCK, ROOT, SOAK, Load, in_soak, submitting

sys.path.insert(0, str(ROOT / "scripts"))
import rollbacks


@pytest.fixture(scope="module", autouse=True)
def load(bench) -> Iterator[Load]:
    """The client that submits edits while the environment is locked: while a feature is switched, but not during a baseline."""
    with submitting(bench.api, [bench.host], when=lambda: bench.host.file(LOCK).exists) as found:
        yield found


KEPT = "task_payload"  # `make test` brings this feature back by a rollout, and `make soak` each
TOLERANT = {"percent": 10000, "least": 1e9}  # twelve edits are too few for a verdict on times


def test_a_rollout_that_makes_a_metric_worse_is_rolled_back(bench, baselines):
    """With a negative tolerance an unchanged metric counts as worse. Both baselines are recorded, and a dump is made first."""
    before, dumps = bench.rollbacks.switches.read_text(), bench.rollbacks.dumps()
    process, records = baselines.play(
        "rollout", optimisation="task_payload", rollout_rollback_if_worse=True,
        baseline_tolerances={"task_seconds_mean": TOLERANT, "success_ratio": {"percent": -1, "least": -1}},
    )  # fmt: skip
    assert process.returncode != 0
    assert "task_payload made something worse" in " ".join(process.stdout.split()), process.stdout[-3000:]
    assert [record["switches"]["task_payload"] for record in records[-2:]] == ["id", "full"]
    assert {record["edits"]["succeeded"] for record in records[-2:]} == {EDITS}
    assert bench.rollbacks.switches.read_text() == before
    assert bench.payload() == "id"
    (dump,) = bench.rollbacks.dumps() - dumps
    found = bench.host.check_output(f"find /var/lib/image-editor-backup/dumps -name {dump} -user postgres -perm 600")
    assert dump.startswith("before-task-payload-")
    assert found


@pytest.mark.parametrize("name", [name if name == KEPT else pytest.param(name, marks=in_soak) for name in ON])
def test_a_rollout_that_makes_no_metric_worse_is_kept(bench, baselines, load, name):
    """The two baselines differ in this switch alone, and the platform uses the feature afterwards."""
    switches, variable = bench.rollbacks.switches, OFF[name].partition(":")[0]
    before, stored, submitted = yaml.safe_load(switches.read_text()), bench.results(), len(load.accepted)
    edits = 6
    with bench.rollbacks.no_scheduled_save():
        saved, _ = bench.rollbacks.snapshot()
        process, records = baselines.play(
            "rollout", optimisation=name, rollout_load=edits, baseline_seconds=edits,
            baseline_tolerances={"success_ratio": TOLERANCES["success_ratio"]},
        )  # fmt: skip
        at, status = bench.rollbacks.snapshot()
    assert process.returncode == 0, process.stdout[-3000:]
    assert at > saved, "Redis has not saved its data before the switch"
    assert status == "ok"
    assert f"{name} is on, and nothing is worse than it may be" in " ".join(process.stdout.split())
    after = yaml.safe_load(switches.read_text())
    assert [switch for switch in after if after[switch] != before[switch]] == [variable]
    one, other = records[-2:]
    assert [switch for switch in one["switches"] if one["switches"][switch] != other["switches"][switch]] == [variable]
    assert one["release"] == other["release"]
    assert one["metrics"]["success_ratio"] == other["metrics"]["success_ratio"] == 1
    assert one["edits"]["succeeded"] == other["edits"]["succeeded"] == edits, "the load went on during a baseline"
    meanwhile = load.accepted[submitted:]
    assert meanwhile, "nothing was submitted while the feature was switched"
    if name == "task_payload":
        assert bench.payload() == "full"
    elif name == "result_backend":
        with_result = sum(map(bench.has_result, meanwhile))  # of those whose worker had the new setting
        assert bench.results() == stored + with_result + edits, "Celery stored no result for each edit after the switch"
    ON[name](bench)
    rollbacks.prove(name, "forward")


@pytest.mark.skipif(SOAK, reason="a rollout has brought the feature back")
@pytest.mark.parametrize("name", [name for name in ON if name != KEPT])
def test_a_feature_is_brought_back_without_measuring(bench, load, name):
    """One line of the inventory changes, and the platform uses the feature afterwards."""
    before, submitted = bench.rollbacks.switches.read_text().splitlines(), len(load.accepted)
    bench.rollbacks.play("feature.yml", "-e", f"feature_name={name}", "-e", "feature_enabled=true")
    after = bench.rollbacks.switches.read_text().splitlines()
    (changed,) = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed[0].startswith(OFF[name]), changed
    assert load.accepted[submitted:], "nothing was submitted while the feature was switched"
    ON[name](bench)
    rollbacks.prove(name, "forward")
