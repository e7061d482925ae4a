"""What image-editor-postgresql concludes from the answers of Patroni and etcd, and what it refuses."""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from image_editor_tools.errors import Refusal
from image_editor_tools.postgresql import role, status, switchover
from image_editor_tools.postgresql.connection import read_member, read_node
from image_editor_tools.postgresql.members import Description, Member, Node, State

DESCRIBED = Description(
    me="a",
    scope="image-editor",
    nodes={"a": "192.0.2.1", "b": "192.0.2.2"},
    patroni_port=8008,
    etcd={"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"},
    etcd_port=2379,
    ca="/ca.crt",
    certificate="/host.crt",
    key="/host.key",
)
SOUND = State(
    DESCRIBED,
    leader="a",
    nodes={
        "a": Node("a", role="primary", state="running", timeline=3, location=900),
        "b": Node("b", role="replica", state="running", replication="streaming", timeline=3, location=880, synchronous=True),
    },
    etcd={name: Member(name, has_leader=True) for name in "abc"},
)


def changed(node: str = "", leader: str = "a", etcd: dict | None = None, **values: object) -> State:
    """The sound cluster with other values for one node, another leader, or other etcd members."""
    nodes = SOUND.nodes | ({node: replace(SOUND.nodes[node], **values)} if node else {})
    return replace(SOUND, leader=leader, nodes=nodes, etcd=SOUND.etcd | (etcd or {}))


def test_answers_of_patroni_are_read():
    replica = {
        "state": "running",
        "role": "replica",
        "xlog": {"received_location": 71, "replayed_location": 70},
        "timeline": 2,
        "replication_state": "streaming",
        "sync_standby": True,
        "pause": True,
    }
    assert read_node("b", replica) == Node(
        "b", role="replica", state="running", replication="streaming", timeline=2, location=70, synchronous=True, paused=True
    )
    primary = read_node("a", {"role": "primary", "state": "running", "xlog": {"location": 72}, "pending_restart": True})
    assert (primary.location, primary.pending_restart) == (72, True)
    assert read_node("a", {"role": "primary", "state": "start failed"}).location == 0


def test_answers_of_etcd_are_read():
    assert read_member("a", {"leader": "17", "dbSize": "20480"}) == Member("a", has_leader=True)
    assert read_member("a", {"errors": ["memberID:17 alarm:NOSPACE "]}) == Member("a", alarms=("memberID:17 alarm:NOSPACE",))


def test_a_sound_cluster_has_no_problem():
    assert SOUND.problems() == []
    lines = list(status.lines(SOUND))
    assert lines[0].split(maxsplit=2) == ["node", "a", "primary; running, timeline 3"]
    assert lines[1].split(maxsplit=2) == ["node", "b", "synchronous replica; streaming, timeline 3, 20 bytes behind"]
    assert lines[2].split(maxsplit=2) == ["etcd", "a", "in a majority"]
    assert lines[-1] == "ok"
    assert json.loads(json.dumps(status.values(SOUND)))["primary"] == "a"


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (changed(leader=""), "no node holds the lock in etcd"),
        (changed("b", role="primary"), "2 nodes say that they are primary: a, b"),
        (changed("a", role="replica", replication="streaming"), "0 nodes say that they are primary: none"),
        (changed(leader="b"), "b holds the lock in etcd, but a says that it is primary"),
        (changed("a", paused=True), "Patroni is paused"),
        (changed("b", error="timed out"), "node b does not answer: timed out"),
        (changed("b", hung=True), "Patroni on b hangs"),
        (changed("b", role="uninitialized", state="stopped"), "node b runs no PostgreSQL: it is stopped"),
        (changed("b", replication="in archive recovery"), "replica b does not stream from the primary: it is in archive"),
        (changed("b", timeline=2), "replica b is on timeline 2, the primary on 3"),
        (changed("a", location=64 * 2**20), "replica b is 63 MiB behind"),
        (changed("b", synchronous=False), "no replica is synchronous"),
        (changed(etcd={"c": Member("c", error="refused")}), "etcd member c does not answer: refused"),
        (changed(etcd={name: Member(name) for name in "bc"}), "etcd has no majority"),
        (changed(etcd={"c": Member("c", has_leader=True, alarms=("NOSPACE",))}), "etcd member c reports: NOSPACE"),
    ],
)
def test_a_problem_is_named_in_one_line_and_refuses_a_switchover(state, problem):
    assert [text for text in state.problems() if text.startswith(problem)], state.problems()
    with pytest.raises(Refusal, match="nothing was changed"):
        switchover.plan(state, "")


