"""The commands that image-editor-redis sends to Redis and Sentinel, their order, and how it reads the answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import ROOT, load
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError
from redis_specimens import ADDRESSES, SILENT, description, state

from image_editor_tools import waiting
from image_editor_tools.errors import Refusal
from image_editor_tools.output import Output
from image_editor_tools.redis import connection, main, membership, save, status, switchover
from image_editor_tools.redis.discovery import read_node, read_sentinel

INFO = {
    "role": "slave",
    "master_host": "192.0.2.1",
    "master_link_status": "up",
    "slave_repl_offset": 70,
    "master_repl_offset": 71,
    "db0": {"keys": 3, "expires": 0},
    "db1": {"keys": 4, "expires": 4},
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
}


def test_a_node_is_read_from_its_info():
    node = read_node("b", INFO)
    assert (node.role, node.follows, node.link, node.offset, node.keys) == ("slave", "192.0.2.1", "up", 70, 7)
    assert node.persisted
    primary = read_node("a", {**INFO, "role": "master", "slave_repl_offset": 0, "aof_last_write_status": "err"})
    assert (primary.offset, primary.persisted) == (71, False)


def test_a_sentinel_is_read_from_its_answer():
    found = read_sentinel("c", {"ip": "192.0.2.1", "flags": "master", "num-other-sentinels": 2})
    assert (found.primary, found.flags, found.others) == ("192.0.2.1", "master", 2)


def test_the_report_names_every_member_and_every_problem():
    healthy = state({"a": ("master", ""), "b": ("slave", "a")}, "aaa", {"a": 5, "b": 5})
    lines = list(status.lines(healthy))
    assert lines[0].split(maxsplit=2) == ["node", "a", "primary; offset 0, 5 keys"]
    assert lines[1].split(maxsplit=2) == ["node", "b", "replica of a, link up; offset 0, 5 keys"]
    assert lines[2].split(maxsplit=2) == ["sentinel", "a", "names a"]
    assert lines[-1] == "ok"
    ill = state({"a": ("master", ""), "b": SILENT}, "a")
    assert list(status.lines(ill))[-1] == "4 problem(s)"
    assert json.loads(json.dumps(status.values(ill)))["problems"] == ill.problems()
    assert ill.problems()[0] == "no majority of Sentinels names a primary: clients are held off"


@pytest.mark.parametrize(
    "message",
    [
        "Background save already in progress",
        "Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE",
    ],
)
def test_a_save_waits_while_a_child_process_is_active(message, monkeypatch):
    monkeypatch.setattr(waiting.time, "sleep", lambda seconds: None)
    node = FakeNode(refusals=[ResponseError(message)] * 3)
    save.save(node, "a")
    assert node.told == ["a: BGSAVE"]


def test_a_save_waits_no_longer_than_its_limit(monkeypatch):
    monkeypatch.setattr(save, "SECONDS", 0)
    monkeypatch.setattr(waiting.time, "sleep", lambda seconds: None)
    with pytest.raises(Refusal, match="a is busy with another save"):
        save.save(FakeNode(refusals=[ResponseError("Background save already in progress")] * 9), "a")


def test_a_save_that_redis_refuses_for_another_reason_fails():
    with pytest.raises(Refusal, match="a cannot save: MISCONF"):
        save.begin(FakeNode(refusals=[ResponseError("MISCONF")]), "a")


def test_a_save_waits_for_the_next_second_after_another_save():
    """Redis has whole seconds for the time of a save, so two saves within one second would look like one."""
    node = FakeNode()
    node.now = node.saved_at
    assert save.begin(node, "a") is None
    assert node.told == []
    node.now += 1
    assert save.begin(node, "a")["rdb_last_save_time"] < node.saved_at


def persistence(running=0, status="ok", saves=8, at=101):
    return {
        "rdb_bgsave_in_progress": running,
        "rdb_last_bgsave_status": status,
        "rdb_saves": saves,
        "rdb_last_save_time": at,
    }


BEFORE = persistence(saves=7, at=100)


def test_a_save_is_done_when_it_has_succeeded():
    assert save.is_saved(persistence(running=1, at=100), BEFORE, "a") is False
    assert save.is_saved(persistence(), BEFORE, "a") is True


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (persistence(status="err", at=100), "a could not save, nothing was changed"),
        (persistence(at=100), "a did not end its save"),  # Redis stopped the save, because the node copies another primary
        (persistence(saves=0), "a did not end its save"),  # the node was restarted
    ],
)
def test_a_save_that_did_not_succeed_is_refused(info, reason):
    with pytest.raises(Refusal, match=reason):
        save.is_saved(info, BEFORE, "a")


def test_a_node_is_in_place_as_primary_or_as_connected_replica():
    assert membership.in_place({"role": "master"}, is_primary=True)
    assert not membership.in_place(INFO, is_primary=True)
    assert membership.in_place(INFO, is_primary=False)
    assert not membership.in_place({"role": "master"}, is_primary=False)
    assert membership.follows(INFO, "192.0.2.1")
    assert not membership.follows(INFO, "192.0.2.3")


def test_comments_are_not_sent_to_a_sentinel():
    told = membership.read_commands("# managed\n\nSENTINEL SET image-editor quorum 2\n")
    assert told == [["SENTINEL", "SET", "image-editor", "quorum", "2"]]


@pytest.mark.parametrize(
    ("replica", "in_phase"),
    [
        ({"ip": "192.0.2.2", "slave-priority": 1, "info-refresh": 350}, True),
        ({"ip": "192.0.2.2", "slave-priority": 1, "info-refresh": 550}, True),
        ({"ip": "192.0.2.2", "slave-priority": 1, "info-refresh": 551}, False),
        ({"ip": "192.0.2.2", "slave-priority": 100, "info-refresh": 450}, False),
        ({"ip": "192.0.2.3", "slave-priority": 1, "info-refresh": 450}, False),
    ],
)
def test_a_sentinel_is_in_phase_half_a_second_after_it_asked(replica, in_phase):
    assert switchover.is_in_phase(replica, "192.0.2.2") is in_phase


class FakeNode:
    """A node or a Sentinel that records the commands it gets and answers as in a healthy set."""

    def __init__(self, name="a", told=None, refusals=()):
        self.name, self.told, self.refusals = name, told if told is not None else [], list(refusals)
        self.saves, self.saved_at, self.now = 7, 100, 110

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def note(self, command):
        self.told.append(f"{self.name}: {command}")

    def info(self, *sections):
        if "persistence" in sections:
            return persistence(saves=self.saves, at=self.saved_at)
        return INFO | {"master_repl_offset": 70}

    def bgsave(self, schedule=True):
        if self.refusals:
            raise self.refusals.pop()
        self.note("BGSAVE")
        self.saves, self.saved_at = self.saves + 1, self.now

    def time(self):
        return self.now, 0

    def config_get(self, name):
        return {name: "90"}

    def config_set(self, name, value):
        self.note(f"{name} {value}")

    def config_rewrite(self):
        self.note("CONFIG REWRITE")

    def client_pause(self, milliseconds, all=True):
        self.note("PAUSE" if all else "PAUSE WRITE")

    def client_unpause(self):
        self.note("UNPAUSE")

    def replicaof(self, address, port):
        self.note(f"REPLICAOF {address} {port}")

    def client_kill_filter(self, _type):
        self.note(f"KILL {_type}")

    def sentinel_slaves(self, name):
        return [{"ip": ADDRESSES["b"], "slave-priority": 1, "info-refresh": 450}]

    def sentinel_failover(self, name):
        if self.refusals:
            raise self.refusals.pop()
        self.note(f"FAILOVER {name}")

    def sentinel_get_master_addr_by_name(self, name):
        return (ADDRESSES["b"], 6380)


class FakeClients(connection.Clients):
    """Connections to fake members, which record their commands in one list."""

    def __init__(self, refusals=()):
        super().__init__(description({"a": ADDRESSES["a"], "b": ADDRESSES["b"]}))
        self.told = []
        self.nodes = {name: FakeNode(name, self.told) for name in "ab"}
        self.sentinels = {name: FakeNode(f"sentinel {name}", self.told, refusals) for name in "abc"}

    def node(self, name):
        return self.nodes[name]

    def sentinel(self, name):
        return self.sentinels[name]


HEALTHY = state({"a": ("master", ""), "b": ("slave", "a")}, "aaa")


def test_a_switchover_takes_its_steps_in_the_order_that_loses_nothing(monkeypatch, capsys):
    clients = FakeClients()
    monkeypatch.setattr(switchover.time, "sleep", lambda seconds: clients.told.append(f"wait {seconds:.1f} s"))
    result = switchover.switchover(HEALTHY, clients, "", check=False, output=Output())
    assert result == {"primary": "b", "former": "a", "changed": True}
    assert clients.told == [
        "a: BGSAVE",
        "b: replica-priority 1",
        "a: PAUSE WRITE",
        "sentinel a: FAILOVER image-editor",
        "wait 1.5 s",
        "a: REPLICAOF 192.0.2.2 6380",
        "a: KILL normal",
        "a: UNPAUSE",
        "b: replica-priority 90",
        "a: CONFIG REWRITE",
        "b: CONFIG REWRITE",
    ]
    assert capsys.readouterr().out.splitlines()[-1] == "b is primary; a is its replica and up to date"


def test_writes_go_on_at_the_old_primary_if_sentinel_refuses():
    clients = FakeClients(refusals=[ResponseError("NOGOODSLAVE")])
    with pytest.raises(ResponseError):
        switchover.switchover(HEALTHY, clients, "", check=False, output=Output())
    assert clients.told[-3:] == ["a: PAUSE WRITE", "a: UNPAUSE", "b: replica-priority 90"]


def test_a_switchover_with_check_sends_no_command(capsys):
    clients = FakeClients()
    assert switchover.switchover(HEALTHY, clients, "", check=True, output=Output()) == {"primary": "a", "changed": False}
    assert clients.told == []
    assert capsys.readouterr().out.endswith("nothing was changed\n")


def test_the_tool_waits_as_long_as_the_proxies_need():
    """The role hands the proxy's intervals to the tool; tests/test_redis.py compares them with role proxy."""
    handed = load(ROOT / "roles/redis/vars/main.yml")["__redis_description"]
    for name in ("check_interval", "check_interval_changing"):
        assert handed[f"proxy_{name}"] == f"{{{{ redis_{name} | int }}}}"
    assert description().proxies_notice == pytest.approx(1.5)
    slower = replace(description(), proxy_check_interval=2000, proxy_check_interval_changing=500)
    assert slower.proxies_notice == pytest.approx(4.8)


