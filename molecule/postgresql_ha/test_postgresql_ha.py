"""The database's cluster loses a process, a host or etcd, under load. No acknowledged write is lost.

The order of the tests matters: the last ones leave the cluster and begin it again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from os import environ
from pathlib import Path

import pytest
import yaml
from helpers import REPEAT, ROOT, SOAK, address, changed, container, in_soak, one_line, playbook, secret, until

sys.path.insert(0, str(ROOT / "scripts"))
import chaos
import figures

HERE = Path(__file__).parent
NODES = ("db1", "db2")
DATABASE = "playbooks/database.yml"
ALONE = ("-e", "postgresql_replication_enabled=false")
TRUST = "--cacert /etc/ssl/certs/image-editor-ca.crt"
CERTIFICATE = "--cert /etc/ssl/certs/image-editor.crt --key /etc/ssl/private/image-editor.key"
UNIT = "postgresql@17-main"


@dataclass
class Bench:
    """The cluster, and the load on it."""

    on: Callable
    gaps: dict[str, list[float]] = field(default_factory=dict)  # seconds without an acknowledged write, by event

    def docker(self, *arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout

    def status(self) -> dict:
        """The state of the cluster, asked on the first node that has an answer."""
        for node in NODES:
            answer = self.on(node).run("image-editor-postgresql status --json").stdout
            if '"nodes"' in answer:
                return json.loads(answer)
        return {"primary": "", "problems": ["no node has an answer"]}

    def settle(self, primary: str = "", seconds: float = 180) -> str:
        """Wait until the cluster is healthy; return its primary. ``primary``: who it has to be."""
        state: dict = {}

        def healthy() -> bool:
            state.update(self.status())
            return not state["problems"] and primary in ("", state["primary"])

        try:
            until("the cluster is healthy", healthy, seconds)
        except AssertionError as error:
            raise AssertionError(json.dumps(state, indent=1)) from error
        return state["primary"]

    def sql(self, node: str, query: str, database: str = "image_editor") -> str:
        return self.on(node).check_output("runuser -u postgres -- psql -XtA -d %s -c %s", database, query)

    def acknowledged(self, since: float = 0) -> list[tuple[float, int]]:
        """The writes (time, number) that were acknowledged since a time."""
        lines = self.on("client1").check_output(f"awk -v since={since} '$1 >= since' /var/tmp/load.log").splitlines()
        return [(float(at), int(number)) for at, number in map(str.split, lines)]

    def writes_arrive(self, seconds: float = 60) -> None:
        now = time.time()
        until("writes are acknowledged", lambda: self.acknowledged(now), seconds)

    def gap(self, kind: str, event: Callable[[], object]) -> float:
        """Let an event happen; return the longest time without an acknowledged write around it."""
        self.writes_arrive()
        began = time.time()
        event()
        self.writes_arrive()
        times = [at for at, _ in self.acknowledged(began - 1)]
        longest = max(later - earlier for earlier, later in pairwise(times))
        print(json.dumps({"event": kind, "gap": round(longest, 2)}))
        self.gaps.setdefault(kind, []).append(longest)
        return longest

    def lost(self, node: str) -> int:
        """How many of all acknowledged writes a node does not have. A replica shows a write a moment after it has stored it."""
        written = {number for _, number in self.acknowledged()}
        for _ in range(20):
            missing = written - set(map(int, self.sql(node, "SELECT number FROM written").split()))
            if not missing:
                break
            time.sleep(0.5)
        return len(missing)

    def load(self) -> None:
        """Start the load, which adds to the writes of before."""
        self.on("client1").check_output(
            "systemctl reset-failed load; systemd-run -q --unit load -p EnvironmentFile=/root/load.env"
            " -p StandardOutput=append:/var/tmp/load.log /usr/bin/python3 /usr/local/lib/load.py"
        )
        self.writes_arrive()

    def stored(self) -> list[str]:
        """The names of the database's backups, oldest first. A full one ends with F, a differential one with D."""
        report = json.loads(self.on("client1").check_output("image-editor-backup status --json"))
        return [backup["name"] for backup in report["backups"]["postgresql"]]

    def back_up(self, *options: str) -> str:
        """Back the database up, restore the backup elsewhere, and replay the archive to its end; return the backup's name."""
        store = self.on("client1")
        assert "ok postgresql" in store.check_output(" ".join(("image-editor-backup run postgresql", *options)))
        verified = store.run("image-editor-backup run verify")
        assert verified.rc == 0, verified.stdout + verified.stderr
        return self.stored()[-1]

    def restore(self, *arguments: str) -> None:
        """Restore the database alone, because this scenario has no application."""
        alone = ("-e", "restore_confirm=inventory", "-e", "restore_parts=postgresql", "--limit", ",".join(NODES))
        ran = playbook("playbooks/restore.yml", "-v", *alone, *arguments)
        assert ran.returncode == 0, ran.stdout[-6000:]
        assert "dump_before" in ran.stdout, ran.stdout[-6000:]
        self.settle()

    def converge(self, *arguments: str) -> str:
        ran = playbook(DATABASE, *arguments)
        assert ran.returncode == 0, ran.stdout[-6000:]
        return ran.stdout

    def refused(self, path: str, *arguments: str, inventory: Path | None = None) -> str:
        """Run a playbook that must be refused before it changes anything; return its output on one line."""
        ran = playbook(path, *arguments, inventory=inventory)
        assert ran.returncode != 0, ran.stdout[-6000:]
        assert changed(ran.stdout) == []
        return one_line(ran.stdout)


