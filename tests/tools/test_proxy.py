"""How image-editor-proxy reads HAProxy's statistics and uses its socket."""

from __future__ import annotations

import json
import socketserver
import threading

import pytest

from image_editor_tools.errors import Failure
from image_editor_tools.proxy import haproxy, main

HEADER = "# pxname,svname,status,check_status,last_chk,check_desc\n"
PRIMARY = "redis,redis1,UP,L7OK,,Layer7 check passed\n"
REPLICA = "redis,redis2,DOWN,L7RSP,TCPCHK did not match,Layer7 invalid response\n"
OTHERS = "redis,FRONTEND,OPEN,,,\nredis,nobody,no check,,,\nredis,BACKEND,UP,,,\nsays_redis1,redis1,UP,L7OK,,\n"
DATABASES = "postgresql,db1,DOWN,L7STS,,Layer7 wrong status\npostgresql,db2,UP,L7OK,,Layer7 check passed\n"


@pytest.mark.parametrize(
    ("rows", "primary"),
    [
        pytest.param(PRIMARY + REPLICA, "redis1", id="one primary"),
        pytest.param(PRIMARY.replace("L7OK", "* L7OK") + REPLICA, "redis1", id="while a check runs"),
        pytest.param(PRIMARY.replace("L7OK", "INI"), "", id="not checked yet"),
        pytest.param(PRIMARY.replace("UP", "UP 1/2").replace("L7OK", "L7RSP"), "", id="going down"),
        pytest.param(PRIMARY.replace("L7OK", "L4OK"), "redis1", id="a check that only connects"),
        pytest.param(REPLICA, "", id="a replica alone"),
        pytest.param(PRIMARY + PRIMARY.replace("redis1", "redis2"), "", id="two primaries"),
        pytest.param("", "", id="no node"),
    ],
)
def test_clients_are_connected_to_the_only_node_that_passes_its_check(rows, primary):
    assert haproxy.primary(haproxy.nodes(HEADER + OTHERS + rows + DATABASES, "redis")) == primary


def test_a_node_says_what_its_last_check_found():
    (node,) = haproxy.nodes(HEADER + OTHERS + REPLICA, "redis")
    assert node == haproxy.Node("redis2", False, "DOWN, L7RSP: TCPCHK did not match")


@pytest.fixture
def proxy(tmp_path, monkeypatch):
    """A socket that answers as HAProxy does; returns the commands that it was given."""
    commands = []
    answers = {"show stat": HEADER + OTHERS + PRIMARY + REPLICA, "reload": "Success=1\n--\n"}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            command = self.rfile.readline().decode().strip()
            commands.append(command)
            self.wfile.write(answers.get(command, "").encode() + b"\n")

    path = tmp_path / "admin.sock"
    server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(haproxy, "SOCKET", path)
    monkeypatch.setattr(haproxy, "MASTER", path)
    yield commands, answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_status_names_the_primary_and_ends_with_1_if_there_is_none(proxy, capsys):
    _, answers = proxy
    assert main.main(["status"]) == 0
    assert capsys.readouterr().out == "redis primary: redis1\n"
    answers["show stat"] = HEADER + OTHERS + REPLICA + DATABASES
    assert main.main(["status"]) == 1
    found = "redis2: DOWN, L7RSP: TCPCHK did not match"
    assert capsys.readouterr().out == f"redis primary: none\n{found}\npostgresql primary: db2\n"
    assert main.main(["status", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["redis"] == {"primary": "", "nodes": dict([found.split(": ", 1)])}
    assert answer["postgresql"]["primary"] == "db2"


def test_status_ends_with_1_if_one_of_two_primaries_is_missing(proxy, capsys):
    _, answers = proxy
    answers["show stat"] = HEADER + OTHERS + PRIMARY + DATABASES
    assert main.main(["status"]) == 0
    answers["show stat"] = HEADER + OTHERS + PRIMARY + DATABASES.replace("UP,L7OK", "DOWN,L7TOUT")
    assert main.main(["status"]) == 1
    found = "redis primary: redis1\npostgresql primary: none\ndb1: DOWN, L7STS: Layer7 wrong status\ndb2:"
    assert found in capsys.readouterr().out


def test_a_pin_replaces_the_pin_before_it(proxy, capsys):
    commands, _ = proxy
    assert main.main(["pin", "redis2"]) == 0
    assert commands == ["show stat", "clear acl virt@pinned", "add acl virt@pinned redis2"]
    commands.clear()
    assert main.main(["unpin"]) == 0
    assert commands == ["show stat", "clear acl virt@pinned"]


def test_an_unknown_node_cannot_be_pinned(proxy, capsys):
    commands, _ = proxy
    assert main.main(["pin", "redis9"]) == 1
    assert capsys.readouterr().err == "refused: redis9 is not a node of the set: redis1, redis2\n"
    assert commands == ["show stat"]


def test_a_reload_ends_when_the_new_process_has_found_the_primaries(proxy, monkeypatch, capsys):
    commands, answers = proxy
    answers["@1 show stat"] = HEADER + OTHERS + PRIMARY + DATABASES
    assert main.main(["reload"]) == 0
    assert commands == ["reload", "@1 show stat"]
    unchecked = HEADER + OTHERS + PRIMARY.replace("L7OK", "INI") + DATABASES
    answers["@1 show stat"] = unchecked
    monkeypatch.setattr(main, "CHECKED", 0.3)
    capsys.readouterr()
    assert main.main(["reload"]) == 0
    assert commands.count("@1 show stat") > 2
    assert capsys.readouterr().out == "reloaded; a primary is missing: image-editor-proxy status\n"


def test_a_reload_that_haproxy_refuses_fails(proxy, capsys):
    commands, answers = proxy
    answers["reload"] = "Success=0\n--\n[ALERT] haproxy.cfg:3 : unknown keyword"
    assert main.main(["reload"]) == 1
    assert "haproxy.cfg:3" in capsys.readouterr().err
    assert commands == ["reload"]


def test_a_haproxy_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(haproxy, "SOCKET", tmp_path / "absent")
    with pytest.raises(Failure, match="HAProxy does not answer"):
        haproxy.ask("show stat")