def test_passwords_are_tried_in_turn(monkeypatch, tmp_path):
    """While the admin's password changes, one node has the new password and another the old one."""
    (tmp_path / "password").write_text("old\n")
    monkeypatch.setattr(connection, "PASSWORD", tmp_path / "password")
    monkeypatch.setenv("REDISCLI_AUTH", "new")
    tried = []

    class Client:
        def __init__(self, password, ssl_check_hostname, **_):
            assert ssl_check_hostname
            self.password = password

        def role(self):
            tried.append(self.password)
            if self.password == "new":
                raise AuthenticationError("invalid username-password pair")

        def close(self):
            pass

    monkeypatch.setattr(connection, "Redis", Client)
    assert connection.connect("192.0.2.1", 6380, "/ca.crt").password == "old"
    assert tried == ["new", "old"]
    monkeypatch.setattr(connection, "PASSWORD", tmp_path / "absent")
    monkeypatch.delenv("REDISCLI_AUTH")
    with pytest.raises(AuthenticationError, match="there is no password to try"):
        connection.connect("192.0.2.1", 6380, "/ca.crt")


def test_accepted_passwords_are_read_once_from_all_acl_files(tmp_path):
    files = [tmp_path / name for name in ("users.acl", "sentinel-users.acl", "absent")]
    files[0].write_text("user default off -@all\nuser proxy on sanitize-payload #new #old resetchannels -@all +ping\n")
    files[1].write_text("user proxy on #new -@all +ping\nuser admin on #x &* +@all\n")
    assert main.accepted(files) == ["proxy #new", "proxy #old", "admin #x"]