@pytest.fixture(scope="module")
def bench(on) -> Iterator[Bench]:
    found, client = Bench(on), on("client1")
    found.settle()
    login = found.sql("db1", "SELECT rolname FROM pg_roles WHERE 'role=image_editor_runtime' = ANY (rolconfig)")
    target = (
        f"host={','.join(NODES)} hostaddr={','.join(address(on(node)) for node in NODES)} user={login} dbname=image_editor"
        " sslmode=verify-full sslrootcert=/etc/ssl/certs/image-editor-ca.crt"
        " target_session_attrs=read-write connect_timeout=2 tcp_user_timeout=2000"
    )
    files = {
        "/root/load.env": f'TARGET="{target}"\nPGPASSWORD="{secret("postgresql_password")}"\n',
        "/usr/local/lib/load.py": (HERE / "load.py").read_text(),
    }
    for path, content in files.items():
        command = ["docker", "exec", "-i", container("client1"), "sh", "-c", f"umask 077; cat >{path}"]
        subprocess.run(command, input=content, text=True, check=True)
    client.check_output(": >/var/tmp/load.log")
    found.load()
    yield found
    client.run("systemctl stop load")


def test_the_cluster_has_adopted_the_plain_server(bench, on):
    assert bench.status()["primary"] == "db1"
    for node in NODES:
        assert bench.sql(node, "SELECT count(*) FROM kept") == "1000"
        assert bench.sql(node, "SHOW data_checksums") == "on"
        assert on(node).run(f"systemctl is-active patroni {UNIT}").stdout.split() == ["active", "inactive"]
        assert "disabled" in on(node).check_output("cat /etc/postgresql/17/main/start.conf").split()
    assert bench.sql("db1", "SELECT timeline_id FROM pg_control_checkpoint()") == "1", "the server was promoted"
    assert bench.sql("db1", "SELECT application_name, sync_state FROM pg_stat_replication") == "db2|sync"
    assert bench.sql("db1", "SELECT slot_name, active FROM pg_replication_slots") == "db2|t"
    encrypted = "SELECT usename, ssl FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)"
    assert bench.sql("db1", encrypted) == "replicator|t"


@pytest.mark.parametrize("kind", ["patroni", "etcd"])
def test_nobody_asks_the_cluster_without_a_certificate(on, kind):
    url = f"https://{address(on('db1'))}:" + {"patroni": "8008/patroni", "etcd": "2379/version"}[kind]
    assert on("client1").run(f"curl -sS --max-time 5 {TRUST} {url}").rc != 0
    assert on("client1").run(f"curl -sS --max-time 5 {TRUST} {CERTIFICATE} {url}").rc == 0


def test_only_nodes_change_the_cluster_and_copy_the_data(bench, on):
    """client1 has a certificate of the CA, and may read."""
    url = f"https://{address(on('db1'))}:8008/config"
    sent = "-X PATCH -d '{\"pause\": true}' -o /dev/null -w '%{http_code}'"
    assert on("client1").check_output(f"curl -sS --max-time 5 {TRUST} {CERTIFICATE} {sent} {url}") == "403"
    shown = "sslcert=/etc/ssl/certs/image-editor.crt sslkey=/etc/ssl/private/image-editor.key"
    copied = on("client1").run(
        "psql %s -c IDENTIFY_SYSTEM",
        f"host=db1 user=replicator replication=true sslmode=verify-full sslrootcert=/etc/ssl/certs/image-editor-ca.crt {shown}",
    )
    assert copied.rc != 0
    assert "pg_hba.conf" in copied.stderr


