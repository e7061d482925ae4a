"""Two edges share an address. The client is the controller. Behind the edges is a stand-in for the application."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from helpers import REPEAT, ROOT, address, changed, container, in_soak, one_line, playbook, until

sys.path.insert(0, str(ROOT / "scripts"))
import alerts
import figures

NAME = "images.example.test"
CA = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca/ca.crt"
EDGES = ("edge1", "edge2")
METRICS = "/var/lib/prometheus/node-exporter/image-editor-edge-address.prom"
HEALTHY = "curl -sSfk --max-time 5 https://127.0.0.1/healthz"
VRRP = 112  # its number as an IP protocol

LONGEST: dict[str, float] = {}  # the longest time without an answer, in seconds, by fault


@pytest.fixture(scope="module")
def shared(on) -> str:
    """The address that the edges share (group_vars/all/scenario.yml)."""
    return address(on("web1")).rpartition(".")[0] + ".100"


@pytest.fixture(scope="module")
def holders(on, shared) -> Callable[[], list[str]]:
    """A function: the edges whose interface has the address. A host that is off has none, and a frozen host keeps its own."""
    look = f"ip -4 -oneline address show to {shared}/32"
    return lambda: [name for name in EDGES if on(name).run(look).stdout.strip()]


@pytest.fixture
def roles(holders) -> Callable[[], tuple[str, str]]:
    """A function: the edge that holds the address and the other edge, when both can hold it."""

    def at_rest() -> list[str]:
        before = holders()
        time.sleep(5)  # an edge that was away passes its check
        return before if len(before) == 1 and holders() == before else []

    def found() -> tuple[str, str]:
        (holder,) = until("one edge holds the address, and keeps it", at_rest, 60)
        return holder, next(name for name in EDGES if name != holder)

    return found


@contextlib.contextmanager
def client(target: str) -> Iterator[list[float]]:
    """Ask the stand-in through an address all the time, over a new connection each time. Yields the times of its answers."""
    context = ssl.create_default_context(cafile=CA)
    request = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
    answered: list[float] = []
    stop = threading.Event()

    def ask() -> bytes:
        with socket.create_connection((target, 443), 0.5) as plain, context.wrap_socket(plain, server_hostname=NAME) as tls:
            tls.sendall(request)
            return tls.recv(12)

    def work() -> None:
        while not stop.wait(0.1):
            with contextlib.suppress(OSError):
                if ask() == b"HTTP/1.1 200":
                    answered.append(time.monotonic())

    asking = threading.Thread(target=work, name="client of the edges")
    asking.start()
    try:
        yield answered
    finally:
        stop.set()
        asking.join()


def docker(verb: str) -> Callable:
    return lambda _, name: subprocess.run(["docker", verb, container(name)], check=True, capture_output=True)


def command(line: str) -> Callable:
    return lambda on, name: on(name).check_output(line)


def cable(state: str) -> Callable:
    """Set the controller's end of the host's cable. A container that Docker connects again would have another interface."""

    def run(on, name: str) -> None:
        number = int(on(name).check_output("cat /sys/class/net/eth0/iflink"))
        links = json.loads(subprocess.check_output(["ip", "-json", "link"], text=True))
        (end,) = (link["ifname"] for link in links if link["ifindex"] == number)
        subprocess.run(["ip", "link", "set", end, state], check=True)

    return run


# What happens to the holder, and how it comes back.
FAULTS = {
    "host killed": (docker("kill"), docker("start")),
    "host frozen": (docker("pause"), docker("unpause")),
    "network cut": (cable("down"), cable("up")),
    "nginx stopped": (command("systemctl stop nginx"), command("systemctl start nginx")),
    "nginx frozen": (command("systemctl kill --signal=STOP nginx"), command("systemctl kill --signal=CONT nginx")),
}


def test_one_edge_holds_the_address_and_both_tell_prometheus(on, shared, holders):
    assert len(holders()) == 1
    for name in EDGES:
        assert f'image_editor_edge_address_info{{address="{shared}"}} 1\n' in on(name).file(METRICS).content_string


@pytest.fixture
def longest_gap(on, shared, holders, roles) -> Callable[[str], float]:
    """A function: break the holder, let it return, and return the longest time in seconds for which the client had no answer."""

    def measure(fault: str) -> float:
        begin, end = FAULTS[fault]
        lost, other = roles()

        def taken_over() -> bool:
            """A frozen host cannot give the address up. Its neighbours believe the other edge."""
            return other in holders() if fault == "host frozen" else holders() == [other]

        with client(shared) as answered:
            until("the stand-in answers", lambda: answered)
            begin(on, lost)
            try:
                until(f"{other} holds the address", taken_over, 30)
                before = len(answered)
                until("clients get answers again", lambda: len(answered) > before + 5, 30)
            finally:
                end(on, lost)
            until(f"{lost} is well again", lambda: on(lost).run(HEALTHY).rc == 0, 120)
            time.sleep(5)
            assert len(holders()) == 1 if fault == "host frozen" else holders() == [other]
        return max(later - earlier for earlier, later in pairwise(answered))

    return measure


@pytest.mark.parametrize("fault", FAULTS)
def test_another_edge_takes_the_address_over(longest_gap, fault):
    """The edge that returns stays backup. Only a host that was frozen may win the address back: it never knew that it lost it."""
    LONGEST[fault] = max(longest_gap(fault) for _ in range(REPEAT))


def test_clients_wait_at_most_5_seconds():
    assert LONGEST.keys() == FAULTS.keys()
    print({fault: round(gap, 2) for fault, gap in LONGEST.items()})
    assert figures.record("edge_gap_seconds_max", round(max(LONGEST.values()), 2), "s", "<=5")["ok"], LONGEST


def test_an_edge_hears_vrrp_of_the_other_edge_alone(on, roles):
    """A program that hears all VRRP which the firewall lets in hears the holder, and not the controller."""
    holder, other = roles()
    listen = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, {VRRP})"
    hear = f"{listen}; print(*{{s.recvfrom(99)[1][0] for _ in range(20)}})"
    target = address(on(other))
    with ThreadPoolExecutor(1) as pool, socket.socket(socket.AF_INET, socket.SOCK_RAW, VRRP) as stranger:
        heard = pool.submit(on(other).check_output, f"timeout 60 python3 -c '{hear}'")
        while not heard.done():
            stranger.sendto(b"x" * 20, (target, 0))
            time.sleep(0.1)
    assert heard.result().split() == [address(on(holder))]
    rows = on(other).check_output("image-editor-ports").splitlines()
    assert "112/vrrp keepalived       edge" in [row.strip() for row in rows]


def test_the_check_runs_as_a_user_who_owns_nothing(on, roles):
    """While nginx is frozen, the check waits for it, so it can be seen."""
    _, other = roles()
    edge = on(other)
    edge.check_output("systemctl kill --signal=STOP nginx")
    try:
        seen = until("the check runs", lambda: edge.run("ps -C curl -o uid=").stdout.split(), 30)
    finally:
        edge.check_output("systemctl kill --signal=CONT nginx")
    assert set(seen) == {edge.check_output("id -u keepalived_script")}


def test_keepalived_has_few_rights(on):
    """KILL, SETGID, SETUID, NET_BIND_SERVICE, NET_ADMIN, NET_RAW: bits 5, 6, 7, 10, 12 and 13."""
    main = on("edge1").check_output("systemctl show -P MainPID keepalived")
    for process in (main, on("edge1").check_output(f"pgrep --parent {main} | head -1")):
        status = on("edge1").file(f"/proc/{process}/status").content_string
        assert "NoNewPrivs:\t1" in status
        assert "CapBnd:\t00000000000034e0" in status


def test_the_edges_have_what_their_runbooks_name(on):
    section = re.search(r"(?ms)^## Edge$.*?(?=^## )", alerts.PAGE.read_text())[0]
    commands = [found for found in alerts.commands(section) if found.groups == ("edge",)]
    assert len(commands) > 8
    programs = {program for found in commands for program, *_ in found.programs}
    units = {unit for found in commands for unit in found.units}
    for name in EDGES:
        for look in [f"command -v {program}" for program in programs] + [f"systemctl cat {unit}" for unit in units]:
            on(name).check_output(look)


def test_an_address_that_the_edges_cannot_share_is_refused(on, shared):
    def refused(**variables: object) -> str:
        run = playbook("molecule/keepalived/refuse.yml", "-e", json.dumps(variables))
        assert run.returncode != 0, run.stdout
        assert not changed(run.stdout)
        return one_line(run.stdout)

    own, stranger = address(on("edge1")), address(on("web1"))
    assert "needs at least two hosts that share it, and there is edge1 alone" in refused(keepalived_nodes={"edge1": own})
    assert f"{own} must be an IPv4 address, and not a host's own address" in refused(platform_edge_address=own)
    assert "203.0.113.9 is in no network of edge" in refused(platform_edge_address="203.0.113.9")
    assert f"Another host than edge1, edge2 has the address {stranger}" in refused(platform_edge_address=stranger)
    accepted = playbook("molecule/keepalived/refuse.yml")
    assert accepted.returncode == 0, accepted.stdout


def test_check_mode_works_on_live_edges_and_on_a_third_edge(monkeypatch, tmp_path):
    """The third edge finds that another host answers for the address, and that this host is an edge."""
    monkeypatch.setenv("ANSIBLE_FORCE_COLOR", "false")
    live = playbook("playbooks/edge.yml", "--check", "--diff")
    assert live.returncode == 0, live.stdout[-3000:]
    assert not changed(live.stdout)
    third = tmp_path / "hosts.yml"
    third.write_text("edge: {hosts: {web1: {}}}\n")
    fresh = playbook("playbooks/edge.yml", "--check", "--diff", "--limit", "web1", "-i", str(third))
    assert fresh.returncode == 0, fresh.stdout[-3000:]
    assert any("Install the packages keepalived" in task for task in changed(fresh.stdout))


@in_soak
def test_an_inventory_without_the_address_removes_keepalived_and_with_it_brings_it_back(on, holders):
    without = ("playbooks/edge.yml", "-e", "platform_edge_address=")
    removed = playbook(*without)
    assert removed.returncode == 0, removed.stdout[-3000:]
    assert holders() == []
    for name in EDGES:
        assert on(name).run("systemctl is-enabled keepalived").stdout.strip() == "disabled"
        assert not on(name).file(METRICS).exists
    assert not changed(playbook(*without).stdout)
    restored = playbook("playbooks/edge.yml")
    assert restored.returncode == 0, restored.stdout[-3000:]
    assert len(holders()) == 1
