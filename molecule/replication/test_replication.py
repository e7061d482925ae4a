"""Redis is switched over, and the replication of Redis and of PostgreSQL is rolled back to one node and switched on again.

Edits go on while something changes. The order of the tests matters: replication is on until the rollback, and then off
until it is brought back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from feature_rollback import OFF, Rollbacks
from helpers import ROOT, Api, Load, address, changed, one_line, submitting, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures
import rollbacks

HOSTS = ("data1", "data2", "app1", "edge1")
PATRONI = "/etc/patroni/config.yml /etc/patroni/image-editor.json"
STAYS, OTHER = "data1", "data2"  # the node that stays, and the other one
KEPT = 1000  # keys or rows that every rollback has to keep


@dataclass(frozen=True)
class Replicated:
    """What differs between the two features."""

    name: str
    service: str  # as the proxies name it
    tool: str  # prints the status of the set or cluster
    units: dict[str, tuple[str, ...]]  # that run on each host while replication is on
    alone: set[str]  # those that run afterwards
    ill: tuple[str, str]  # the host and the unit whose stop makes the set unhealthy
    complaints: tuple[str, str]  # of the refusal then
    write: str
    count: str


BOTH = {
    "redis_replication": Replicated(
        "redis_replication", "redis", "image-editor-redis",
        {**dict.fromkeys(("data1", "data2"), ("redis-server", "redis-sentinel")), "app1": ("redis-sentinel",)},
        {"redis-server@data1"},
        ("data2", "redis-server"),
        ("data1 stays alone, so it has to be the primary of a healthy set", "node data2 does not answer"),
        f"for i in $(seq {KEPT}); do echo SET kept:$i $i EX 3600; done | image-editor-redis-cli -n 1 | grep -c OK",
        "image-editor-redis-cli -n 1 --scan --pattern 'kept:*' | wc -l",
    ),
    "postgresql_replication": Replicated(
        "postgresql_replication", "postgresql", "image-editor-postgresql",
        {**dict.fromkeys(("data1", "data2"), ("patroni", "etcd")), "app1": ("etcd",)},
        {"postgresql@17-main@data1"},
        ("app1", "etcd"),
        ("has to be the primary of a healthy cluster", "etcd member app1 does not answer"),
        f"cd / && runuser -u postgres -- psql -XtAqc 'CREATE TABLE kept AS SELECT generate_series(1, {KEPT})' && echo {KEPT}",
        "cd / && runuser -u postgres -- psql -XtAc 'SELECT count(*) FROM kept'",
    ),
}  # fmt: skip


@dataclass
class Bench:
    """The platform, and the rollbacks of one feature."""

    on: Callable
    feature: Replicated
    runs: Rollbacks

    def status(self) -> dict:
        return json.loads(self.on(STAYS).run(f"{self.feature.tool} status --json").stdout or "{}")

    def whole(self, primary: str = STAYS) -> None:
        """Wait until the set is healthy, with this node as primary."""
        found: dict = {}

        def healthy() -> bool:
            found.update(self.status())
            return found.get("problems") == [] and found["primary"] == primary

        until(lambda: json.dumps(found), healthy, 120)

    def active(self) -> set[str]:
        """The units of the set that run, each as unit@host."""
        known = (name.rpartition("@") for name in self.replicated() | self.feature.alone)
        return {f"{unit}@{host}" for unit, _, host in known if self.on(host).run("systemctl is-active %s", unit).rc == 0}

    def replicated(self) -> set[str]:
        """The units that run while replication is on."""
        return {f"{unit}@{host}" for host, names in self.feature.units.items() for unit in names}


@pytest.fixture(scope="module")
def runs(on, tmp_path_factory) -> Rollbacks:
    """Runs rollbacks, with one inventory for both features."""
    found = Rollbacks(on, tmp_path_factory.mktemp("rollback"), HOSTS, database=STAYS, redis=STAYS)
    for feature in BOTH.values():
        Bench(on, feature, found).whole()
    return found


@pytest.fixture(params=BOTH)
def bench(request, on, runs) -> Bench:
    """The platform, and the rollbacks of one feature."""
    return Bench(on, BOTH[request.param], runs)


@pytest.fixture(scope="module")
def client(on) -> Callable[[], AbstractContextManager[Load]]:
    """Returns a context in which a client submits edits. At its end, all of them have succeeded once."""
    api = Api(on("app1"), "rollback", f"https://{address(on('app1'))}:8000")

    @contextmanager
    def submits() -> Iterator[Load]:
        with submitting(api, [on("app1")]) as load:
            until("edits are accepted", lambda: len(load.accepted) > 2, 60)
            yield load
            count = len(load.accepted)
            until("edits go on", lambda: len(load.accepted) > count + 2, 60)

    return submits


def test_while_redis_is_switched_over_the_api_accepts_every_edit_in_time(on, runs, client):
    """To the other node, and back to the one that stays."""
    bench = Bench(on, BOTH["redis_replication"], runs)
    with client() as load:
        for node in (OTHER, STAYS):
            runs.play("redis_switchover.yml", "-e", f"redis_switchover_to={node}")
            bench.whole(node)
    assert not load.repeated
    assert figures.record("switchover_answer_seconds_max", round(max(load.seconds), 2), "s", "<=3")["ok"]


def test_check_mode_says_what_it_would_do_and_changes_nothing(bench):
    bench.runs.check(bench.feature.name)
    rollbacks.prove(bench.feature.name, "check")


def test_a_rollback_is_refused_while_the_set_is_unhealthy(on, bench):
    host, unit = bench.feature.ill
    on(host).check_output(f"systemctl stop {unit}")
    try:
        said = bench.runs.refused(f"rollback/{bench.feature.name}.yml")
    finally:
        on(host).check_output(f"systemctl start {unit}")
    assert [complaint for complaint in bench.feature.complaints if complaint not in said] == [], said[-3000:]
    bench.whole()
    rollbacks.prove(bench.feature.name, "unhealthy")


def test_a_rollback_is_refused_while_the_node_that_stays_is_declared_down(bench):
    said = bench.runs.refused(f"rollback/{bench.feature.name}.yml", "-e", f"platform_down={STAYS}")
    assert f"{STAYS} is declared down, but it is the node that stays" in said, said[-3000:]


def test_a_rollback_is_refused_while_a_release_is_under_way(bench):
    bench.runs.refused_while_a_release_is_under_way(bench.feature.name)
    rollbacks.prove(bench.feature.name, "release")


def test_a_rollback_is_refused_while_a_host_does_not_answer(bench):
    """The rollback changes nothing on the edge, and checks that the edge answers."""
    bench.runs.refused_while_unreachable(bench.feature.name, "edge1")
    rollbacks.prove(bench.feature.name, "unreachable")


def test_a_rollback_is_refused_if_the_inventory_lacks_the_switch(bench):
    bench.runs.refused_without_the_switch(bench.feature.name)
    rollbacks.prove(bench.feature.name, "missing_switch")


def test_a_rollback_makes_backups_and_leaves_one_node_with_all_data(on, bench, client):
    """All keys or rows are kept, the proxies lead to the node that stays, and no other unit of the set runs. Edits go on."""
    feature = bench.feature
    assert bench.active() == bench.replicated()
    on(STAYS).run(f"cp -p {PATRONI} /root")
    assert on(STAYS).check_output(feature.write) == str(KEPT)
    with client() as load:
        bench.runs.roll_back(feature.name, edits=len(load.accepted))
    rollbacks.prove(feature.name, "load")
    rollbacks.prove(feature.name, "backups")
    assert on(STAYS).check_output(feature.count) == str(KEPT)
    led = on("app1").check_output("image-editor-proxy status").splitlines()
    assert [line for line in led if line.startswith(feature.service)] == [f"{feature.service} primary: {STAYS}"]
    assert bench.active() == feature.alone
    rollbacks.prove(feature.name, "done")


def test_a_second_rollback_changes_nothing(bench):
    bench.runs.again(bench.feature.name)
    rollbacks.prove(bench.feature.name, "second_run")


def test_a_rollback_that_ended_half_way_is_finished_by_the_next_run(on, runs):
    """Debian's unit has the server, and Patroni's files are still there."""
    on(STAYS).check_output("cp -p /root/config.yml /root/image-editor.json /etc/patroni")
    runs.play("rollback/postgresql_replication.yml")
    assert on(STAYS).run(f"ls {PATRONI}").rc != 0
    assert on(STAYS).run("systemctl is-active postgresql@17-main").stdout.strip() == "active"


def test_site_yml_keeps_replication_off(on, runs):
    """The store only makes the full backup for which a change of the database's nodes asks."""
    full = "TASK [backup : first | Make the first backup of each kind]"
    assert [task for task in changed(runs.play("site.yml")) if full not in task] == []
    for name, feature in BOTH.items():
        assert Bench(on, feature, runs).active() == feature.alone
        rollbacks.prove(name, "site")