def test_patroni_runs_hardened(on):
    host = on("db1")
    main = host.check_output("systemctl show -P MainPID patroni")
    assert "CapBnd:\t0000000000000000" in host.file(f"/proc/{main}/status").content_string
    assert host.run(f"nsenter -t {main} -m touch /etc/touched").rc != 0
    postmaster = host.check_output("head -n 1 /var/lib/postgresql/17/main/postmaster.pid")
    assert "CapBnd:\t0000000000000000" in host.file(f"/proc/{postmaster}/status").content_string


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"postgresql_failover_ttl": 15}, "postgresql_failover_ttl (15) must be at least 20"),
        ({"postgresql_failover_retry_timeout": 10}, "loop_wait + 2 × retry_timeout at most ttl"),
        ({"postgresql_etcd_nodes": {"db1": "192.0.2.1", "db2": "192.0.2.2"}}, "etcd has 2 members (db1, db2)"),
    ],
)
def test_a_cluster_that_cannot_work_is_refused(bench, given, complaint):
    assert complaint in bench.refused(DATABASE, "-e", json.dumps(given))


def test_a_node_without_a_locale_of_the_database_is_refused(bench, on):
    on("db2").check_output("mv /usr/lib/locale/C.utf8 /root")
    try:
        assert "db2 lacks c.utf8, a locale of the database" in bench.refused(DATABASE)
    finally:
        on("db2").check_output("mv /root/C.utf8 /usr/lib/locale")


def test_check_mode_reports_the_plan_and_changes_nothing(bench):
    ran = playbook("playbooks/postgresql_switchover.yml", "--check")
    assert ran.returncode == 0, ran.stdout
    assert "db1 -> db2" in one_line(ran.stdout)
    assert bench.status()["primary"] == "db1"
    assert changed(bench.converge("--check")) == []


def switch_over(*arguments: str) -> None:
    ran = playbook("playbooks/postgresql_switchover.yml", *arguments)
    assert ran.returncode == 0, ran.stdout


def test_a_switchover_loses_no_write(bench):
    for _ in range(REPEAT):
        before = bench.settle()
        bench.gap("switchover", switch_over)
        after = bench.settle()
        assert after != before
        assert bench.lost(after) == 0
    longest = max(bench.gaps["switchover"])
    assert figures.record("postgresql_switchover_gap_seconds_max", round(longest, 2), "s", "<=5")["ok"]


def test_a_run_after_a_change_of_the_primary_changes_nothing(bench):
    assert changed(bench.converge()) == []
    if SOAK:
        assert changed(bench.converge("--limit", "db2")) == []


def crash(bench: Bench) -> None:
    """Kill the primary's server; wait until the cluster is healthy again."""
    primary = bench.settle()
    bench.gap("crash", lambda: bench.on(primary).check_output("pkill -9 -o -u postgres postgres"))
    bench.settle()


def test_clients_continue_after_the_server_of_the_primary_is_killed(bench):
    for _ in range(REPEAT):
        crash(bench)
    assert bench.lost(bench.settle()) == 0
    longest = max(bench.gaps["crash"])
    assert figures.record("postgresql_crash_gap_seconds_max", round(longest, 2), "s", "<=6")["ok"]


@in_soak
def test_patroni_restarts_after_a_kill_without_a_failover(bench, on):
    primary = bench.settle()
    bench.gap("patroni", lambda: on(primary).check_output("pkill -9 -x patroni"))
    assert bench.settle(primary) == primary
    assert changed(bench.converge()) == []


WATCH = "image-editor-patroni-watch"
SIGNAL = "systemctl kill --kill-whom=main --signal=%s patroni"
# Patroni's main thread then waits for ever when it gets the signal USR2.
HANGING = "import signal, time\nsignal.signal(signal.SIGUSR2, lambda *_: time.sleep(1e9))\n"
healed: list[float] = []  # seconds until a node with a hung Patroni was healthy again


