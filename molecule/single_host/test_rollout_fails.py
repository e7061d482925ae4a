"""The switch of a feature, and rollouts that are refused.

The order of the tests matters: all features are on at first. In the soak task_payload is off at the end; the hosts remember that.
"""

from __future__ import annotations

from helpers import ROOT, changed, in_soak


def test_a_rollout_of_a_feature_that_is_on_is_refused(baselines):
    process, _ = baselines.play("rollout", optimisation="task_payload")
    assert process.returncode != 0
    assert "task_payload is on already" in " ".join(process.stdout.split())


@in_soak
def test_a_switch_changes_one_line_of_the_inventory_and_the_platform(bench, baselines):
    before = bench.rollbacks.switches.read_text()
    assert bench.payload() == "full"
    process, _ = baselines.play("feature", feature_name="task_payload", feature_enabled=False)
    assert process.returncode == 0, process.stdout[-3000:]
    assert bench.rollbacks.switches.read_text() == before.replace("task_payload: full", "task_payload: id")
    assert bench.payload() == "id"
    process, _ = baselines.play("feature", feature_name="task_payload", feature_enabled=False)
    assert process.returncode == 0, process.stdout[-3000:]
    assert not changed(process.stdout)


@in_soak
def test_a_rollout_to_another_release_is_refused(bench, baselines):
    """The name HEAD^{commit} is not the pin, although it is the same release."""
    assert "release_version: HEAD\n" in (ROOT / "inventories/single_host/group_vars/all/releases.yml").read_text()
    current = bench.host.check_output("readlink /opt/image-editor/current")
    process, records = baselines.play("rollout", optimisation="task_payload", release_version="HEAD^{commit}")
    assert process.returncode != 0
    assert "Leave -e release_version out" in " ".join(process.stdout.split()), process.stdout[-3000:]
    assert not changed(process.stdout)
    assert not records, "a baseline was measured"
    assert bench.host.check_output("readlink /opt/image-editor/current") == current


@in_soak
def test_a_rollout_of_the_first_hosts_alone_is_refused(bench, baselines):
    before = bench.payload(), bench.results()
    process, _ = baselines.play("rollout", optimisation="task_payload", feature_canary=1)
    assert process.returncode != 0
    assert "feature_canary works only with playbooks/feature.yml" in " ".join(process.stdout.split()), process.stdout[-3000:]
    assert not changed(process.stdout)
    assert (bench.payload(), bench.results()) == before
