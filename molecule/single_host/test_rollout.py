"""Four features that were rolled back are brought back by rollouts, between two baselines. (Redis replication: scenario default.)

The order of the tests matters: all features are off at first, as test_rollback.py leaves them, and on at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import yaml
from feature_rollback import OFF
from features import ON, TOLERANCES
from helpers import LOCK, ROOT, Load, submitting

sys.path.insert(0, str(ROOT / "scripts"))
import rollbacks


@pytest.fixture(scope="module", autouse=True)
def load(bench) -> Iterator[Load]:
    """The client that submits edits while the environment is locked: while a feature is switched, but not during a baseline."""
    with submitting(bench.api, [bench.host], when=lambda: bench.host.file(LOCK).exists) as found:
        yield found


@pytest.mark.parametrize("name", ON)
def test_a_rollout_that_makes_no_metric_worse_is_kept(bench, baselines, load, name):
    """The two baselines differ in this switch alone, and the platform uses the feature afterwards."""
    switches, variable = bench.rollbacks.switches, OFF[name].partition(":")[0]
    before, stored, submitted = yaml.safe_load(switches.read_text()), bench.results(), len(load.accepted)
    edits = 6
    process, records = baselines.play(
        "rollout", optimisation=name, rollout_load=edits, baseline_seconds=edits,
        baseline_tolerances={"success_ratio": TOLERANCES["success_ratio"]},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-3000:]
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