def heals(bench: Bench, began: float) -> set[str]:
    """Wait until the cluster has had a problem and is healthy again. Return the problems that `status` has named."""
    seen: set[str] = set()

    def healthy() -> bool:
        asked = time.time()
        problems = bench.status()["problems"]
        assert time.time() - asked <= 5, "status waits for a node that hangs"
        seen.update(problems)
        return bool(seen) and not problems

    until("the cluster is healthy again", healthy, 180)
    healed.append(time.time() - began)
    print(json.dumps({"healed": round(healed[-1]), "problems": sorted(seen)}))
    return seen


def test_a_run_refuses_a_cluster_with_a_patroni_that_hangs_and_the_watch_ends_it(bench, on):
    primary = bench.settle()
    on(primary).check_output(f"systemctl stop {WATCH}")
    on(primary).check_output(SIGNAL, "STOP")
    began = time.time()
    assert f"Patroni hangs on {primary}" in bench.refused(DATABASE)
    assert time.time() - began <= 60
    on(primary).check_output(f"systemctl start {WATCH}")
    seen = heals(bench, time.time())
    assert [problem for problem in seen if problem.startswith(f"node {primary} does not answer")]
    assert "Patroni is killed" in on(primary).check_output(f"journalctl -u {WATCH} -o cat")


@in_soak
def test_a_thread_that_hangs_is_ended(bench, on):
    primary = bench.settle()
    node = on(primary)
    node.check_output(
        "mkdir -p /run/hanging /run/systemd/system/patroni.service.d && printf %s >/run/hanging/sitecustomize.py"
        " && printf '[Service]\nEnvironment=PYTHONPATH=/run/hanging\n' >/run/systemd/system/patroni.service.d/hanging.conf"
        " && systemctl daemon-reload",
        HANGING,
    )
    node.check_output(SIGNAL, "KILL")
    bench.settle(primary)
    time.sleep(35)  # the watch leaves a new process alone
    node.check_output(SIGNAL, "USR2")
    seen = heals(bench, time.time())
    assert f"Patroni on {primary} hangs: it is killed and started again within a minute" in seen
    # A stop ends it as well, and its server.
    bench.settle()
    switch_over("-e", f"postgresql_switchover_to={primary}")
    bench.settle(primary)
    time.sleep(35)
    node.check_output(SIGNAL, "USR2")
    began = time.time()
    node.check_output("systemctl stop patroni")
    assert time.time() - began <= 30
    until("PostgreSQL has stopped", lambda: node.run("pgrep -x postgres").rc != 0, 30)
    node.check_output("rm -r /run/hanging /run/systemd/system/patroni.service.d && systemctl daemon-reload")
    node.check_output("systemctl start patroni")
    bench.settle()


@in_soak
def test_a_primary_that_was_cut_off_follows_again(bench, on):
    """Debian's Patroni 4.0 hung for ever after such a cut."""
    (cut,) = [failure for failure in chaos.FAILURES if failure.name == "cut off"]
    for _ in range(10):
        primary = bench.settle()
        cut.begin(container(primary))
        time.sleep(25)
        cut.end(container(primary))
        heals(bench, time.time())
        assert bench.lost(bench.settle()) == 0


def test_a_patroni_that_hangs_is_healed_in_time():
    assert figures.record("patroni_hung_heal_seconds_max", round(max(healed), 1), "s", "<=120")["ok"]


def lose_power(bench: Bench) -> None:
    """Kill the primary's host. The other node takes over, and the old primary returns as its replica.

    Its etcd is lost with it. If that was etcd's leader, this takes longer than on the lab (docs/postgresql.md).
    """
    primary = bench.settle()
    other = next(node for node in NODES if node != primary)

    def strike() -> None:
        bench.docker("kill", container(primary))
        until(f"{other} is primary", lambda: bench.status()["primary"] == other, 60)

    bench.gap("host", strike)
    bench.docker("start", container(primary))
    bench.settle(other)
    assert bench.lost(other) == 0
    assert bench.sql(primary, "SELECT pg_is_in_recovery()") == "t"


@in_soak  # scenario host_loss has the same loss, with clients of the whole platform
def test_clients_continue_after_the_host_of_the_primary_loses_power(bench):
    for _ in range(REPEAT):
        lose_power(bench)
    longest = max(bench.gaps["host"])
    assert figures.record("postgresql_host_gap_seconds_max", round(longest, 2), "s", "<=30")["ok"]
    if SOAK:
        assert changed(bench.converge()) == []