def test_an_inventory_without_the_commit_is_refused(runs):
    """Preflight, with which site.yml begins, says who rolled replication back, when, and what to commit."""
    committed = runs.switches.read_text()
    without = committed
    for name in BOTH:
        without = without.replace(OFF[name], f"{name}_enabled: true")
    runs.switches.write_text(without)
    try:
        said = runs.refused("preflight.yml")
    finally:
        runs.switches.write_text(committed)
    for name in BOTH:
        assert f"{name} was rolled back on" in said
        assert f"commit this line in group_vars/all/features.yml: {OFF[name]}" in said


def roll_out(runs: Rollbacks, name: str, directory: Path) -> None:
    """Switch replication on by a rollout, between two baselines in which no edit fails."""
    variables = {
        "optimisation": name, "rollout_load": 6, "baseline_seconds": 6, "baseline_directory": str(directory),
        "baseline_tolerances": {"success_ratio": {"percent": 0, "least": 0.005}},
    }  # fmt: skip
    said = runs.play("rollout.yml", "-e", json.dumps(variables))
    assert f"{name} is on, and nothing is worse than it may be" in one_line(said)
    records = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    assert [record["switches"][f"{name}_enabled"] for record in records] == [False, True]
    assert len({record["release"] for record in records}) == 1


def test_replication_is_brought_back(on, bench, client, tmp_path):
    """That of Redis by a rollout, which measures before and after. Edits go on."""
    name = bench.feature.name
    with client():
        if name == "redis_replication":
            roll_out(bench.runs, name, tmp_path)
        else:
            bench.runs.play("feature.yml", "-e", f"feature_name={name}", "-e", "feature_enabled=true")
    assert bench.active() == bench.replicated()
    bench.whole()
    assert on(OTHER).check_output(bench.feature.count) == str(KEPT), "the replica lacks what was there before"
    rollbacks.prove(name, "forward")
