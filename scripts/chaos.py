"""Take hosts of the lab away at random, one after the other, while a client submits edits, and show what the client notices.

chaos.py [--seed N] [--minutes 10] [--hosts db1,web1]

The same seed takes the same hosts away in the same order. A host is killed (as if it lost power), frozen (its processes stop and
its connections stay), or cut off from the network. It comes back before the next one goes. Hosts whose ports the controller
uses stay unless --hosts names them. At the end every accepted edit must have succeeded; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from rich.console import Group
from rich.live import Live
from rich.table import Table
from smoke import client

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
from image_editor_tools.language import said  # noqa: E402

PHOTO = ROOT / "app/tests/data/grace_hopper.jpg"
# The label of the lab's containers, and the beginning of their names. A Molecule scenario has a lab of its own.
LAB = os.environ.get("LAB_NAME", "image-editor-lab")
SECRETS = ROOT / "secrets" / LAB
AWAY, BETWEEN = (15, 40), (30, 60)  # seconds for which a host is away, and between two hosts
SETTLE = 400  # seconds for the last edits: a message of a dead worker is delivered again after 300 s

# A network that is cut, in a table of its own, with ARP: otherwise an edge would go on saying that it has the shared address.
CUT = """
table netdev chaos {
    chain in { type filter hook ingress device eth0 priority 0; policy drop; }
    chain out { type filter hook egress device eth0 priority 0; policy drop; }
}
"""
# Prints what a host is at the moment, a line for each role. The database's primary knows which scheduler sends.
ROLES = """
cd /
image-editor-redis-cli ROLE 2>/dev/null | head -n 1 | sed -n 's/^master/redis primary/p'
runuser -u postgres -- psql -XtAc 'SELECT pg_is_in_recovery()' 2>/dev/null | sed -n 's/^f/postgresql primary/p'
runuser -u postgres -- psql -XtAd image_editor 2>/dev/null -c "
    SELECT 'scheduler: ' || split_part(holder, ':', 1) FROM scheduler_lease
    WHERE expires_at > now() AND NOT pg_is_in_recovery()"