def test_writes_go_on_without_a_majority_of_etcd(bench, on):
    """The primary reaches the other node, so it stays primary (failsafe_mode)."""
    primary = bench.settle()

    def without_etcd() -> None:
        for host in ("db2", "client1"):
            on(host).check_output("systemctl stop etcd")
        time.sleep(12)
        assert "etcd has no majority: no replica can be promoted" in bench.status()["problems"]
        assert "etcd has no majority" in bench.refused("playbooks/postgresql_switchover.yml")
        for host in ("db2", "client1"):
            on(host).check_output("systemctl start --no-block etcd")

    longest = bench.gap("etcd", without_etcd)
    assert bench.settle(primary) == primary
    # Patroni waits 2 s for the other node's answer, and a node that is silent for longer ends the mode.
    assert longest <= 6, on(primary).run("journalctl -u patroni -o cat | grep -iE 'failsafe|demot' | tail -n 30").stdout


@in_soak
def test_writes_go_on_while_etcd_is_full(bench, on):
    """At its limit etcd refuses writes. The primary stays, `status` says why, and the steps of docs/postgresql.md repair it."""
    primary = bench.settle()
    certificate = "--cert=/etc/ssl/certs/image-editor.crt --key=/etc/ssl/private/image-editor.key"

    def etcdctl(host: str, command: str) -> str:
        options = f"--cacert=/etc/ssl/certs/image-editor-ca.crt {certificate} --endpoints=https://{address(on(host))}:2379"
        return on(host).check_output(command.replace("etcdctl", f"etcdctl {options}"))

    def full() -> None:
        on("client1").check_output("head -c 1000000 /dev/urandom | base64 -w 0 >/var/tmp/fill")
        # Each write of the key keeps the earlier ones until the next compaction.
        said = etcdctl("client1", "for _ in $(seq 400); do etcdctl put fill </var/tmp/fill 2>&1 || break; done")
        assert "database space exceeded" in said
        time.sleep(30)  # longer than Patroni's `ttl`
        assert [problem for problem in bench.status()["problems"] if "NOSPACE" in problem]

    assert bench.gap("etcd", full) <= 6
    revision = json.loads(etcdctl("client1", "etcdctl get / --write-out=json"))["header"]["revision"]
    etcdctl("client1", f"etcdctl compaction --physical {revision}")
    for host in (*NODES, "client1"):
        etcdctl(host, "etcdctl defrag")
    etcdctl("client1", "etcdctl alarm disarm")
    assert bench.settle(primary) == primary


@in_soak
def test_the_cluster_goes_on_with_a_new_etcd_cluster(bench, on):
    """Every etcd member has lost its disk. The steps of docs/postgresql.md bring the cluster back with every write."""
    primary = bench.settle()
    other = next(node for node in NODES if node != primary)
    for node in (other, primary):
        on(node).check_output("systemctl stop patroni")
    for host in (*NODES, "client1"):
        on(host).check_output("systemctl stop etcd && rm -rf /var/lib/etcd/image-editor")
    ran = playbook(DATABASE)
    assert "There is no cluster yet" in one_line(ran.stdout), ran.stdout[-3000:]
    on(primary).check_output("systemctl start patroni")
    until("the node is primary again", lambda: bench.status()["primary"] == primary, 60)
    on(other).check_output("systemctl start patroni")
    assert bench.settle(primary) == primary
    bench.converge()
    assert changed(bench.converge()) == []
    assert bench.lost(primary) == bench.lost(other) == 0


def test_backups_and_dumps_come_from_whichever_node_is_primary(bench, on):
    assert [name[-1] for name in bench.stored()] == ["F", "F"], "one full backup before the adoption, and one after it"
    if bench.settle() != "db2":
        switch_over("-e", "postgresql_switchover_to=db2")
        bench.settle("db2")
    assert bench.back_up().endswith("D")
    ran = playbook("molecule/postgresql_ha/dump.yml")
    assert ran.returncode == 0, ran.stdout
    found = {node: on(node).run("ls /var/lib/image-editor-backup/dumps/cluster-*.dump").rc == 0 for node in NODES}
    assert found == {"db1": False, "db2": True}


WRITTEN = "SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)"  # the WAL file that this query completes


