"""Only known connections work, in both directions, and a mistake in the rules locks nobody out."""

from __future__ import annotations

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import address, changed, connects, container, in_soak, one_line, playbook, until

CONVERGE = "molecule/firewall/converge.yml"
TABLE = "nft --stateless list table inet image_editor"
LINK_LOCAL = "169.254.7.7"  # of the stranger
IPV6 = {"server1": "fd00:7::1", "client1": "fd00:7::2", "stranger1": "fd00:7::3"}
# From, to, port, and whether the connection works.
CONNECTIONS = [
    pytest.param("client1", "server1", 5432, True, id="peer"),
    pytest.param("stranger1", "server1", 5432, False, id="in: not a peer"),
    pytest.param("stranger1", "server1", 9090, False, id="in: a port for nobody"),
    pytest.param("stranger1", "server1", 7777, False, id="in: an unknown port"),
    pytest.param("client1", "stranger1", 8080, False, id="out: not a peer"),
    pytest.param("client1", "stranger1", 80, False, id="out: web port of a private address"),
    pytest.param("client1", LINK_LOCAL, 80, False, id="out: web port of a link-local address"),
    pytest.param("stranger1", "server1", 443, True, id="anywhere"),
    pytest.param("stranger1", IPV6["server1"], 443, True, id="IPv6: anywhere"),
    pytest.param("stranger1", IPV6["server1"], 5432, False, id="IPv6: in: not a peer"),
    pytest.param("stranger1", IPV6["server1"], 7777, False, id="IPv6: in: an unknown port"),
    pytest.param("client1", IPV6["stranger1"], 8080, False, id="IPv6: out: not a peer"),
    pytest.param("client1", IPV6["stranger1"], 80, False, id="IPv6: out: web port of a private address"),
]


def listen(on) -> None:
    """Give the link-local and the IPv6 addresses, and start a listener on every port of the tests."""
    for name, given in (("stranger1", LINK_LOCAL), ("client1", "169.254.7.8")):
        on(name).check_output(f"ip address replace {given}/16 dev eth0")
    for name, given in IPV6.items():
        on(name).check_output("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0")  # Docker has switched IPv6 off
        on(name).check_output(f"ip address replace {given}/64 dev eth0 nodad")
    for name, ports in (("server1", (443, 2379, 5432, 9090, 7777)), ("stranger1", (80, 8080))):
        host = on(name)
        for port in ports:
            if host.run(f"systemctl is-active listener-{port}").rc != 0:
                host.check_output(f"systemd-run -q --unit listener-{port} python3 -m http.server --bind :: {port}")
            until(f"{name} listens on {port}", lambda host=host, port=port: connects(host, "127.0.0.1", port))


@pytest.fixture(autouse=True, scope="module")
def _listeners(on):
    listen(on)


def wrong(on, *others: tuple[str, str, int, bool]) -> list[tuple]:
    """Return the connections that do not work as they should."""
    expected = others or [case.values for case in CONNECTIONS]
    with ThreadPoolExecutor(4) as pool:  # a connection that is dropped takes three seconds
        works = list(pool.map(lambda case: connects(on(case[0]), case[1], case[2]), expected))
    return [case for case, found in zip(expected, works, strict=True) if found is not case[3]]


def accepts(target: str, port: int) -> bool:
    """Whether a port can be reached from the controller."""
    try:
        socket.create_connection((target, port), 2).close()
    except OSError:
        return False
    return True


def test_root_alone_reaches_the_metadata_of_a_cloud(on):
    """cloud-init needs it at each boot. The programs that open URLs of strangers must not have it."""
    on("stranger1").check_output("ip address replace 169.254.169.254/16 dev eth0")
    probe = "python3 -c 'import socket; socket.create_connection((\"169.254.169.254\", 80), 3)'"
    assert on("client1").run(probe).rc == 0
    assert on("client1").run(f"runuser -u nobody -- {probe}").rc != 0


@pytest.mark.parametrize(("source", "accounts"), [("client1", {"postgres"}), ("server1", {"etcd"})])
def test_only_the_accounts_of_a_connection_use_it(on, source, accounts):
    """Also on the host that serves the port, whichever of its addresses they try."""
    targets = [address(on("server1")), IPV6["server1"]] + (["127.0.0.1", "::1"] if source == "server1" else [])
    probe = "python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], 2379), 1)'"
    tried = {"root", "nobody", "www-data"} | accounts
    reached = {who for who in tried for target in targets if on(source).run(f"runuser -u {who} -- {probe} {target}").rc == 0}
    assert reached == accounts | {"root"}


@pytest.mark.parametrize(("source", "target", "port", "works"), CONNECTIONS)
def test_only_known_connections_work(on, source, target, port, works):
    assert connects(on(source), target, port) is works


def test_the_stranger_lets_everybody_in(on):
    """So it is the client's own host that keeps the client from the stranger."""
    assert accepts(address(on("stranger1")), 80)
    assert accepts(address(on("stranger1")), 8080)
    assert not accepts(address(on("server1")), 5432)


