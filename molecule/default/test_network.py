"""No host reaches a port of another host that docs/network.md does not open to it."""

from __future__ import annotations

import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import yaml
from helpers import ROOT, address, connects
from test_platform import HOSTS

sys.path.insert(0, str(ROOT / "scripts"))
from figures import record


def documented() -> set[tuple[str, str, int]]:
    """Source, target and TCP port of each connection between the lab's hosts in the table of docs/network.md.

    Only the page and the inventory's groups count, because the hosts' rules may be wrong.
    """
    children = yaml.safe_load((ROOT / "inventories/lab/hosts.yml").read_text())["all"]["children"]
    groups = {name: list(group["hosts"]) for name, group in children.items()} | {"all": list(HOSTS)}

    def hosts(ends: str) -> list[str]:
        return [host for end in ends.split(", ") for host in groups.get(end, [])]  # `this host` and `internet` are no groups

    rows = re.findall(r"^\| ([^|]+) \| ([\d, ]+) \| [^|]+ \| ([^|]+) \|$", (ROOT / "docs/network.md").read_text(), re.MULTILINE)
    return {
        (source, target, int(port))
        for targets, ports, sources in rows
        for target in hosts(targets)
        for port in ports.split(", ")
        for source in hosts(re.sub(r" \([^)]*\)", "", sources).replace("anywhere", "all"))  # without the accounts: nmap is root's
    }


def test_no_host_reaches_an_unexpected_port(on):
    """nmap on each host tries, on all others, every port on which any host of the platform listens."""
    addresses = {name: address(on(name)) for name in HOSTS}
    listening = "\n".join(on(name).check_output("ss --no-header --listening --tcp --numeric") for name in HOSTS)
    ports = sorted({int(line.split()[3].rpartition(":")[2]) for line in listening.splitlines()} | {22})

    def scan(source: str) -> set[tuple[str, str, int]]:
        """The open ports. nmap connects as a program does: its other scans pass by the source's own firewall."""
        on(source).check_output("apt-get install -qq -y --no-install-recommends nmap")
        targets = {addresses[name]: name for name in HOSTS if name != source}
        options = f"-n -Pn -sT -T4 --max-retries 1 -p {','.join(map(str, ports))} -oG -"
        found = on(source).check_output(f"nmap {options} {' '.join(targets)}")
        assert f"({len(targets)} hosts up)" in found, found
        lines = re.findall(r"^Host: (\S+) .*\tPorts: (.*)$", found, re.MULTILINE)
        return {(source, targets[host], int(port)) for host, line in lines for port in re.findall(r"(\d+)/open/", line)}

    with ThreadPoolExecutor(3) as pool:
        reached = set().union(*pool.map(scan, HOSTS))
    assert {("edge1", "web1", 8000), ("worker1", "db1", 5432), ("monitor1", "redis1", 9121), ("db1", "monitor1", 8433)} <= reached
    unexpected = sorted(reached - documented())
    assert record("open_ports_unexpected", len(unexpected), "ports", "<=0")["ok"], unexpected


def test_a_stranger_in_the_network_reaches_the_edge_alone(on):
    """The controller is in no group and has no rules of its own, so only the rules of the hosts stop it."""
    listening = "\n".join(on(name).check_output("ss --no-header --listening --tcp --numeric") for name in HOSTS)
    ports = {int(line.split()[3].rpartition(":")[2]) for line in listening.splitlines()}
    addresses = {name: address(on(name)) for name in HOSTS}

    def accepts(case: tuple[str, int]) -> bool:
        try:
            socket.create_connection((addresses[case[0]], case[1]), 2).close()
        except OSError:
            return False
        return True

    cases = list(product(HOSTS, sorted(ports)))
    with ThreadPoolExecutor(64) as pool:
        reached = {case for case, found in zip(cases, pool.map(accepts, cases), strict=True) if found}
    assert reached == {("edge1", 443), ("edge2", 443)}


def test_a_worker_reaches_no_private_address_except_its_peers(on):
    """The edge answers everybody on port 443. A URL of a client that names it leads a worker nowhere."""
    assert connects(on("worker1"), "db1", 5432)
    assert connects(on("edge1"), "localhost", 443)
    assert not connects(on("worker1"), "edge1", 443)


def test_image_editor_ports_finds_nothing_unexpected(on):
    for name in HOSTS:
        said = on(name).run("image-editor-ports")
        assert said.rc == 0, said.stdout
        assert said.stdout.startswith("firewall: on\n")