@in_soak
def test_the_archive_has_what_a_dead_primary_could_not_archive(bench, on):
    """PostgreSQL archives nothing that it got as a replica. The replica that becomes the primary has to do it."""
    primary = bench.settle()
    other = next(node for node in NODES if node != primary)

    def archived(segment: str) -> str:
        return on("client1").check_output("find /var/lib/image-editor-backup/pgbackrest/archive -name %s", f"{segment}-*")

    on(primary).check_output("mv /usr/bin/pgbackrest /usr/bin/pgbackrest.away")
    try:
        bench.writes_arrive()
        segment = bench.sql(primary, WRITTEN)
        bench.writes_arrive()
        assert not archived(segment)
        bench.docker("kill", container(primary))
        until(f"{other} is primary", lambda: bench.status()["primary"] == other, 60)
        until("the new primary has archived the file", lambda: archived(segment), 60)
    finally:
        bench.docker("start", container(primary))
        on(primary).check_output("mv /usr/bin/pgbackrest.away /usr/bin/pgbackrest")
    bench.settle(other)
    assert bench.lost(other) == 0
    bench.back_up()


def test_a_restore_after_a_dropped_table_loses_no_acknowledged_write(bench, on):
    """The primary is restored, and the replica copies it. The replay crosses the timelines of the failovers."""
    bench.writes_arrive()
    on("client1").check_output("systemctl stop load")
    moment = datetime.now(UTC)
    time.sleep(2)
    primary = bench.settle()
    bench.sql(primary, "DROP TABLE written")
    bench.restore("-e", f"restore_to={moment.isoformat()}")
    lost = max(bench.lost(node) for node in NODES)
    assert figures.record("postgresql_restore_acknowledged_lost", lost, "writes", "<=0")["ok"]
    assert bench.sql(primary, "SELECT count(*) FROM kept") == "1000"
    assert on(primary).file("/var/lib/postgresql/17/main.before-restore").is_directory
    bench.load()
    assert bench.back_up("--full").endswith("F")
    if SOAK:
        assert changed(bench.converge()) == []


def test_a_replica_that_lost_its_disk_copies_the_data(bench, on):
    primary = bench.settle()
    replica = next(node for node in NODES if node != primary)
    wipe = "systemctl stop patroni && find /var/lib/postgresql/17/main -mindepth 1 -delete && systemctl start patroni"
    on(replica).check_output(wipe)
    bench.settle(primary)
    assert bench.lost(replica) == 0


@in_soak
def test_a_cluster_that_lost_every_disk_is_restored(bench, on):
    """etcd still knows the cluster. A new one begins, and its empty database does not hide the backups."""
    primary = bench.settle()
    on("client1").check_output("systemctl stop load")
    segment = bench.sql(primary, WRITTEN)
    archived = f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"
    until("all writes are archived", lambda: bench.sql(primary, archived) == "t", 60)
    for node in sorted(NODES, key=lambda node: node == primary):
        on(node).check_output("systemctl stop patroni")
    for node in NODES:
        on(node).check_output("rm -rf /var/lib/postgresql/17/* /etc/postgresql/17/main /etc/patroni/config.yml")
    bench.converge()
    bench.settle("db1")
    ran = playbook("playbooks/backup.yml", "-e", "backup_now=false")
    assert ran.returncode == 0, ran.stdout[-6000:]
    assert "from a host before this one" in one_line(ran.stdout)
    bench.restore()
    assert max(bench.lost(node) for node in NODES) == 0
    bench.load()
    bench.back_up("--full")


@in_soak
def test_a_setting_that_needs_a_restart_reaches_every_node(bench):
    settings = {"max_locks_per_transaction": 96, "deadlock_timeout": "3s", "wal_sender_timeout": "7s"}
    extra = json.dumps({"postgresql_settings_extra": settings})
    bench.converge("-e", extra)
    bench.settle()
    for node in NODES:
        assert bench.sql(node, "SHOW max_locks_per_transaction") == "96"
        assert bench.sql(node, "SHOW deadlock_timeout") == "3s"
        assert bench.sql(node, "SHOW wal_sender_timeout") == "7s", "Patroni's own value has won"
    bench.converge()
    assert bench.sql(bench.settle(), "SHOW max_locks_per_transaction") == "64"


@in_soak
def test_a_node_with_a_database_of_its_own_is_refused_until_that_is_confirmed(bench, on):
    primary = bench.settle()
    node = next(node for node in NODES if node != primary)
    on(node).check_output(
        "systemctl stop patroni && rm -rf /var/lib/postgresql/17/main /etc/postgresql/17/main"
        " && pg_createcluster 17 main --start-conf=auto"
    )
    said = bench.refused(DATABASE)
    assert f"{node} has another database" in said
    assert f"-e postgresql_discard_confirm={node}" in said
    bench.converge("-e", f"postgresql_discard_confirm={node}")
    bench.settle(primary)
    assert bench.lost(node) == 0