def test_blocked_packets_are_counted(on):
    def packets() -> int:
        blocked = on("server1").check_output("nft list chain inet image_editor blocked")
        return int(blocked.partition("counter packets ")[2].split()[0])

    before = packets()
    assert not connects(on("stranger1"), "server1", 7777)
    assert packets() > before


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_nftables_service_loads_the_rules_and_leaves_other_tables_alone(on, verb):
    """The names of the hosts come from Docker's table on each host."""
    server = on("server1")
    server.check_output("nft add table inet other")
    before = server.check_output(TABLE)
    for name in ("server1", "client1"):
        on(name).check_output(f"systemctl {verb} nftables")
    assert server.check_output(TABLE) == before
    assert "table inet other" in server.check_output("nft list tables")
    assert wrong(on) == []


def test_rules_are_loaded_after_a_reboot(on):
    for name in ("server1", "client1"):
        subprocess.run(["docker", "restart", "-t", "30", container(name)], check=True, capture_output=True)
        state = "systemctl is-system-running --wait"
        until(f"{name} runs", lambda name=name, state=state: on(name).run(state).stdout.strip() == "running", 60)
    listen(on)
    assert wrong(on) == []


def test_image_editor_ports_names_who_may_come(on):
    said = on("server1").run("image-editor-ports status --json")
    assert said.rc == 1, "port 7777 is unexpected"
    report = json.loads(said.stdout)
    assert report["firewall"] == "on"
    who = {port["port"]: port["from"] for port in report["ports"]}
    assert (who[5432], who[9090]) == ("client", "nobody")
    assert who[7777].startswith("nobody: ")
    assert on("stranger1").run("image-editor-ports").rc == 0


@pytest.fixture
def ssh(on, tmp_path) -> tuple[str, dict[str, str]]:
    """The server's address, and the variables with which Ansible reaches the server by SSH."""
    server, key = on("server1"), tmp_path / "key"
    server.check_output("apt-get install -qq -y --no-install-recommends openssh-server")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    server.check_output(
        "mkdir -p -m 700 /root/.ssh && echo %s >/root/.ssh/authorized_keys", (tmp_path / "key.pub").read_text().strip()
    )
    target = address(on("server1"))
    known = tmp_path / "known_hosts"
    known.write_text(f"{target} {server.check_output('cat /etc/ssh/ssh_host_ed25519_key.pub')}\n")
    until("SSH answers", lambda: accepts(target, 22))
    return target, {
        "ansible_connection": "ssh",
        "ansible_host": target,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={known}",
    }


@pytest.mark.parametrize(("strategy", "prefix"), [("accelerated", 25), pytest.param("linear", 24, marks=in_soak)])
def test_rules_that_cut_ssh_off_are_taken_back(on, ssh, strategy, prefix, monkeypatch):
    """The server returns to its previous rules without help. After that, a run with correct rules is confirmed through SSH."""
    monkeypatch.setenv("ANSIBLE_STRATEGY", strategy)
    server, (target, variables) = on("server1"), ssh
    before = server.check_output(TABLE)
    mistake = variables | {"ssh_sources": ["192.0.2.0/24"]}
    run = playbook(CONVERGE, "--limit", "server1", "-e", json.dumps(mistake))
    assert run.returncode != 0, run.stdout
    assert "server1 does not answer through its new rules." in one_line(run.stdout), run.stdout
    until("the server has taken the rules back", lambda: server.check_output(TABLE) == before)
    assert accepts(target, 22)
    server.check_output("systemctl restart nftables")
    assert server.check_output(TABLE) == before, "the wrong rules would have been loaded at the next boot"

    correct = variables | {"ssh_sources": [f"{target.rpartition('.')[0]}.0/{prefix}"]}
    run = playbook(CONVERGE, "--limit", "server1", "-e", json.dumps(correct))
    assert run.returncode == 0, run.stdout
    assert server.run("systemctl is-active image-editor-firewall-restore.timer").stdout.strip() == "inactive"
    assert accepts(target, 22)
    assert server.check_output(TABLE) != before


@in_soak
def test_switching_the_firewall_off_removes_it_and_on_again_closes_the_hosts(on):
    off = playbook(CONVERGE, "-e", "firewall_enabled=false")
    assert off.returncode == 0, off.stdout
    tables = on("client1").check_output("nft list tables")
    assert "image_editor" not in tables
    assert on("client1").run("systemctl is-enabled nftables").stdout.strip() == "disabled"
    assert wrong(on, *((*case.values[:3], True) for case in CONNECTIONS)) == [], "without the firewall, all of it works"
    assert not changed(playbook(CONVERGE, "-e", "firewall_enabled=false").stdout)
    check = playbook(CONVERGE, "--check")
    assert check.returncode == 0, check.stdout
    on_again = playbook(CONVERGE)
    assert on_again.returncode == 0, on_again.stdout
    assert wrong(on) == []
    assert not changed(playbook(CONVERGE).stdout)
