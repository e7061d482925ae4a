"""Hosts of the platform die, freeze or are cut off while clients use it. Nothing that was accepted is lost or done twice.

The order of the tests matters: the last ones look at the whole run. `make test` kills the leader of each group, and PostgreSQL's
replica. `make soak` kills, freezes and cuts off every host, and then takes hosts away at random. To repeat its random faults:

    HOST_LOSS_SEED=<seed> make soak PIECE=random_1
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from pathlib import Path

import pytest
import requests
import yaml
from helpers import DELIVERED_AGAIN, REPEAT, ROOT, SOAK, changed, container, in_soak, playbook, small_photo, until
from history import Answer, History, Window, two_primaries
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import chaos
import figures
import smoke

URL = f"https://localhost:{os.environ['LAB_EDGE_PORT']}"
CA = str(ROOT / "secrets" / os.environ["LAB_NAME"] / "ca/ca.crt")
TOKEN = "h" * 43
INVENTORY = yaml.safe_load((ROOT / "inventories/lab/hosts.yml").read_text())["all"]
HOSTS = list(INVENTORY["hosts"])
GROUPS = {group: list(found["hosts"]) for group, found in INVENTORY["children"].items()}
# Each host is in one of these groups, and each group has two hosts. The media hosts also monitor, and one of them runs Flower and
# keeps the backups. The host that follows is lost before the leader: so each host is lost once, although the leader changes.
MAIN = ("worker", "redis", "postgresql", "web", "edge", "media")
# `make test` has no time for more followers: what a client notices of them is little.
VICTIMS = [
    pytest.param(group, place, marks=[] if place == "leader" or group == "postgresql" else in_soak)
    for group, place in product(MAIN, ("follower", "leader"))
]
# Whose loss no client notices at all.
UNNOTICED = ("worker", "redis", "web", "media")
KILLED, FROZEN, CUT_OFF = chaos.FAILURES
# What Docker says of a host that is lost in this way, and whether its network is cut.
STATES = {KILLED: ("exited", False), FROZEN: ("paused", False), CUT_OFF: ("running", True)}
EVERY_FAILURE = [KILLED, pytest.param(FROZEN, marks=in_soak), pytest.param(CUT_OFF, marks=in_soak)]

AWAY = 10  # seconds for which a host is away
PROMOTED = 30  # the same for the primary of PostgreSQL, so that its replica is promoted meanwhile
PATIENCE = 20  # seconds after which a client of load.py gives up a request that hangs, and logs it
SETTLE = 420 if SOAK else 240  # seconds within which the platform is whole again
REST = 5  # seconds until an edge that is back passes its check, and until nginx uses a web host again that has failed
APART = 25  # seconds between two losses of Redis hosts: a Sentinel waits for 20 s before it replaces a primary again
FAULTS, PART = 50, int(os.environ.get("HOST_LOSS_PART", "1"))  # random ones of a run; parts of a seed are its successive faults
BLIP = (5, 30)  # seconds for which a random fault lasts: from a blip, which nobody replaces, to a failover of PostgreSQL
NEAR = 60  # seconds between an edit and a loss; `make test` downloads the results of these edits
SAMPLE = 300  # edits, which are chosen at random; `make test` downloads their results, too
# Seconds in which every edit ends and every callback arrives. A receiver that did not answer in time is not called for up to ten
# minutes.
SETTLED = 1800 if SOAK else DELIVERED_AGAIN + 120

WELL = "systemctl is-system-running | grep -qE 'running|degraded'"
WELL_IN = {
    "edge": "curl -sSfk --max-time 5 -o /dev/null https://127.0.0.1/healthz",
    "web": "systemctl is-active image-editor-web.service && image-editor-proxy status",
    "worker": "systemctl is-active image-editor-worker@edit && image-editor-proxy status",
    "postgresql": "image-editor-postgresql status",
    "redis": "image-editor-redis status",
    "media": "systemctl is-active nginx",
}
# Debian's `psql` is a script in Perl that looks for this program. The script takes longer than a query.
PSQL = "/usr/lib/postgresql/17/bin/psql"
LEASE = "SELECT split_part(holder, ':', 1) FROM scheduler_lease WHERE expires_at > now()"
HOLDS_THE_ADDRESS = "ip -4 -oneline address show scope global | grep -q '/32 '"
# On each database host, a client that nobody leads away from a former primary writes to the host's own server. It notes each
# acknowledged write with its timeline. One write a second takes little of two cores.
WITNESS = f"""
[Service]
User=postgres
StateDirectory=witness
WorkingDirectory=/var/lib/witness
ExecStart=/bin/sh -c 'while :; do {PSQL} -XtAqd postgres -f write.sql >>acknowledged 2>/dev/null; sleep 1; done'

