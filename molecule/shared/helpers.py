"""Functions and constants that tests of several scenarios import. Fixtures are in molecule/conftest.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "app/tests/data/grace_hopper.jpg"

# `make soak` sets SOAK to the number of times that each failure is repeated. `make test` has each failure once.
SOAK = "SOAK" in os.environ
REPEAT = int(os.environ.get("SOAK", "1"))
in_soak = pytest.mark.skipif(not SOAK, reason="part of make soak")

# curl with the host's certificate, as hosts of the platform call each other. While the API restarts, a request waits in
# its socket. On a busy machine that takes 20 seconds and more.
CURL = (
    "curl -sS --max-time 60 --cacert /etc/ssl/certs/image-editor-ca.crt"
    " --cert /etc/ssl/certs/image-editor.crt --key /etc/ssl/private/image-editor.key"
)


def secret(name: str) -> str:
    """Return the scenario's secret ``name``, as made by inventories/lab/group_vars/all/secrets.yml."""
    return (ROOT / "secrets" / os.environ["LAB_NAME"] / name).read_text().strip()


def container(name: str) -> str:
    """Return the name of the container that is the scenario's host ``name``."""
    return f"{os.environ['LAB_NAME']}-{name.removeprefix(os.environ['LAB_NAME'] + '-')}"


def playbook(path: str, *arguments: str, inventory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the repository against the scenario's hosts; return the finished process, both streams in stdout.

    ``inventory``: a copy of the scenario's inventory that the playbook may write to.
    """
    inventory = inventory or Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
    return subprocess.run(
        ["ansible-playbook", "-i", str(inventory), *arguments, path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def changed(said: str) -> list[str]:
    """Return the output of each task that changed something in a run."""
    tasks = re.split(r"\n(?=TASK |RUNNING HANDLER |PLAY )", said)
    return [task for task in tasks if re.search(r"^changed: ", task, re.MULTILINE)]


def until(what: str, condition: Callable[[], object], seconds: float = 30) -> object:
    """Return the first true value of ``condition``; fail naming ``what`` after ``seconds``."""
    began = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - began
        assert waited < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(min(max(0.2, waited / 10), 1))  # each check starts a process on a busy host, so the pauses grow


class Api:
    """A client of the API on one web host, without the edge: curl on that host with the host's certificate."""

    def __init__(self, host: testinfra.host.Host, user: str = "tester", url: str = "https://localhost:8000") -> None:
        self.host, self.url, self.token = host, url, user.ljust(43, "x")
        subprocess.run(
            ["docker", "cp", "-q", str(PHOTO), f"{container(host.backend.get_hostname())}:/root/photo.jpg"], check=True
        )
        host.check_output("echo %s | image-editor-manage ensure_user %s", self.token, user)

    def __call__(self, arguments: str) -> tuple[int, dict]:
        """Return status and JSON of ``curl <arguments> <url><last argument>``."""
        *options, path = arguments.split(" ")
        out = self.host.check_output(
            f"{CURL} -H 'Authorization: Bearer {self.token}' -w '\\n%{{http_code}}' {' '.join(options)} {self.url}{path}"
        )
        body, status = out.rsplit("\n", 1)
        return int(status), json.loads(body)

    def submit(self, prompt: str = "greyscale") -> str:
        """Upload the test photograph; return the edit's id."""
        status, edit = self(f"-F image=@/root/photo.jpg -F prompt={prompt} /api/v1/edits")
        assert status == 202, edit
        return edit["id"]

    def ended(self, edit_id: str) -> dict | None:
        """Return the edit if it has ended."""
        _, edit = self(f"/api/v1/edits/{edit_id}")
        return edit if edit["status"] in ("succeeded", "failed", "cancelled") else None
