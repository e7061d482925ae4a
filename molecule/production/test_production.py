"""docs/production.md, word for word: its commands lead from six bare servers to the first edit through a public certificate.

The tests run the document's code blocks in order. The document is wrong if a command fails or does not print what it should.

| block | means |
| --- | --- |
| `sh` | commands on the controller: this machine, in a new clone of the repository |
| `sh server` | commands on each server, as root on its console |
| `yaml` that begins with the name of a file | lines to change in that file |
| `text` | what the commands before it print; `…` stands for anything |

The controller reaches the servers by SSH alone. It has its own /etc/hosts and ~/.ssh, in a mount namespace.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from helpers import ROOT, changed, connects, container, in_soak, one_line

sys.path.insert(0, str(ROOT / "scripts"))
import figures

DOCUMENT = ROOT / "docs/production.md"
LAST = "\n## Every week\n"  # the platform works before this heading
DOMAIN = "shop.example.test"
SERVERS = ("edge1", "app1", "app2", "db1", "media1", "monitor1")
NETWORK = os.environ["LAB_NAME"]  # the public one
SCENARIO_CA = ROOT / "secrets" / NETWORK / "ca/ca.crt"  # of the ACME server's own certificate
PEM = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
SYSTEM_CAS = Path("/etc/ssl/certs/ca-certificates.crt")
SITE = "ansible-playbook -i inventories/shop playbooks/site.yml"
CHECK = f"{SITE} --check --diff"
# The files of a server with sizes and times, except what a login and running services write.
UNWATCHED = ("/proc", "/sys", "/run", "/tmp", "/root", "/home", "/var/log", "/var/tmp", "/var/lib/systemd")
FILES = f"find / -xdev \\( -path {' -o -path '.join(UNWATCHED)} \\) -prune -o -type f -printf '%p %s %T@\\n'"
# Gives a command an /etc/hosts and a ~/.ssh of its own, and runs it as the user of the tests, without their variables.
NAMESPACE = """
mount --bind "$1" /etc/hosts
mount --bind "$2" "$3"
exec setpriv --reuid "$4" --regid "$5" --init-groups env -i "${@:6}"
"""


@dataclass
class Block:
    """A code block of the document."""

    kind: str
    lines: str
    prints: list[str] = field(default_factory=list)


def blocks(text: str) -> list[Block]:
    """Return the code blocks in order. A block of the kind `text` belongs to the block before it."""
    found: list[Block] = []
    for kind, lines in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if kind == "text":
            found[-1].prints = lines.splitlines()
        else:
            found.append(Block(kind, lines))
    return found


def squeezed(text: str) -> str:
    """The text without white space. Ansible breaks long lines, and pads columns."""
    return "".join(text.split())


def prints(said: str, line: str) -> bool:
    """Whether a command has printed the line of the document."""
    return re.search(re.escape(squeezed(line)).replace("…", ".{0,80}?"), squeezed(said)) is not None


def endpoint(name: str) -> dict[str, str]:
    """The public network as Docker describes it for a server: IPAddress, Gateway and others."""
    template = f'{{{{json (index .NetworkSettings.Networks "{NETWORK}")}}}}'
    return yaml.safe_load(subprocess.check_output(["docker", "inspect", "-f", template, container(name)], text=True))


@dataclass
class Controller:
    """A machine with nothing of the platform on it, and its operator."""

    home: Path
    public_ca: str  # of the ACME server, which stands for a CA that everybody trusts
    values: dict[str, str] = field(default_factory=dict)  # of the document's placeholders
    minutes: float = 0.0
    said: dict[str, str] = field(default_factory=dict)  # the output of each of the document's commands
    check_changes: dict[str, set[str]] = field(default_factory=dict)  # the files of each server that check mode has changed
    servers: ClassVar[dict[str, str]] = {DOMAIN: "edge1"} | {f"{name}.{DOMAIN}": name for name in SERVERS}

    def __post_init__(self) -> None:
        self.ssh = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh"
        self.ssh.mkdir(mode=0o700, exist_ok=True)
        (self.home / ".ssh").mkdir(mode=0o700)
        (self.home / "trusted.crt").write_text(SYSTEM_CAS.read_text() + self.public_ca)
        self.names(self.servers)
        # Nothing of this test run, and no tools of this checkout except the installed uv, which saves a download.
        ours = ("ANSIBLE_", "MOLECULE_", "LAB_", "PYTHON", "MAKE", "ENV", "SCENARIO", "VIRTUAL_ENV", "PWD", "OLDPWD")
        variables = {name: value for name, value in os.environ.items() if name.isidentifier() and not name.startswith(ours)}
        paths = [path for path in variables["PATH"].split(":") if not path.startswith(str(ROOT))]
        variables |= {
            "PATH": ":".join([str(ROOT / "build/uv/bin"), *paths]),
            "HOME": str(self.ssh.parent),
            "SSL_CERT_FILE": str(self.home / "trusted.crt"),
            "CURL_CA_BUNDLE": str(self.home / "trusted.crt"),
        }
        self.state.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
        self.values |= {
            "<repository>": str(ROOT),
            "<yours>": "shop",
            "<you>": "operator",
            "<domain>": DOMAIN,
            "<controller>": endpoint("edge1")["Gateway"],  # as the servers see it
        }

    @property
    def checkout(self) -> Path:
        return self.home / "image-editor"

    @property
    def inventory(self) -> Path:
        return self.checkout / "inventories/shop"

    @property
    def state(self) -> Path:
        """The variables and the directory with which the next commands begin."""
        return self.home / "state"

    def names(self, servers: dict[str, str]) -> None:
        """Write the names that the controller knows besides its own. Each leads to the public address of its server."""
        lines = [f"{endpoint(server)['IPAddress']} {name}\n" for name, server in servers.items()]
        (self.home / "hosts").write_text(Path("/etc/hosts").read_text() + "".join(lines))

    def fill(self, text: str) -> str:
        """Return the text with a value for each placeholder."""
        return re.sub(r"<[a-z]+>", lambda match: self.values[match[0]], text)

    def tries(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands in the operator's shell, which stops at the first failure."""
        end = "{ export -p; printf 'cd %q\\n' \"$PWD\"; }"
        script = f"set -euo pipefail; source {self.state}; {commands}\n{end} >{self.state}"
        namespace = [*([] if os.getuid() == 0 else ["sudo"]), "unshare", "--mount", "bash", "-euc", NAMESPACE, "namespace"]
        given = map(str, (self.home / "hosts", self.home / ".ssh", self.ssh, os.getuid(), os.getgid()))
        return subprocess.run(
            [*namespace, *given, "/bin/bash", "-c", script],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def runs(self, commands: str) -> str:
        """Run commands that must succeed; return their output."""
        began = time.monotonic()
        run = self.tries(commands)
        last = commands.strip().splitlines()[-1]
        print(f"{time.monotonic() - began:6.1f} s: {last}")
        self.said[last] = run.stdout
        assert run.returncode == 0, f"{commands}\n{run.stdout[-6000:]}"
        return run.stdout

    def refused(self, arguments: str = "", before: str = "") -> str:
        """Run preflight, which must refuse and change nothing; return its output on one line."""
        run = self.tries(f"{before} ansible-playbook -i inventories/shop playbooks/preflight.yml {arguments}")
        assert run.returncode != 0, run.stdout[-3000:]
        assert not changed(run.stdout)
        return one_line(run.stdout)

    def edits(self, text: str) -> None:
        """Change lines of a file. Each must be there already, perhaps as a comment."""
        first, *lines = text.splitlines()
        path = self.checkout / first.removeprefix("# ")
        for line in lines:
            name = line.partition(":")[0]
            found, count = re.subn(rf"^(# )?{name}:.*$", lambda _, line=line: line, path.read_text(), flags=re.MULTILINE)
            assert count == 1, f"{path} has {count} lines with {name}"
            path.write_text(found)

    def follows(self, block: Block) -> None:
        """Do what a block of the document says, and compare what is printed."""
        text, said = self.fill(block.lines), ""
        match block.kind:
            case "sh":
                said = self.runs(text)
            case "sh server":
                for name in SERVERS:
                    said = subprocess.check_output(["docker", "exec", container(name), "bash", "-euc", text], text=True)
            case "yaml" if text.startswith("# inventories/"):
                self.edits(text)
            case "yaml":  # an example for later
                pass
            case _:
                pytest.fail(f"{DOCUMENT.name} has a block of the kind {block.kind}")
        for line in map(self.fill, block.prints):
            assert prints(said, line), f"{text}does not print: {line}\n{said[-3000:]}"


def files() -> dict[str, set[str]]:
    """The files of each server, as find prints them."""
    run = ["docker", "exec"]
    return {
        name: set(subprocess.check_output([*run, container(name), "sh", "-c", FILES], text=True).splitlines()) for name in SERVERS
    }


def settings_of_the_lab(controller: Controller, scenario_ca: str) -> dict[str, object]:
    """What the servers need because they share one machine, and because no address of their public network is public."""
    trusted = PEM.findall(SYSTEM_CAS.read_text())
    debian = "".join(path.read_text() for path in Path("/usr/share/ca-certificates/mozilla").glob("*.crt"))
    acme, edge = endpoint("acme1")["IPAddress"], endpoint("edge1")["IPAddress"]
    return {
        "common_ca_certificates": [scenario_ca, controller.public_ca, *(ca for ca in trusted if ca not in debian)],
        "acme_directory_url": "https://acme1:14000/dir",
        "application_settings": {"FETCH_ALLOWED_HOSTS": [DOMAIN]},
        "firewall_extra": [
            {"name": "ACME server", "to": [acme], "ports": [14000], "from": ["edge"]},
            {"name": "public name", "to": [edge], "ports": [443], "from": ["worker"]},
        ],
        "postgresql_memory_mib": 512,
        "redis_maxmemory_mib": 256,
        "prometheus_memory_max_mib": 256,
        "web_workers": 2,
        "celery_concurrency": {"edit": 2, "callback": 1},
    }


@pytest.fixture(scope="module")
def before() -> list[Block]:
    """The blocks up to the smoke test."""
    return blocks(DOCUMENT.read_text().partition(LAST)[0])


@pytest.fixture(scope="module")
def shop(on, before) -> Iterator[Controller]:
    """The controller after it has followed the document up to the smoke test."""
    root = "curl -sSf --cacert /etc/ssl/certs/image-editor-ca.crt https://localhost:15000/roots/0"
    with tempfile.TemporaryDirectory(prefix="production-", ignore_cleanup_errors=True) as home:
        controller = Controller(Path(home), on("acme1").check_output(root) + "\n")
        settings = settings_of_the_lab(controller, SCENARIO_CA.read_text())
        began = time.monotonic()
        for block in before:
            if "<key>" in block.lines:
                controller.values["<key>"] = (controller.home / ".ssh/id_ed25519.pub").read_text().strip()
            was = files() if controller.fill(block.lines).strip() == CHECK else {}
            controller.follows(block)
            for name, now in files().items() if was else ():
                controller.check_changes[name] = now ^ was[name]
            if controller.inventory.is_dir():
                (controller.inventory / "group_vars/all/test.yml").write_text(yaml.safe_dump(settings))
        controller.minutes = (time.monotonic() - began) / 60
        yield controller


def test_the_document_leads_from_bare_servers_to_the_first_edit(shop, before):
    """Every command has succeeded, and has printed what the document says."""
    assert [block.kind for block in before].count("sh") > 10
    assert figures.record("production_first_edit_minutes", round(shop.minutes, 1), "min", "<=10")["ok"]


def test_check_mode_changes_nothing_on_bare_servers(shop):
    """molecule/shared/bare.yml has made them bare."""
    assert list(shop.check_changes) == list(SERVERS)
    print(shop.check_changes)
    count = sum(map(len, shop.check_changes.values()))
    assert figures.record("bare_check_changes", count, "files", "<=0")["ok"]


def test_bare_servers_are_deployed_without_a_failure(shop):
    said = shop.said[CHECK] + shop.said[SITE]
    recaps = re.findall(r": ok=\d+ .*unreachable=(\d+) +failed=(\d+)", said)
    assert len(recaps) == 2 * len(SERVERS)
    failures = sum(int(number) for recap in recaps for number in recap)
    assert "certificate validation" not in said, "a warning that frightens: preflight trusts what the host trusts"
    assert figures.record("bare_server_failures", failures, "failures", "<=0")["ok"]


def ssh_key(on, name: str) -> str:
    return on(name).check_output("cut -d ' ' -f 1-2 /etc/ssh/ssh_host_ed25519_key.pub")


def test_the_controller_knows_the_servers_own_ssh_keys(shop, on):
    known = (shop.home / ".ssh/known_hosts").read_text()
    keys = {name: ssh_key(on, name) for name in SERVERS}
    assert [name for name, key in keys.items() if key not in known] == []
    assert len(set(keys.values())) == len(SERVERS)


def test_secrets_are_encrypted_and_committed_or_ignored(shop):
    status = shop.runs("git status --porcelain --untracked-files=all")
    assert status == "", "a file of the environment is not committed"
    for name in ("vault.yml", "vault_ca.yml"):
        assert shop.runs(f"git show HEAD:inventories/shop/group_vars/all/{name}").startswith("$ANSIBLE_VAULT;")


def test_services_listen_in_the_private_network_and_strangers_of_the_public_network_are_dropped(shop, on):
    for name, port, private in (("db1", 5432, "10.10.0.14"), ("db1", 6380, "10.10.0.14"), ("app1", 8000, "10.10.0.12")):
        listening = on(name).check_output(f"ss --no-header --listening --tcp --numeric 'sport = :{port}'").splitlines()
        found = {line.split()[3].rpartition(":")[0] for line in listening}
        assert private in found, (name, port)
        assert found <= {"127.0.0.1", "[::1]", private}, (name, port)
    assert not connects(on("acme1"), endpoint("app1")["IPAddress"], 22)
    assert connects(on("acme1"), endpoint("edge1")["IPAddress"], 443)


def test_the_commands_of_every_week_work(shop):
    """The renewal finds the CA of the vault on the hosts, so it changes nothing."""
    weekly = blocks(DOCUMENT.read_text().partition(LAST)[2])
    assert [block for block in weekly if block.kind == "sh"]
    for block in weekly:
        shop.follows(block)


# Each of the following runs is refused before anything changes.


def test_a_wrong_password_of_the_vault_is_refused(shop):
    (shop.home / "wrong").write_text("wrong\n")
    assert "Decryption failed" in shop.refused(before=f"ANSIBLE_VAULT_PASSWORD_FILE={shop.home}/wrong")


def test_a_server_that_shows_another_ssh_key_is_refused(shop, on):
    """The controller expects edge1's key from db1. A connection that an earlier run has left open would ask for no key."""
    known = shop.home / ".ssh/known_hosts"
    kept = known.read_text()
    known.write_text(kept.replace(ssh_key(on, "db1"), ssh_key(on, "edge1")))
    try:
        said = shop.refused(before=f"ANSIBLE_SSH_CONTROL_PATH_DIR={shop.home}/new")
    finally:
        known.write_text(kept)
    assert re.search(rf"db1\.{DOMAIN} does not answer: [^.]*host key", said, re.IGNORECASE), said[-3000:]


@in_soak  # scenario preflight has the same test
def test_a_release_that_git_does_not_know_is_refused(shop):
    assert "has no app/ at that ref" in shop.refused("-e release_version=shop-2")


@in_soak  # scenario preflight has the same test
def test_a_network_that_no_interface_has_is_refused(shop):
    said = shop.refused("-e platform_network=10.99.0.0/24")
    assert f"No interface of db1.{DOMAIN} has an address in platform_network, which is 10.99.0.0/24." in said


def test_a_firewall_that_would_cut_off_ssh_is_refused(shop):
    said = shop.refused("""-e '{"firewall_ssh_sources": ["192.0.2.0/24", "monitoring"]}'""")
    here = shop.values["<controller>"]
    assert f"db1.{DOMAIN}: the firewall would cut off SSH. This connection comes from {here} to port 22," in said
    said = shop.refused("-e firewall_ssh_port=2222")
    assert f"db1.{DOMAIN}: the firewall would cut off SSH." in said


def test_a_public_name_that_leads_elsewhere_is_refused(shop):
    """To the database's server."""
    shop.names(shop.servers | {DOMAIN: "db1"})
    try:
        said = shop.refused()
    finally:
        shop.names(shop.servers)
    assert f"{DOMAIN} leads to {endpoint('db1')['IPAddress']}, which is no address of an edge" in said


def test_a_name_that_leads_past_the_private_network_is_refused(shop, on):
    """On app1, the database's name leads to the public address."""
    app, public = on("app1"), endpoint("db1")["IPAddress"]
    app.check_output("cp /etc/hosts /root/hosts && echo %s >>/etc/hosts", f"{public} db1.{DOMAIN}")
    try:
        said = shop.refused()
    finally:
        app.check_output("cat /root/hosts >/etc/hosts")
    assert f"On app1.{DOMAIN} names of hosts lead elsewhere or nowhere: db1.{DOMAIN} {public}." in said


def test_a_controller_gets_the_ca_by_the_vault_and_is_refused_without_it(shop):
    """The second controller has the repository and the password of the vault."""
    second = "cd .. && git clone --quiet image-editor second && cd second && cp ../image-editor/.vault-pass . && "
    play = "ANSIBLE_VAULT_PASSWORD_FILE=$PWD/.vault-pass ansible-playbook -i inventories/shop playbooks/preflight.yml"
    shop.runs(f"({second} {play})")
    run = shop.tries(f"(cd ../second && rm inventories/shop/group_vars/all/vault_ca.yml && {play})")
    assert run.returncode != 0
    assert "trusts a CA that is not on this controller" in one_line(run.stdout), run.stdout[-3000:]
    shop.runs(f"(cd ../second && git restore inventories && {play.replace('preflight', 'smoke')})")
