"""How image-editor-ports reads ss and the firewall's rules."""

from __future__ import annotations

import json

import pytest

from image_editor_tools.errors import Failure
from image_editor_tools.ports import listening, main

SOCKETS = """\
raw   UNCONN 0      0               *%eth0:58              *:*    users:(("systemd-network",pid=8,fd=21))
raw   UNCONN 0      0             10.0.0.7:112        0.0.0.0:*    users:(("keepalived",pid=7,fd=12))
udp   UNCONN 0      0              127.0.0.1:323       0.0.0.0:*    users:(("chronyd",pid=1,fd=5))
udp   UNCONN 0      0      [fe80::1]%eth0:546             [::]:*    users:(("dhclient",pid=9,fd=5))
tcp   LISTEN 0      4096       127.0.0.53%lo:53        0.0.0.0:*    users:(("systemd-resolve",pid=2,fd=17))
tcp   LISTEN 0      511              0.0.0.0:443       0.0.0.0:*    users:(("nginx",pid=4,fd=5),("nginx",pid=3,fd=5))
tcp   LISTEN 0      511                 [::]:443          [::]:*    users:(("nginx",pid=4,fd=6),("nginx",pid=3,fd=6))
tcp   LISTEN 0      200            127.0.0.1:5432      0.0.0.0:*    users:(("postgres",pid=5,fd=6))
tcp   LISTEN 0      200             10.0.0.7:5432      0.0.0.0:*    users:(("postgres",pid=5,fd=7))
tcp   LISTEN 0      5                      *:9090            *:*
tcp   LISTEN 0      5                  [::1]:9999         [::]:*    users:(("python3",pid=6,fd=3))
"""


def rule(port: int, peers: list[str], protocol: str = "tcp", address: str = "10.0.0.1") -> dict:
    return {"protocol": protocol, "ports": [port], "peers": peers, "ipv4": [address] if address else [], "ipv6": []}


RULES = [
    rule(443, ["anywhere"]),
    rule(5432, ["web", "worker"]),
    rule(9090, [], address=""),
    rule(112, ["edge"], "vrrp"),
    rule(546, ["anywhere"], "udp"),
]


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with those sockets and rules; returns the file of the rules."""

    def run(*command: str) -> str:
        if command[0] != "ss" and not loaded.exists():
            raise Failure("nft: No such file or directory")
        return SOCKETS if command[0] == "ss" else ""

    loaded = tmp_path / "loaded"
    loaded.touch()
    monkeypatch.setattr(main.shell, "run", run)
    monkeypatch.setattr(main, "RULES", tmp_path / "ports.json")
    main.RULES.write_text(json.dumps({"incoming": RULES, "outgoing": []}))
    return tmp_path


def test_a_port_has_all_its_programs_and_addresses():
    found = {(one.port, one.protocol): one for one in listening.listeners(SOCKETS)}
    assert found[443, "tcp"] == listening.Listener(443, "tcp", ("nginx",), True)
    assert found[5432, "tcp"].from_outside
    assert found[9090, "tcp"] == listening.Listener(9090, "tcp", (), True)
    assert found[546, "udp"].from_outside
    assert not any(found[key].from_outside for key in ((323, "udp"), (53, "tcp"), (9999, "tcp")))


def test_each_port_says_who_may_come(host, capsys):
    assert main.main([]) == 0
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first == "firewall: on"
    who = {row.split()[0]: row.split(maxsplit=2)[2] for row in rows}
    assert who == {
        "53/tcp": "this host", "112/vrrp": "edge", "323/udp": "this host", "443/tcp": "anywhere", "546/udp": "anywhere",
        "5432/tcp": "web, worker", "9090/tcp": "nobody", "9999/tcp": "this host",
    }  # fmt: skip


def test_an_unexpected_port_is_a_problem(host, capsys):
    main.RULES.write_text(json.dumps({"incoming": RULES[:-1], "outgoing": []}))
    assert main.main(["status", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [port["port"] for port in said["ports"] if port["from"] == main.UNEXPECTED] == [546]


def test_rules_that_are_not_loaded_are_a_problem(host, capsys):
    (host / "loaded").unlink()
    assert main.main([]) == 1
    assert capsys.readouterr().out.startswith("firewall: not loaded\n")


def test_without_a_firewall_anyone_may_come(host, capsys):
    main.RULES.unlink()
    assert main.main(["status", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["firewall"], {port["from"] for port in said["ports"]}) == ("off", {"anyone", "this host"})
