"""Keep the hosts of a deployed scenario as images, so that the tests of other scenarios begin on them within a minute.

snapshot.py take SCENARIO      stop the hosts, keep their disks and the secrets, and remove the hosts
snapshot.py boot SCENARIO      create the hosts of the snapshot, and wait until the API answers
snapshot.py remove SCENARIO    remove the snapshot

Scenarios with the same LAB_NAME in their molecule.yml share a snapshot, so names, addresses and certificates stay valid. Hosts
have no volumes, so an image has all data of its host.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import figures
import requests
import yaml
from suite import lab

ROOT = Path(__file__).resolve().parent.parent
STOP = 60  # seconds in which systemd has to stop all services of a host
COMMITS = 3  # at a time: they write to one disk
# overlayfs renames no directory of an image ("Invalid cross-device link"), but PostgreSQL and Prometheus rename
# directories. `mv` copies them into the container at its first start, and only renames them, twice, at later ones.
START = """for data in /var/lib/postgresql /var/lib/prometheus /var/lib/image-editor*; do
    [ ! -d "$data" ] || { mv "$data" "$data.moved" && mv "$data.moved" "$data"; }
done
exec /lib/systemd/systemd"""
PATIENCE = 180  # seconds


def molecule(command: str, scenario: str, **variables: str) -> None:
    subprocess.run(["molecule", command, "--scenario-name", scenario], cwd=ROOT, env=os.environ | variables, check=True)


class Snapshot:
    """The snapshot that a scenario shares."""

    def __init__(self, scenario: str) -> None:
        variables = yaml.safe_load((ROOT / "molecule" / scenario / "molecule.yml").read_text())["ansible"]["env"]
        self.scenario = scenario
        self.lab = lab(scenario)
        self.url = f"https://localhost:{variables['LAB_EDGE_PORT']}/healthz"
        self.secrets = ROOT / "secrets" / self.lab
        self.kept = ROOT / "build" / "snapshots" / self.lab
        self.images = f"{self.lab}-snapshot"
        self.engine = docker.from_env()

    def hosts(self, *, running: bool) -> list[docker.models.containers.Container]:
        return self.engine.containers.list(all=not running, filters={"label": f"image-editor-lab={self.lab}"})

    def take(self) -> None:
        """Stop all hosts at once and commit their disks. The gateway to their shared address has no state and no systemd."""
        hosts = [host for host in self.hosts(running=True) if not host.name.endswith("-gateway")]
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(lambda host: host.stop(timeout=STOP), hosts))
        self.remove()
        with ThreadPoolExecutor(COMMITS) as pool:
            list(pool.map(self.commit, hosts))
        shutil.copytree(self.secrets, self.kept)
        self.clear()

    def commit(self, host: docker.models.containers.Container) -> None:
        start = json.dumps(["/bin/sh", "-c", START])
        host.commit(self.images, host.name.removeprefix(f"{self.lab}-"), changes=f"CMD {start}")

    def clear(self) -> None:
        """Remove all hosts, and let Molecule forget them."""
        with ThreadPoolExecutor(COMMITS) as pool:
            list(pool.map(lambda host: host.remove(force=True, v=True), self.hosts(running=False)))
        molecule("reset", self.scenario)

    def boot(self) -> float:
        """Create the hosts. Return the seconds until the API answered."""
        self.clear()
        shutil.rmtree(self.secrets, ignore_errors=True)
        shutil.copytree(self.kept, self.secrets)
        began = time.monotonic()
        molecule("create", self.scenario, LAB_SNAPSHOT=self.images)
        while not self.answers():
            if time.monotonic() - began > PATIENCE:
                sys.exit(f"snapshot: {self.url} does not answer within {PATIENCE} s after the start")
            time.sleep(0.5)
        return time.monotonic() - began

    def answers(self) -> bool:
        try:
            return requests.get(self.url, verify=str(self.secrets / "ca/ca.crt"), timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def remove(self) -> None:
        for image in self.engine.images.list(self.images):
            for tag in image.tags:
                if tag.startswith(f"{self.images}:"):
                    self.engine.images.remove(tag)
        shutil.rmtree(self.kept, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    what, scenario = arguments
    snapshot = Snapshot(scenario)
    if what == "take":
        snapshot.take()
    elif what == "boot":
        seconds = snapshot.boot()
        print(f"snapshot: {snapshot.url} answers {seconds:.0f} s after the start")
        figures.record("snapshot_boot_seconds", round(seconds, 1), "s", "<=45")
    else:
        snapshot.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