ip -4 -oneline address show scope global | grep -q '/32 ' && echo 'shared address'
true
"""


def docker(*arguments: str, text: str | None = None) -> str:
    """Return what docker prints; an empty string if it fails or hangs."""
    try:
        return subprocess.run(["docker", *arguments], input=text, capture_output=True, text=True, check=False, timeout=20).stdout
    except subprocess.TimeoutExpired:
        return ""


@dataclass(frozen=True)
class Failure:
    """A way to take a host away and to bring it back. Both take the name of the container."""

    name: str
    begin: Callable[[str], str]
    end: Callable[[str], str]


FAILURES = (
    Failure("killed", lambda host: docker("kill", host), lambda host: docker("start", host)),
    Failure("frozen", lambda host: docker("pause", host), lambda host: docker("unpause", host)),
    Failure(
        "cut off",
        lambda host: docker("exec", "-i", host, "nft", "-f", "-", text=CUT),
        lambda host: docker("exec", host, "nft", "delete", "table", "netdev", "chaos"),
    ),
)


def plan(seed: int, victims: Sequence[Any], away: tuple[float, float] = AWAY) -> Iterator[tuple[Any, Failure, float, float]]:
    """Yield without end: a victim, its failure, the seconds for which it is away, and those until the next one."""
    chance = random.Random(seed)
    while True:
        yield chance.choice(victims), chance.choice(FAILURES), chance.uniform(*away), chance.uniform(*BETWEEN)


@dataclass
class Client:
    """One client, which asks twice a second and submits an edit every two seconds. All that the threads of the script share."""

    url: str
    answered: int = 0
    failed: int = 0
    last: float = field(default_factory=time.monotonic)  # when the last request was answered
    gap: float = 0.0  # seconds, the longest so far
    edits: dict[str, str] = field(default_factory=dict)  # the status of each accepted edit
    refused: int = 0
    roles: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def longest(self) -> float:
        """Seconds of the longest time without an answer, with the present one."""
        return max(self.gap, time.monotonic() - self.last)

    def session(self) -> requests.Session:
        return client((SECRETS / "smoke_token").read_text().strip(), str(SECRETS / "ca/ca.crt"))

    def ask(self) -> None:
        """Count requests that are answered, and measure the time without an answer."""
        session = self.session()
        while not self.stop.wait(0.5):
            try:
                session.get(f"{self.url}/api/v1/edits?limit=1", timeout=10).raise_for_status()
            except requests.RequestException:
                self.failed += 1
            else:
                self.answered += 1
                self.gap, self.last = self.longest, time.monotonic()

    def submit(self) -> None:
        session, photo = self.session(), PHOTO.read_bytes()
        while not self.stop.wait(2):
            upload = {"files": {"image": ("photo.jpg", photo, "image/jpeg")}, "data": {"prompt": "greyscale, resize to 64x64"}}
            try:
                answer = session.post(f"{self.url}/api/v1/edits", timeout=10, **upload)
                answer.raise_for_status()
                self.edits[answer.json()["id"]] = "accepted"
            except (requests.RequestException, ValueError, KeyError):
                self.refused += 1

    def follow(self) -> None:
        """Ask for the status of edits that have not ended."""
        session = self.session()
        while not self.stop.wait(1):
            for edit in self.open()[:50]:
                try:
                    self.edits[edit] = session.get(f"{self.url}/api/v1/edits/{edit}", timeout=10).json()["status"]
                except (requests.RequestException, ValueError, KeyError):
                    break

    def open(self) -> list[str]:
        """The edits that have not ended."""
        return [edit for edit, status in list(self.edits.items()) if status not in ("succeeded", "failed", "cancelled")]

    def watch(self, hosts: list[str]) -> None:
        """Ask every host what it is at the moment."""
        while not self.stop.wait(3):
            self.roles = {host: ", ".join(docker("exec", f"{LAB}-{host}", "sh", "-c", ROLES).split("\n")[:-1]) for host in hosts}


def say(text: str) -> str:
    """The text in the language of whoever looks at the terminal."""
    return said(text, sys.stdout)


def screen(load: Client, hosts: list[str], away: dict[str, str], log: list[str]) -> Group:
    """What the operator sees."""
    titles = ("requests answered", "failed", "longest gap", "edits accepted", "refused", "succeeded", "not ended", "failed")
    figures = Table(*map(say, titles))
    statuses = list(load.edits.values())
    figures.add_row(
        *(str(load.answered), str(load.failed), f"{load.longest:.1f} s", str(len(statuses))),
        *(str(load.refused), str(statuses.count("succeeded")), str(len(load.open())), str(statuses.count("failed"))),
    )
    states = Table(*map(say, ("host", "state", "roles")))
    for host in hosts:
        state = f"[red]{say(away[host])}[/red]" if host in away else f"[green]{say('running')}[/green]"
        states.add_row(host, state, load.roles.get(host, ""))
    return Group(figures, states, *log[-8:])


@contextmanager
def gone(host: str, failure: Failure, away: dict[str, str]) -> Iterator[None]:
    """The host is away, and comes back in any case."""
    away[host] = failure.name
    failure.begin(f"{LAB}-{host}")
    try:
        yield
    finally:
        failure.end(f"{LAB}-{host}")
        del away[host]


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hosts", help="take only these hosts away, as web1,db1")
    parser.add_argument("--url", default=f"https://localhost:{os.environ.get('LAB_EDGE_PORT', '8443')}")
    arguments = parser.parse_args()

    # The gateway is no host of the platform: it leads the published port to the address that the edges share.
    listed = docker("ps", "--filter", f"label=image-editor-lab={LAB}", "--format", "{{.Names}} {{.Ports}}").splitlines()
    ports = {name.removeprefix(f"{LAB}-"): published for name, _, published in (line.partition(" ") for line in sorted(listed))}
    victims = arguments.hosts.split(",") if arguments.hosts else [name for name in ports if not ports[name]]
    if not victims or set(victims) - set(ports):
        there = f"chaos: no such hosts: the lab has {', '.join(ports)}" if ports else "chaos: the lab is not up: make up"
        print(say(there))
        return 2

    print(say(f"chaos: seed {arguments.seed}"))
    load, away, log = Client(arguments.url), {}, []
    hosts = [name for name in ports if name != "gateway"]
    tasks = (load.ask, load.submit, load.follow, lambda: load.watch(hosts))
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    with Live(get_renderable=lambda: screen(load, hosts, away, log), refresh_per_second=2):
        for host, failure, seconds, pause in plan(arguments.seed, victims):
            if time.monotonic() - begun > arguments.minutes * 60:
                break
            load.gap, load.last = 0.0, time.monotonic()
            with gone(host, failure, away):
                time.sleep(seconds)
            time.sleep(pause)
            log.append(say(f"{host} was {failure.name} for {seconds:.0f} s: longest gap {load.longest:.1f} s"))
        deadline = time.monotonic() + SETTLE
        while load.open() and time.monotonic() < deadline:
            time.sleep(1)
    load.stop.set()
    print("\n".join(log))
    lost = [edit for edit, status in load.edits.items() if status != "succeeded"]
    well = load.edits and not lost
    verdict = "ok" if well else "failed"
    print(say(f"chaos: {verdict} seed={arguments.seed} edits={len(load.edits)} lost={len(lost)}"))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