def test_a_wrong_password_is_a_refusal_and_a_dead_node_is_not():
    assert connection.is_refusal(AuthenticationError("invalid username-password pair"))
    assert connection.is_refusal(ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] IP address mismatch"))
    assert not connection.is_refusal(ConnectionError("Error 111 connecting to 192.0.2.1:6380. Connection refused."))


def test_a_host_without_a_set_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(main, "DESCRIPTION", tmp_path / "absent")
    assert main.main(["status"]) == 1
    assert capsys.readouterr().err == "refused: this host is neither a node nor a Sentinel of a set\n"
    (tmp_path / "absent").write_text('{"me": "a"}')
    assert main.main(["status", "--json"]) == 1
    assert "is of another version: run role redis" in json.loads(capsys.readouterr().out)["error"]


def test_a_dead_set_is_reported_without_a_traceback(monkeypatch, tmp_path, capsys):
    path = tmp_path / "image-editor.json"
    dead = description({"a": "127.0.0.1"}, {})
    path.write_text(json.dumps(vars(dead) | {"port": 1}))
    monkeypatch.setattr(main, "DESCRIPTION", path)
    monkeypatch.setenv("REDISCLI_AUTH", "x")
    assert main.main(["save"]) == 1
    assert "Connection refused" in capsys.readouterr().err
    assert main.main(["status"]) == 1
    assert "node a does not answer" in capsys.readouterr().out
