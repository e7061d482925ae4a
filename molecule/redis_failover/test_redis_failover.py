"""The Redis primary is killed, loses power or is cut off, under load. No accepted edit is lost."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import REPEAT, ROOT, Api, address, changed, container, playbook, small_photo, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

HERE = Path(__file__).parent
AWAY = 60  # seconds for which both data nodes are gone
NODES = ("redis1", "redis2")
ALL = (*NODES, "redis3")
NETWORK = os.environ["LAB_NAME"]
LATER = "awk -v since=%s '$2 >= since' /var/tmp/load.log"
SENTINEL_PAUSE = 9  # seconds; a Sentinel waits twice its failover-timeout (scenario.yml) before it replaces a primary again


def timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass
class Disturbance:
    """What clients noticed of one event."""

    gap: float  # seconds without an acknowledged write
    resumed: float  # seconds from the end of the gap until a worker was done with a message
    lost: int  # acknowledged writes that are gone
    stale: int  # writes that the old primary acknowledged after the new one had begun


@dataclass
class Bench:
    """The Redis set, and the load on the set."""

    on: Callable
    seen: dict[str, list[Disturbance]] = field(default_factory=dict)
    changed_at: float = 0.0
    addresses: dict[str, str] = field(default_factory=dict)

    def docker(self, *arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout

    def cut_off(self, node: str) -> None:
        """Take a host off the network."""
        address = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
        self.addresses[node] = self.docker("inspect", "-f", address, container(node)).strip()
        self.docker("network", "disconnect", NETWORK, container(node))

    def reconnect(self, node: str) -> None:
        self.docker("network", "connect", "--ip", self.addresses[node], "--alias", node, NETWORK, container(node))

    def status(self) -> dict:
        """The status of the set, asked on redis3."""
        return json.loads(self.on("redis3").run("image-editor-redis status --json").stdout)

    def sql(self, query: str) -> str:
        return self.on("client1").check_output("runuser -u postgres -- psql -XtA -d image_editor -c %s", query)

    def acknowledged(self, since: float) -> tuple[list[tuple[float, int, str]], list[str]]:
        """Writes (time, number, process) and ids of edits that were acknowledged since a time."""
        lines = [line.split() for line in self.on("client1").check_output(LATER, str(since)).splitlines()]
        writes = [(float(line[1]), int(line[2]), line[3]) for line in lines if line[0] == "write"]
        return writes, [line[2] for line in lines if line[0] == "edit"]

    def processes(self) -> set[str]:
        return set(self.on("client1").check_output("systemctl show -P MainPID 'image-editor-worker@*'").split())

    def consumed(self, since: float) -> float | None:
        """When an edit worker was next done with a message. A message that is dropped as a duplicate counts, too."""
        done = "journalctl -u image-editor-worker@edit -o cat -n 3000 | grep -E '\"edit (ended|dropped)\"'"
        times = (json.loads(line)["time"] for line in self.on("client1").run(done).stdout.splitlines())
        return min((at for at in map(timestamp, times) if at > since), default=None)

    def command(self, node: str, command: str) -> str:
        return self.on(node).check_output("image-editor-redis-cli " + command)

    def settle(self, primary: str = "") -> None:
        """Wait until the set is healthy; check that ``primary`` is the primary."""
        until("the set is healthy afterwards", lambda: not self.status()["problems"], 90)
        assert primary in ("", self.status()["primary"])

    def let_sentinels_forget(self) -> None:
        """Wait until the Sentinels are ready to replace a primary again."""
        time.sleep(max(0.0, self.changed_at + SENTINEL_PAUSE - time.time()))

    def disturb(self, kind: str, strike: Callable[[str], object], heal: Callable[[str], object] = lambda _: None) -> Disturbance:
        """Strike the primary under load, wait until the set is healthy, and return what clients noticed."""
        until("the set is healthy before", lambda: not self.status()["problems"], 60)
        self.let_sentinels_forget()
        primary, workers = self.status()["primary"], self.processes()
        began = time.time()
        run = until("writes arrive", lambda: self.acknowledged(began)[0], 10)[-1][2]
        began = time.time()
        strike(primary)
        until("another process takes writes", lambda: any(write[2] != run for write in self.acknowledged(began)[0][-20:]), 60)
        writes, _ = self.acknowledged(began - 1)
        gap, again = max((later[0] - earlier[0], later[0]) for earlier, later in pairwise(writes))
        resumed = until("workers consume again", lambda: self.consumed(again), 60) - again
        self.changed_at = again  # later than the failover began, so the next pause is long enough
        heal(primary)
        self.settle()
        assert self.processes() == workers, "a worker was restarted"
        writes, _ = self.acknowledged(began - 1)
        first = next(at for at, _, process in writes if process != run)
        noticed = Disturbance(
            gap=gap,
            resumed=resumed,
            lost=self.lost(writes),
            stale=sum(process == run and at > first for at, _, process in writes),
        )
        print(json.dumps({"event": kind, **vars(noticed)}))
        self.seen.setdefault(kind, []).append(noticed)
        return noticed

    def lost(self, writes: list[tuple[float, int, str]]) -> int:
        """How many of these writes the primary does not have."""
        kept = set(map(int, self.command(self.status()["primary"], "-n 1 LRANGE failover:log 0 -1").split()))
        return len({number for _, number, _ in writes} - kept)

    def second_run(self, *arguments: str) -> None:
        """Converge the Redis hosts; nothing changes, whichever node is primary."""
        result = playbook("playbooks/cache.yml", "--limit", "redis:redis_sentinel", *arguments)
        assert result.returncode == 0, result.stdout[-3000:]
        assert not changed(result.stdout)

    def same_data(self) -> bool:
        """Whether the replica has all data of the primary, in the same order."""
        primary = self.status()["primary"]
        replica = next(node for node in NODES if node != primary)
        length = int(self.command(primary, "-n 1 LLEN failover:log"))
        until("the replica is as long", lambda: int(self.command(replica, "-n 1 LLEN failover:log")) >= length, 10)
        contents = [self.command(node, f"-n 1 LRANGE failover:log 0 {length - 1}") for node in (primary, replica)]
        return contents[0] == contents[1]


@pytest.fixture(scope="module")
def bench(on) -> Iterator[Bench]:
    host = on("client1")
    # A trigger inserts a row for every edit that ends. Two rows would be two effects.
    host.check_output(
        "runuser -u postgres -- psql -q -d image_editor -v ON_ERROR_STOP=1 -c %s",
        "DROP TABLE IF EXISTS effect; DROP FUNCTION IF EXISTS effect CASCADE; CREATE TABLE effect (id uuid);"
        "CREATE FUNCTION effect() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO effect VALUES (NEW.id); RETURN NULL; END';"
        "CREATE TRIGGER effect AFTER UPDATE ON edit FOR EACH ROW WHEN (NEW.finished_at IS DISTINCT FROM OLD.finished_at)"
        " EXECUTE FUNCTION effect();",
    )
    for name, content in (("load.py", (HERE / "load.py").read_bytes()), ("load.jpg", small_photo())):
        subprocess.run(
            ["docker", "exec", "-i", container("client1"), "sh", "-c", f"cat > /usr/local/lib/{name}"], input=content, check=True
        )
    host.check_output(": > /var/tmp/load.log")
    host.check_output(
        "systemd-run -q --unit load -p User=image-editor -p EnvironmentFile=/etc/image-editor/image-editor.env"
        " -p SupplementaryGroups=image-editor-application"
        " -p WorkingDirectory=/opt/image-editor/current -p StandardOutput=append:/var/tmp/load.log"
        " --setenv=DJANGO_SETTINGS_MODULE=backend.settings --setenv=PYTHONPATH=/opt/image-editor/current"
        " /opt/image-editor/current/venv/bin/python /usr/local/lib/load.py"
    )
    under_load = Bench(on)
    until("the load runs", lambda: all(under_load.acknowledged(0)), 60)
    yield under_load
    host.run("systemctl stop load")


def test_a_switchover_loses_no_write_and_pauses_writes_for_at_most_two_seconds(bench):
    """Planned switchovers, by the playbook."""
    for _ in range(REPEAT):
        noticed = bench.disturb("switchover", lambda _: switch_over())
        assert noticed.lost == 0
        assert bench.same_data()
    gaps = [noticed.gap for noticed in bench.seen["switchover"]]
    assert figures.record("switchover_gap_seconds_max", round(max(gaps), 2), "s", "<=2")["ok"]
    assert figures.record("switchover_lost", sum(n.lost for n in bench.seen["switchover"]), "writes", "<=0")["ok"]


def converge_redis(*arguments: str) -> None:
    """Converge the nodes and the proxies, which need to know all members."""
    result = playbook("playbooks/cache.yml", *arguments)
    assert result.returncode == 0, result.stdout[-4000:]


def switch_over(*arguments: str) -> None:
    result = playbook("playbooks/redis_switchover.yml", *arguments)
    assert result.returncode == 0, result.stdout


def test_check_mode_reports_the_plan_and_changes_nothing(bench):
    before = bench.status()["primary"]
    result = playbook("playbooks/redis_switchover.yml", "--check")
    assert result.returncode == 0, result.stdout
    assert "nothing was changed" in result.stdout
    assert bench.status()["primary"] == before
    bench.second_run("--check")


def test_clients_continue_after_the_primary_is_killed(bench):
    """systemd restarts the primary before it is missed, or Sentinel replaces it; either is fine."""
    for _ in range(REPEAT):
        bench.disturb("kill", lambda primary: bench.on(primary).check_output("pkill -9 redis-server"))
    bench.second_run()


def test_clients_continue_after_the_host_of_the_primary_loses_power(bench):
    for _ in range(REPEAT):
        bench.disturb(
            "power",
            lambda primary: bench.docker("kill", container(primary)),
            lambda primary: bench.docker("start", container(primary)),
        )
    bench.second_run()


def test_clients_write_nothing_to_a_primary_that_is_cut_off(bench):
    """The old primary still believes that it is the primary, and no client writes to it."""

    def mend(primary):
        assert "role:master" in bench.command(primary, "INFO replication")
        bench.reconnect(primary)

    for _ in range(REPEAT):
        noticed = bench.disturb("partition", bench.cut_off, mend)
        assert noticed.stale == 0
        assert bench.same_data()
    bench.second_run()


def test_edits_are_accepted_while_both_nodes_are_gone_and_succeed_afterwards(bench):
    """The API keeps accepting edits, and the queue drains without help."""
    api = Api(bench.on("client1"), url=f"https://{address(bench.on('client1'))}:8000")
    for node in NODES:
        bench.docker("kill", container(node))
    gone = time.monotonic()
    seconds = []
    while time.monotonic() - gone < AWAY:
        began = time.monotonic()
        accepted = api.submit()
        seconds.append(time.monotonic() - began)
        time.sleep(2)
    for node in NODES:
        bench.docker("start", container(node))
    bench.settle()
    bench.changed_at = time.time()  # until now the Sentinels tried to replace the primary
    assert figures.record("redis_gone_answer_seconds_max", round(max(seconds), 2), "s", "<=5")["ok"]
    edit = until("the last edit that was accepted without Redis has ended", lambda: api.ended(accepted), 180)
    assert edit["status"] == "succeeded"


def test_a_forced_failover_replaces_a_dead_primary_without_a_majority_of_sentinels(bench):
    """The primary's host and another Sentinel's host are dead: the operator decides, and clients follow."""
    primary = bench.status()["primary"]
    other = next(node for node in NODES if node != primary)
    dead = (primary, "redis3")
    bench.let_sentinels_forget()
    for node in dead:
        bench.docker("kill", container(node))
    proxy = bench.on("client1")
    until("clients are held off", lambda: proxy.run("image-editor-proxy status").rc == 1, 10)
    time.sleep(6)
    assert proxy.run("image-editor-proxy status").rc == 1, "one Sentinel alone must not decide"
    refusal = playbook("playbooks/redis_switchover.yml")
    assert refusal.returncode != 0
    assert "unsafe, nothing was changed" in refusal.stdout
    switch_over("-e", "redis_failover_force=true")
    until(
        "clients are led to the new primary",
        lambda: proxy.run("image-editor-proxy status").stdout.strip() == f"redis primary: {other}",
        10,
    )
    for node in dead:
        bench.docker("start", container(node))
    bench.settle(other)
    bench.second_run()


def test_a_replica_that_lost_its_data_is_synchronised_within_a_minute_under_load(bench):
    """A replica lost its data: how long a full copy takes, and how far the replica is behind afterwards."""
    status = bench.status()
    replica = next(node for node in NODES if node != status["primary"])
    fill = "\"for i = 1, 50 do redis.call('SET', 'failover:fill' .. i, string.rep(i, 500000)) end\""
    bench.command(status["primary"], f"-n 1 EVAL {fill} 0")
    bench.on(replica).check_output("systemctl stop redis-server && rm -rf /var/lib/redis/* && systemctl start redis-server")
    began = time.monotonic()
    until("the replica has all data again", lambda: "master_link_status:up" in bench.command(replica, "INFO replication"), 60)
    assert figures.record("redis_full_resync_seconds", round(time.monotonic() - began, 1), "s", "<=60")["ok"]
    until("the set is healthy", lambda: not bench.status()["problems"], 30)
    behind = []
    for _ in range(10):
        nodes = bench.status()["nodes"]
        behind.append(abs(nodes[status["primary"]]["offset"] - nodes[replica]["offset"]))
    assert figures.record("redis_replication_lag_bytes_max", max(behind), "bytes", "<=1048576")["ok"]
    bench.command(status["primary"], "-n 1 EVAL \"for i = 1, 50 do redis.call('UNLINK', 'failover:fill' .. i) end\" 0")


def test_with_three_data_nodes_a_primary_that_is_cut_off_refuses_writes(bench, tmp_path):
    """A replica is added without touching the primary. From then on, a primary that is cut off refuses writes."""
    primary = bench.status()["primary"]
    before = bench.command(primary, "INFO server | grep run_id")
    more = tmp_path / "more.yml"
    more.write_text("redis: {hosts: {redis3: }}\n")
    converge_redis("-i", str(more))
    assert bench.command(primary, "INFO server | grep run_id") == before, "the primary was restarted"
    assert bench.command(primary, "INFO replication | grep connected_slaves").strip().endswith("2")
    bench.second_run("-i", str(more))
    bench.cut_off(primary)
    time.sleep(5)
    assert "NOREPLICAS" in bench.on(primary).run("image-editor-redis-cli SET lonely yes").stdout
    until("the others have a primary", lambda: bench.status()["primary"] not in ("", primary), 20)
    proxy = bench.on("client1")
    until(
        "clients are led to the new primary",
        lambda: proxy.run("image-editor-proxy status").stdout.strip() == f"redis primary: {bench.status()['primary']}",
        20,
    )
    bench.reconnect(primary)
    bench.settle()


def test_a_node_that_leaves_is_stopped_and_keeps_its_data(bench):
    """The inventory has two data nodes again."""
    host = bench.on("redis3")
    host.check_output("image-editor-redis switchover --to redis2")
    converge_redis()
    assert host.run("systemctl is-active redis-server").stdout.strip() == "inactive"
    assert host.run("ls /var/lib/redis/appendonlydir/*.base.*").rc == 0
    assert not bench.status()["problems"]
    assert bench.on("client1").run("image-editor-proxy status").rc == 0


def test_replication_is_turned_off_and_on_again_and_no_write_is_lost(bench):
    """Redis runs on the first host alone, then as a set again. No worker restarts. Scenario default has the rollback playbook."""
    off = ("-e", "redis_replication_enabled=false")
    refusal = playbook("playbooks/cache.yml", *off)
    assert refusal.returncode != 0
    assert "redis2 is the live primary, but not in redis_nodes (redis1)" in refusal.stdout, refusal.stdout[-4000:]
    assert not changed(refusal.stdout)
    began, workers = time.time(), bench.processes()
    switch_over("-e", "redis_switchover_to=redis1", *off)
    bench.settle("redis1")
    converge_redis(*off)
    running = {name: bench.on(name).run("systemctl is-active redis-server redis-sentinel").stdout.split() for name in ALL}
    assert running == {"redis1": ["active", "inactive"], "redis2": ["inactive"] * 2, "redis3": ["inactive"] * 2}
    assert bench.on("redis2").run("ls /var/lib/redis/appendonlydir/*.base.*").rc == 0
    assert bench.on("redis2").run("find /etc/redis -name 'admin*' -o -name 'image-editor*' | grep .").rc == 1, "what it knew"
    assert bench.on("client1").check_output("image-editor-proxy status") == "redis primary: redis1"
    single = time.time()
    until("writes arrive", lambda: bench.acknowledged(single)[0])
    assert "neither a node nor a Sentinel" in bench.on("redis2").run("image-editor-redis status").stderr
    converge_redis()
    bench.settle("redis1")
    writes, _ = bench.acknowledged(began)
    assert bench.lost(writes) == 0
    assert bench.same_data()
    assert bench.processes() == workers, "a worker was restarted"


def test_no_accepted_edit_is_lost(bench):
    """After all of the above, every edit has ended, once."""
    until("enough was accepted", lambda: len(bench.acknowledged(0)[1]) > 2000, 600)
    assert bench.on("client1").service("load").is_running, "the load ended before the tests did"
    bench.on("client1").check_output("systemctl stop load")
    _, accepted = bench.acknowledged(0)
    until("everything has ended", lambda: bench.sql("SELECT count(*) FROM edit WHERE finished_at IS NULL") == "0", 300)
    ended = set(bench.sql("SELECT id FROM edit WHERE status = 'succeeded'").split())
    doubled = bench.sql("SELECT count(*) - count(DISTINCT id) FROM effect")
    again = bench.sql("SELECT count(*) FROM edit WHERE dispatches > 1")
    print(f"{len(accepted)} accepted, {again} of them published again by the reconciler, {doubled} effects doubled")
    assert figures.record("failover_accepted_lost", len(set(accepted) - ended), "edits", "<=0")["ok"]
    assert figures.record("failover_effects_doubled", int(doubled), "edits", "<=0")["ok"]


def test_the_figures_of_all_failovers_are_within_their_limits(bench):
    unplanned = [noticed for kind, list_ in bench.seen.items() if kind != "switchover" for noticed in list_]
    everything = unplanned + bench.seen["switchover"]
    assert {"kill", "power", "partition"} <= set(bench.seen)
    assert figures.record("failover_gap_seconds_median", round(statistics.median(n.gap for n in unplanned), 2), "s", "<=8")["ok"]
    assert figures.record("failover_gap_seconds_max", round(max(n.gap for n in unplanned), 2), "s", "<=12")["ok"]
    assert figures.record("workers_resume_seconds_max", round(max(n.resumed for n in everything), 2), "s", "<=5")["ok"]
    assert figures.record("stale_primary_writes", sum(n.stale for n in everything), "writes", "<=0")["ok"]