[Install]
WantedBy=multi-user.target
"""
# No backup begins meanwhile: one whose host is lost would fail, and later tests look for failed units. A drop-in for all these
# timers holds after a reboot, too.
NO_BACKUPS = """
[Timer]
OnCalendar=
OnCalendar=2099-01-01
"""
HOLD = "/etc/systemd/system/image-editor-backup-.timer.d/hold.conf"
WRITE = """
INSERT INTO witness SELECT extract(epoch FROM clock_timestamp())
RETURNING left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), at;
"""


@dataclass
class Loss:
    """What clients noticed of one loss."""

    group: str
    kind: str
    led: bool  # whether the lost host was the leader of its group
    window: Window
    gone: float  # when the host was away
    back: float  # when it began to return

    @property
    def gap(self) -> float:
        """Seconds without a good answer. While PostgreSQL has no primary, writes are what clients miss."""
        return self.window.gap(*(["edit"] if self.group == "postgresql" else []))

    @property
    def failed(self) -> list:
        """Requests that failed when they were first sent. Those that a web host was answering when it was lost may fail."""
        return [
            answer
            for answer in self.window.failed()
            if not (self.group == "web" and answer.at < self.gone and answer.end > self.window.began)
        ]

    @property
    def slowest(self) -> float:
        """Seconds until the slowest edit was accepted that was sent before the host began to return."""
        return self.window.slowest("edit", before=self.back)


@dataclass
class Bench:
    """The platform, its clients, and what they have noticed so far."""

    on: Callable
    log: io.BufferedReader
    load: subprocess.Popen[str]
    session: requests.Session
    history: History = field(default_factory=History)
    losses: list[Loss] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)  # seconds until another scheduler has the lease
    wrong: list[Answer] = field(default_factory=list)  # what clients got while the database was lost, and could not act on
    survived: int = 0  # random faults
    ill: str = ""  # the host that was not well when it was last asked
    whole: bool = False  # before the first loss, and after the last one

    def read(self) -> None:
        """Take in what the load has printed."""
        assert self.load.poll() is None, "the load has ended"
        while (line := self.log.readline()).endswith(b"\n"):
            self.history.feed(json.loads(line))
        self.log.seek(-len(line), os.SEEK_CUR)  # the rest of this line is not printed yet

    def sql(self, query: str, host: str = "db1", database: str = "image_editor") -> str:
        """Ask the PostgreSQL server of a host, which may be a replica."""
        return self.on(host).check_output("cd / && runuser -u postgres -- %s -XtAqd %s -c %s", PSQL, database, query)

    def leader(self, group: str) -> str:
        """The host of a group that the others follow. The first host in groups in which all do the same."""
        match group:
            case "redis" | "postgresql":
                return json.loads(self.on(GROUPS[group][0]).run(f"image-editor-{group} status --json").stdout)["primary"]
            case "edge":
                (holder,) = self.holders()
                return holder
            case "worker":
                return until("a scheduler has the lease", lambda: self.sql(LEASE))
            case _:
                return GROUPS[group][0]

    def holders(self) -> list[str]:
        """The edges that hold the shared address."""
        return [edge for edge in GROUPS["edge"] if self.on(edge).run(HOLDS_THE_ADDRESS).rc == 0]

    def ailing(self) -> str:
        """The first thing in which the platform is not whole; empty if it is. A host that was ill is asked first."""
        for host in sorted(HOSTS, key=lambda host: host != self.ill):
            checks = [WELL, *(WELL_IN[group] for group in MAIN if host in GROUPS[group])]
            if self.on(host).run(" && ".join(checks)).rc != 0:
                self.ill = host
                return host
        if len(self.holders()) != 1:
            return "the address of the edges"
        return "" if self.sql("SELECT count(*) FROM media_gap") == "0" else "files that a media host lacks"

    def settle(self, seconds: float = SETTLE) -> None:
        """Wait until the platform is whole."""
        found = ["nothing was asked"]

        def whole() -> bool:
            found[0] = self.ailing()
            return not found[0]

        try:
            until("the platform is whole", whole, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {found[0]}") from error

    def prepare(self) -> None:
        """Begin a loss. If the one before has failed, wait a little, and forget what clients have noticed of it."""
        if not self.whole:
            self.settle(30)
            self.read()
            self.history.answers.clear()
        self.whole = False

    def disturb(
        self,
        group: str,
        kind: str,
        strike: Callable,
        mend: Callable = lambda: None,
        *,
        away: float = 0,
        led: bool = True,
        apart: float = 0,
    ) -> Loss:
        """Strike the prepared platform under load, mend it, and wait until it is whole; return what clients noticed.

        Take at least ``apart`` seconds.
        """
        vanished = len(self.history.vanished)
        began = time.time()
        try:
            strike()
            gone = time.time()
            time.sleep(away)
            now = time.time()
            until("edits are accepted meanwhile", lambda: self.accepted_after(now), 60)
        finally:
            back = time.time()
            mend()
        self.settle()
        ends = [began + apart]
        if group != "random":  # what clients notice is counted
            ends.append(time.time() + REST)
            if kind in ("frozen", "cut_off"):  # requests may hang
                ends.append(back + PATIENCE + REST)
        time.sleep(max(0, max(ends) - time.time()))
        self.read()
        self.whole = True
        loss = Loss(group, kind, led, self.history.window(began, time.time()), gone, back)
        noticed = {"failed": len(loss.failed), "again": len(loss.window.failed(again=True)), "gap": round(loss.gap, 2)}
        print(json.dumps({"group": group, "event": kind, "led": led, **noticed}))
        self.losses.append(loss)
        assert self.history.vanished[vanished:] == []
        return loss

    def accepted_after(self, moment: float) -> bool:
        self.read()
        return any(answer.kind == "edit" and answer.ok and answer.at > moment for answer in self.history.answers)

    def lose(self, failure: chaos.Failure, hosts: tuple[str, ...], group: str, *, away: float = AWAY, led: bool = False) -> Loss:
        """Take hosts away, and let them return."""
        with contextlib.ExitStack() as stack:

            def strike() -> None:
                for host in hosts:
                    stack.enter_context(chaos.gone(host, failure, {}))
                    until(f"{host} is {failure.name}", lambda host=host: self.suffers(host, failure) or self.begin(host, failure))
                if group == "worker" and led:
                    began = time.monotonic()
                    until("another scheduler has the lease", lambda: self.sql(LEASE) not in ("", hosts[0]), 60)
                    self.takeovers.append(time.monotonic() - began)

            apart = APART if set(hosts) & set(GROUPS["redis"]) else 0
            return self.disturb(group, failure.name.replace(" ", "_"), strike, stack.close, away=away, led=led, apart=apart)

    def begin(self, host: str, failure: chaos.Failure) -> None:
        """Take the host away once more: on a busy machine, Docker sometimes cannot freeze all of its processes."""
        failure.begin(container(host))

    def suffers(self, host: str, failure: chaos.Failure) -> bool:
        """Whether the failure has taken the host away. Docker says whether it runs: commands also run on a frozen host."""
        inspect = ["docker", "inspect", "-f", "{{.State.Status}}", container(host)]
        state = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
        cut = self.on(host).run("nft list table netdev chaos").rc == 0
        return (state, cut) == STATES[failure]

    def to_download(self) -> list[str]:
        """The edits whose results are downloaded at the end: in `make test` those near certain losses, and some others."""
        if SOAK:
            return list(self.history.accepted)
        moments = [loss.gone for loss in self.losses if loss.group in ("postgresql", "media")]
        near = {edit for edit, at in self.history.accepted.items() if any(abs(at - moment) <= NEAR for moment in moments)}
        others = [edit for edit in self.history.accepted if edit not in near]
        return [*near, *random.Random(1).sample(others, min(SAMPLE, len(others)))]

    def documents(self) -> dict[str, dict]:
        """All edits of the clients, by their ids."""
        found, path = {}, "/api/v1/edits?limit=100"
        while path:
            answer = self.session.get(URL + path, timeout=60)
            if answer.status_code == 429:  # after hours of load there are hundreds of pages
                time.sleep(float(answer.headers["Retry-After"]))
                continue
            page = answer.json()
            found |= {edit["id"]: edit for edit in page["items"]}
            path = page["next"]
        return found

    def downloads(self, edit: dict) -> bool:
        """Whether the result of an edit can be downloaded, and is the image that was asked for."""
        try:
            return Image.open(io.BytesIO(smoke.download(self.session, edit))).size[0] == 16
        except (smoke.SmokeFailed, requests.RequestException, OSError):
            return False


@pytest.fixture(scope="module")
def bench(on, tmp_path_factory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("host_loss")
    (directory / "small.jpg").write_bytes(small_photo())
    hold_backups(on)
    on("web1").check_output("echo %s | image-editor-manage ensure_user clients", TOKEN)
    controller = on("worker1").check_output("ip -4 route show default").split()[2]  # workers may call it (smoke_receiver)
    command = [sys.executable, Path(__file__).with_name("load.py"), URL, CA, directory / "small.jpg", f"{controller}:8099"]
    log = directory / "history.jsonl"
    with log.open("wb") as stream:
        load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, text=True)
    load.stdin.write(f"{TOKEN}\n")
    load.stdin.flush()
    try:
        with log.open("rb") as lines:
            found = Bench(on, lines, load, smoke.client(TOKEN, CA))
            begin_to_witness(found)
            until("callbacks arrive", lambda: found.read() or found.history.webhooks, 60)
            found.settle()
            os.sync()  # what the start of the hosts has left to write would delay a database's commits for seconds
            found.whole = True
            yield found
    finally:
        load.kill()
        load.communicate()
    found.settle()
    end_to_witness(found)
    if (primary := found.leader("postgresql")) != "db1":  # later tests make backups, which need the first host as primary
        on(primary).check_output("image-editor-postgresql switchover --to db1")
    found.settle()
    for host in HOSTS:
        on(host).check_output(f"rm {HOLD} && rmdir $(dirname {HOLD}) && systemctl daemon-reload")


def put(host: str, path: str, content: str) -> None:
    """Write a file on a host."""
    command = ["docker", "exec", "-i", container(host), "sh", "-c", f"mkdir -p $(dirname {path}) && cat >{path}"]
    subprocess.run(command, input=content, text=True, check=True)


def hold_backups(on: Callable) -> None:
    running = "systemctl list-units --state=activating --no-legend 'image-editor-backup-*.service'"
    for host in HOSTS:
        put(host, HOLD, NO_BACKUPS)
        on(host).check_output("systemctl daemon-reload")
    until("no backup is under way", lambda: not any(on(host).check_output(running) for host in HOSTS), 120)


def begin_to_witness(bench: Bench) -> None:
    bench.sql("CREATE TABLE IF NOT EXISTS witness (at numeric PRIMARY KEY)", bench.leader("postgresql"), "postgres")
    for host in GROUPS["postgresql"]:
        put(host, "/etc/systemd/system/witness.service", WITNESS)
        put(host, "/var/lib/witness/write.sql", WRITE)
        bench.on(host).check_output("systemctl daemon-reload && systemctl --quiet enable --now witness")


def end_to_witness(bench: Bench) -> None:
    for host in GROUPS["postgresql"]:
        bench.on(host).check_output(
            "systemctl --quiet disable --now witness && rm -r /etc/systemd/system/witness.service /var/lib/witness"
            " && systemctl daemon-reload"
        )
    bench.sql("DROP TABLE witness", bench.leader("postgresql"), "postgres")


def test_every_host_is_a_victim_once():
    assert sorted(host for group in MAIN for host in GROUPS[group]) == sorted(HOSTS)
    assert all(len(GROUPS[group]) == 2 for group in MAIN)


@pytest.mark.parametrize(("group", "place"), VICTIMS, ids=lambda part: part)
@pytest.mark.parametrize("failure", EVERY_FAILURE, ids=lambda failure: failure.name)
def test_clients_hardly_notice_the_loss_of_a_host(bench, failure, group, place):
    for _ in range(REPEAT):
        led = place == "leader"
        bench.prepare()
        leader = bench.leader(group)
        host = leader if led else next(name for name in GROUPS[group] if name != leader)
        away = PROMOTED if (group, led) == ("postgresql", True) else AWAY
        loss = bench.lose(failure, (host,), group, away=away, led=led)
        if group == "postgresql":
            assert loss.gap <= (30 if led else 10), "seconds without an accepted edit"
            assert loss.window.failed("download") == [], "a finished result could not be downloaded"
            wrong = [answer for answer in loss.failed if not answer.unavailable]
            bench.wrong.extend(wrong)
            assert wrong == [], "not a 503 with a problem document and Retry-After"
        elif group == "edge" and (led or failure is CUT_OFF):
            # An edge that is cut off takes the address as well. For a moment after its return, packets may go to it.
            assert loss.gap <= 5, "seconds without an answer"
        else:
            assert loss.failed == []
            assert loss.window.failed(again=True) == []
        if group == "redis":
            assert loss.slowest <= 3, "seconds until an edit was accepted"


@in_soak  # scenario postgresql_ha has the same test
def test_clients_hardly_notice_that_the_server_of_the_primary_is_killed(bench):
    for _ in range(REPEAT):
        bench.prepare()
        primary = bench.on(bench.leader("postgresql"))
        loss = bench.disturb(
            "postgresql", "crash", lambda primary=primary: primary.check_output("pkill -9 -o -u postgres postgres")
        )
        assert loss.gap <= 6, "seconds without an accepted edit"


@in_soak  # scenario postgresql_ha has the same test
def test_a_planned_switchover_costs_a_client_one_repetition(bench):
    for _ in range(REPEAT):
        bench.prepare()
        primary = bench.on(bench.leader("postgresql"))
        loss = bench.disturb(
            "postgresql", "switchover", lambda primary=primary: primary.check_output("image-editor-postgresql switchover")
        )
        assert loss.gap <= 5, "seconds without an accepted edit"
        assert loss.window.failed(again=True) == []


def faults(seed: int) -> Iterator[tuple[tuple[str, ...], chaos.Failure, float, float]]:
    """The random faults of this part: of one host each, or in parts 5 and 6 of two hosts that have no group in common."""
    pairs = [pair for pair in combinations(HOSTS, 2) if not any(set(pair) <= set(hosts) for hosts in GROUPS.values())]
    victims = pairs if PART > 4 else [(host,) for host in HOSTS]
    return islice(chaos.plan(seed, victims, BLIP), FAULTS * (PART - 1), FAULTS * PART)


@in_soak
def test_the_platform_survives_random_faults(bench, capsys):
    seed = int(os.environ.get("HOST_LOSS_SEED", random.SystemRandom().randrange(10**6)))
    with capsys.disabled():
        print(f"\nhost loss: {FAULTS} random faults, HOST_LOSS_SEED={seed} HOST_LOSS_PART={PART}")
    failure = ""
    for number, (hosts, fault, seconds, _) in enumerate(faults(seed), 1):
        try:
            bench.prepare()
            bench.lose(fault, hosts, "random", away=seconds)
        except AssertionError as error:
            failure = f"HOST_LOSS_SEED={seed} HOST_LOSS_PART={PART}, fault {number}, {' and '.join(hosts)} {fault.name}: {error}"
            break
        bench.survived += 1
    assert figures.record("random_faults_survived", bench.survived, "faults", f">={FAULTS}")["ok"], failure


def test_every_accepted_edit_has_one_result_and_one_effect(bench):
    """The clients send nothing more. Each edit has ended well, and its callback has come. Its result can be downloaded."""
    bench.load.stdin.close()
    documents: dict[str, dict] = {}
    lost: set[str] = set()

    def all_ended() -> bool:
        bench.read()
        documents.update(bench.documents())
        succeeded = {edit for edit, document in documents.items() if document["status"] == "succeeded"}
        lost.clear()
        lost.update(bench.history.lost(succeeded), bench.history.silent())
        return not lost

    with contextlib.suppress(AssertionError):  # the figures below say what is missing
        until("every edit has ended, and every callback has arrived", all_ended, SETTLED)
    assert len(bench.history.accepted) > 500
    present = [documents[edit] for edit in bench.to_download() if edit not in lost]
    with ThreadPoolExecutor(8) as pool:
        lost |= {edit["id"] for edit, there in zip(present, pool.map(bench.downloads, present), strict=True) if not there}
    assert figures.record("host_loss_accepted_lost", len(lost), "edits", "<=0")["ok"], sorted(lost)[:5]
    doubled = bench.history.doubled()
    assert figures.record("host_loss_effects_doubled", len(doubled), "edits", "<=0")["ok"], doubled[:5]
    vanished = bench.history.vanished
    assert figures.record("host_loss_results_vanished", len(vanished), "results", "<=0")["ok"], vanished[:5]


def test_no_two_primaries_of_postgresql_acknowledged_writes(bench):
    lines = {host: bench.on(host).check_output("cat /var/lib/witness/acknowledged").split() for host in GROUPS["postgresql"]}
    writes = [(*line.split("|"), host) for host, found in lines.items() for line in found]
    found = two_primaries((timeline, host, float(at)) for timeline, at, host in writes)
    assert len({timeline for timeline, _, _ in writes}) > 1, "no replica was promoted"
    assert figures.record("host_loss_two_primaries", len(found), "cases", "<=0")["ok"], found
    kept = set(bench.sql("SELECT at FROM witness", bench.leader("postgresql"), "postgres").split())
    assert [write for write in writes if write[1] not in kept] == [], "acknowledged writes are gone"


def test_losses_are_short_enough_for_clients(bench):
    """The figures of docs/failures.md (scripts/failures.py)."""
    assert figures.record("database_loss_wrong_status", len(bench.wrong), "answers", "<=0")["ok"]
    for group in MAIN:
        failed = sum(len(loss.failed) for loss in bench.losses if loss.group == group)
        limit = "<=0" if group in UNNOTICED else None
        assert figures.record(f"host_loss_failed_requests_{group}", failed, "requests", limit)["ok"] is not False
    failed = sum(len(loss.failed) for loss in bench.losses if loss.group in UNNOTICED)
    assert figures.record("host_loss_failed_requests", failed, "requests", "<=0")["ok"]
    limits = {"postgresql": "<=30", "edge": "<=5"}
    for group, kind in sorted({(loss.group, loss.kind) for loss in bench.losses if loss.group in MAIN}):
        gaps = [loss.gap for loss in bench.losses if (loss.group, loss.kind) == (group, kind)]
        limit = {"crash": "<=6", "switchover": "<=5"}.get(kind, limits.get(group))
        assert figures.record(f"host_loss_{kind}_gap_seconds_{group}", round(max(gaps), 2), "s", limit)["ok"] is not False
    kinds = [failure.name.replace(" ", "_") for failure in chaos.FAILURES]
    gaps = [loss.gap for loss in bench.losses if loss.group == "postgresql" and loss.led and loss.kind in kinds]
    limit = "<=25" if len(gaps) > 2 else "<=30"  # a single loss is no median
    assert figures.record("postgresql_host_gap_seconds_median", round(statistics.median(gaps), 2), "s", limit)["ok"]
    assert figures.record("scheduler_takeover_seconds", round(max(bench.takeovers), 1), "s", "<=30")["ok"]


@pytest.mark.usefixtures("bench")
def test_a_run_changes_nothing_after_all_losses():
    result = playbook("playbooks/site.yml")
    assert result.returncode == 0, result.stdout[-3000:]
    assert changed(result.stdout) == []