def test_a_switchover_goes_to_the_synchronous_replica():
    assert switchover.plan(SOUND, "") == ("a", "b")
    third = Node("c", role="replica", state="running", replication="streaming", timeline=3, location=880)
    larger = replace(SOUND, nodes=SOUND.nodes | {"c": third})
    assert switchover.plan(larger, "") == ("a", "b")
    with pytest.raises(Refusal, match="c could lack writes"):
        switchover.plan(larger, "c")
    with pytest.raises(Refusal, match="d is not a node of the cluster: a, b"):
        switchover.plan(SOUND, "d")


def test_a_forced_failover_is_for_a_dead_primary_alone():
    with pytest.raises(Refusal, match="a is alive and primary"):
        switchover.plan_forced(SOUND, "")
    dead = changed("a", error="timed out")
    assert switchover.plan_forced(dead, "") == "b"
    with pytest.raises(Refusal, match="a does not answer as a replica"):
        switchover.plan_forced(dead, "a")
    without = replace(dead, etcd={name: Member(name, error="refused") for name in "abc"})
    with pytest.raises(Refusal, match="etcd has no majority"):
        switchover.plan_forced(without, "")


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Patroni:
    """Stands in for the clients of a cluster whose nodes answer as they should."""

    described = DESCRIBED

    def __init__(self, **settings: object) -> None:
        self.settings, self.asked = settings, []

    def patroni(self, node: str, path: str, body: object = None, *, method: str = "", timeout: float = 0) -> str:
        if path == "/patroni":
            pending = method == "" and ("PUT", "/config") in self.asked and ("POST", f"/restart {node}") not in self.asked
            role = "primary" if node == "a" else "replica"
            return json.dumps({"role": role, "replication_state": "streaming", "pending_restart": pending})
        if path == "/restart":
            self.asked.append(("POST", f"/restart {node}"))
        if method == "PUT":
            self.settings = body
            self.asked.append(("PUT", path))
        return json.dumps(self.settings)

    def etcd(self, path: str, body: object, members: object = ()) -> dict:
        """The leader is a, and Patroni has stored its settings."""
        values = {"/service/image-editor/leader": "a", "/service/image-editor/config": "{}"}
        return {"kvs": [{"key": encode(key), "value": encode(value)} for key, value in values.items()]}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(role, "NOTICED", 0)


def test_settings_that_are_in_place_change_nothing():
    patroni = Patroni(ttl=20, pause=True)
    assert not role.configure(patroni, {"ttl": 20}, merge=False)
    assert patroni.asked == []


def test_changed_settings_restart_replicas_first_and_keep_a_pause():
    patroni = Patroni(ttl=30, old=1, pause=True)
    assert role.configure(patroni, {"ttl": 20}, merge=False)
    assert patroni.settings == {"ttl": 20, "pause": True}
    assert patroni.asked == [("PUT", "/config"), ("POST", "/restart b"), ("POST", "/restart a")]


def test_merged_settings_keep_the_others():
    patroni = Patroni(ttl=20, synchronous_mode_strict=True)
    assert role.configure(patroni, {"synchronous_mode_strict": False}, merge=True)
    assert patroni.settings == {"ttl": 20, "synchronous_mode_strict": False}


@pytest.fixture
def certified(tmp_path) -> Callable[[str], tuple[Path, Path]]:
    """A function that makes a key and a certificate that has expired."""

    def make(name: str) -> tuple[Path, Path]:
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.crt"
        make_key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        dates = ["-not_before", "20200101000000Z", "-not_after", "20210101000000Z"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*make_key, "-subj", f"/CN={name}", *dates, *files], check=True, capture_output=True)
        return certificate, key

    return make


def test_a_reload_ends_when_patroni_shows_the_certificate_in_its_file_although_its_ca_has_expired(certified):
    """While an expired CA is replaced, nobody can verify Patroni's certificate."""
    (former, former_key), (new, new_key) = certified("former"), certified("new")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(former, former_key)
    seen = []

    class Answers(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True):
                seen.append(len(seen))
            context.load_cert_chain(new, new_key)  # Patroni has reloaded

    with socketserver.TCPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _, port = server.server_address
        nodes = {"a": "127.0.0.1"}
        role.wait_reloaded(replace(DESCRIBED, nodes=nodes, patroni_port=port, certificate=str(new), key=str(new_key)))
        server.shutdown()
    assert seen == [0, 1], "it ended before or after the new certificate was there"
