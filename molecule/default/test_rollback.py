"""Redis replication is rolled back to one node and switched on again, while edits go on. No key and no edit is lost.

The order of the tests matters: replication is on until the rollback, and off until it is brought back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from feature_rollback import OFF, Rollbacks
from helpers import ROOT, Api, Load, address, changed, in_soak, one_line, submitting, until

sys.path.insert(0, str(ROOT / "scripts"))
import rollbacks

pytestmark = in_soak  # the steps that it shares with the other rollbacks are tested in scenario single_host
NAME = "redis_replication"
CLIENTS = ("web1", "web2", "worker1", "worker2", "monitor1", "monitor2")
HOSTS = (*CLIENTS, "edge1", "edge2", "db1", "db2", "redis1", "redis2")
KEYS = 1000


def status(on) -> dict:
    return json.loads(on("redis1").run("image-editor-redis status --json").stdout)


def kept(on, host: str) -> str:
    """How many of the keys that the tests have written a node has."""
    return on(host).check_output("image-editor-redis-cli -n 1 --scan --pattern 'kept:*' | wc -l")


def active(on) -> set[str]:
    """The Redis and Sentinel units of the set that run."""
    units = dict.fromkeys(("redis1", "redis2"), ("redis-server", "redis-sentinel")) | {"monitor1": ("redis-sentinel",)}
    return {
        f"{unit}@{host}"
        for host, names in units.items()
        for unit in names
        if on(host).run("systemctl is-active %s", unit).stdout.strip() == "active"
    }


@pytest.fixture(scope="module")
def runs(on, tmp_path_factory) -> Rollbacks:
    """Runs rollbacks. redis1 is the primary, because it is the node that stays; an earlier test may have killed the primary."""
    found = Rollbacks(on, tmp_path_factory.mktemp("rollback"), HOSTS, database="db1", redis="redis1")
    if status(on)["primary"] != "redis1":
        found.play("redis_switchover.yml", "-e", "redis_switchover_to=redis1")
    until("the set is whole", lambda: not status(on)["problems"], 60)
    return found


@pytest.fixture(scope="module", autouse=True)
def load(on, runs) -> Iterator[Load]:
    """The client that submits edits during all tests."""
    api = Api(on("web1"), "rollback", f"https://{address(on('web1'))}:8000")
    with submitting(api, [on("worker1"), on("worker2")]) as found:
        yield found
    if NAME in runs.seconds:
        rollbacks.prove(NAME, "load")


def test_check_mode_says_what_it_would_do_and_changes_nothing(runs):
    runs.check(NAME)
    rollbacks.prove(NAME, "check")


def test_a_rollback_is_refused_while_the_set_is_unhealthy(on, runs):
    on("redis2").check_output("systemctl stop redis-server")
    try:
        said = runs.refused(f"rollback/{NAME}.yml")
    finally:
        on("redis2").check_output("systemctl start redis-server")
    assert "redis1 stays alone, so it has to be the primary of a healthy set" in said
    assert "node redis2 does not answer" in said
    until("the set is whole", lambda: not status(on)["problems"], 60)
    rollbacks.prove(NAME, "unhealthy")


def test_a_rollback_is_refused_while_the_node_that_stays_is_declared_down(runs):
    said = runs.refused(f"rollback/{NAME}.yml", "-e", "platform_down=redis1")
    assert "redis1 is declared down, but it is the node that stays" in said, said[-3000:]


def test_a_rollback_is_refused_while_a_release_is_under_way(runs):
    runs.refused_while_a_release_is_under_way(NAME)
    rollbacks.prove(NAME, "release")


def test_a_rollback_is_refused_while_a_host_does_not_answer(runs):
    """The rollback changes nothing on the edge, and checks that the edge answers."""
    runs.refused_while_unreachable(NAME, "edge1")
    rollbacks.prove(NAME, "unreachable")


def test_a_rollback_is_refused_if_the_inventory_lacks_the_switch(runs):
    runs.refused_without_the_switch(NAME)
    rollbacks.prove(NAME, "missing_switch")


def test_a_rollback_makes_backups_and_leaves_one_node_with_all_keys(on, runs, load):
    """All keys are kept, the proxies lead to the node that stays, and no other unit of the set runs."""
    assert len(active(on)) == 5
    writes = f"for i in $(seq {KEYS}); do echo SET kept:$i $i EX 3600; done | image-editor-redis-cli -n 1 | grep -c OK"
    assert on("redis1").check_output(writes) == str(KEYS)
    runs.roll_back(NAME, edits=len(load.accepted))
    rollbacks.prove(NAME, "backups")
    assert kept(on, "redis1") == str(KEYS)
    led = {on(host).check_output("image-editor-proxy status").splitlines()[0] for host in CLIENTS}
    assert led == {"redis primary: redis1"}
    assert active(on) == {"redis-server@redis1"}
    count = len(load.accepted)
    until("edits go on", lambda: len(load.accepted) > count + 2, 60)
    rollbacks.prove(NAME, "done")


def test_a_second_rollback_changes_nothing(runs):
    runs.again(NAME)
    rollbacks.prove(NAME, "second_run")


def test_site_yml_keeps_replication_off(on, runs):
    assert changed(runs.play("site.yml")) == []
    assert active(on) == {"redis-server@redis1"}
    rollbacks.prove(NAME, "site")


def test_an_inventory_without_the_commit_is_refused(runs):
    """Preflight, with which site.yml begins, says who rolled replication back, when, and what to commit."""
    committed = runs.switches.read_text()
    runs.switches.write_text(committed.replace(OFF[NAME], "redis_replication_enabled: true"))
    try:
        said = runs.refused("preflight.yml")
    finally:
        runs.switches.write_text(committed)
    assert f"{NAME} was rolled back on" in said
    assert f"commit this line in group_vars/all/features.yml: {OFF[NAME]}" in said


def roll_out(runs: Rollbacks, directory: Path) -> None:
    """Switch replication on by a rollout, between two baselines in which no edit fails."""
    variables = {
        "optimisation": NAME, "rollout_load": 6, "baseline_seconds": 6, "baseline_directory": str(directory),
        "baseline_tolerances": {"success_ratio": {"percent": 0, "least": 0.005}},
    }  # fmt: skip
    said = runs.play("rollout.yml", "-e", json.dumps(variables))
    assert f"{NAME} is on, and nothing is worse than it may be" in one_line(said)
    records = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    assert [record["switches"]["redis_replication_enabled"] for record in records] == [False, True]
    assert len({record["release"] for record in records}) == 1


def test_replication_is_brought_back(on, runs, tmp_path):
    roll_out(runs, tmp_path)
    assert len(active(on)) == 5
    until("the set is whole", lambda: status(on)["primary"] == "redis1" and not status(on)["problems"], 60)
    assert kept(on, "redis2") == str(KEYS), "the replica has not all keys that were there before"
    rollbacks.prove(NAME, "forward")