def inventory(directory: Path) -> Path:
    """A copy of the scenario's inventory that a test may change."""
    linked = Path(environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
    directory.mkdir()
    shutil.copy(linked / "hosts", directory / "hosts")
    shutil.copytree(linked / "group_vars", directory / "group_vars")
    return directory


def units(on) -> dict[str, list[str]]:
    """Which of the units of the cluster run on each host."""
    names = ("patroni", UNIT, "etcd")
    states = {host: on(host).run("systemctl is-active %s %s %s", *names).stdout.split() for host in (*NODES, "client1")}
    return {host: [name for name, state in zip(names, found, strict=True) if state == "active"] for host, found in states.items()}


def test_a_rollback_to_one_node_is_refused_while_another_leads_or_patroni_runs_elsewhere(bench, tmp_path):
    for primary in ("db2", "db1"):
        switch_over("-e", f"postgresql_switchover_to={primary}")
        bench.settle(primary)
        if primary == "db2":
            assert "db2 is the live primary, but not in postgresql_nodes (db1)" in bench.refused(DATABASE, *ALONE)

    # Patroni on a host that has left the group would be promoted while Debian's unit takes the primary back.
    without = inventory(tmp_path / "inventory")
    listed = yaml.safe_load((without / "hosts").read_text())
    del listed["all"]["children"]["postgresql"]["hosts"]["db2"]
    (without / "hosts").write_text(yaml.safe_dump(listed))
    assert "Patroni still runs on db2" in bench.refused(DATABASE, inventory=without)


@in_soak  # in `make test`, the scenario replication does it with the whole platform
def test_replication_is_rolled_back_to_one_node_and_brought_back(bench, on):
    """db1 goes on alone with every write, then leads a cluster again. Each way the server restarts once."""
    bench.gap("rollback", lambda: bench.converge(*ALONE))
    assert units(on) == {"db1": [UNIT], "db2": [], "client1": []}
    assert bench.lost("db1") == 0
    assert bench.sql("db1", "SELECT count(*) FROM pg_replication_slots") == "0"
    assert bench.sql("db1", "SHOW synchronous_standby_names") == ""
    assert "not a node of a cluster" in on("db1").run("image-editor-postgresql status").stderr
    assert changed(bench.converge(*ALONE)) == []

    bench.gap("adoption", lambda: bench.converge())
    bench.settle("db1")
    assert units(on) == {"db1": ["patroni", "etcd"], "db2": ["patroni", "etcd"], "client1": ["etcd"]}
    assert bench.lost("db1") == bench.lost("db2") == 0
    if SOAK:
        assert changed(bench.converge()) == []
    restarts = bench.gaps["rollback"] + bench.gaps["adoption"]
    assert figures.record("postgresql_adoption_gap_seconds_max", round(max(restarts), 2), "s", "<=10")["ok"]


def test_no_acknowledged_write_is_lost(bench, on):
    """After all of the above, both nodes have every write."""
    assert on("client1").service("load").is_running, "the load ended before the tests did"
    on("client1").check_output("systemctl stop load")
    primary = bench.settle()
    assert len(bench.acknowledged()) > 1000
    lost = max(bench.lost(node) for node in NODES)
    assert bench.sql(primary, "SELECT count(*) FROM kept") == "1000"
    assert figures.record("postgresql_acknowledged_lost", lost, "writes", "<=0")["ok"]


@in_soak
def test_two_empty_hosts_become_a_cluster(bench, on):
    """Everything is lost, also what etcd knew. The first host of the group begins."""
    for node in NODES:
        on(node).check_output("systemctl stop patroni")
    on("db1").check_output("image-editor-postgresql forget")
    for node in NODES:
        on(node).check_output("rm -rf /var/lib/postgresql/17/main /etc/postgresql/17/main /etc/patroni/config.yml")
    assert "this run lacks db2" in bench.refused(DATABASE, "--limit", "db1,client1")
    bench.converge()
    bench.settle("db1")
    assert bench.sql("db2", "SELECT count(*) FROM pg_database WHERE datname = 'image_editor'") == "1"
    assert changed(bench.converge()) == []
