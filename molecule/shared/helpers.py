"""pytest helpers for all scenarios; a plugin (``-p helpers``), see .config/molecule/config.yml."""

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
from testinfra.backend import docker
from testinfra.backend.base import CommandResult

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "app/tests/data/grace_hopper.jpg"

# `make soak` sets it: the long series, with the machine for itself, and every failure so many times; `make test` has each once.
SOAK = "SOAK" in os.environ
REPEAT = int(os.environ.get("SOAK", "1"))
in_soak = pytest.mark.skipif(not SOAK, reason="part of make soak")

# What a host of the platform is for another: a client with a certificate.
CURL = (
    "curl -sS --max-time 20 --cacert /etc/ssl/certs/image-editor-ca.crt"
    " --cert /etc/ssl/certs/image-editor.crt --key /etc/ssl/private/image-editor.key"
)


def _started(run: Callable) -> Callable:
    """Have Docker start a process again where it could not, as happens on a busy machine: nothing of it has run then."""

    def wrapper(*arguments: object, **options: object) -> CommandResult:
        for _ in range(3):
            result = run(*arguments, **options)
            if result.rc != 126 or not result.stdout.startswith("OCI runtime exec failed"):
                break
            time.sleep(1)
        return result

    return wrapper


def _entered(run: Callable) -> Callable:
    """Run a command in a container as ``docker exec`` does, but without the engine: a tenth of the time, and tests run thousands.

    Only root can, and only where the engine is; everybody else, and a container that does not run, gets ``docker exec``.
    """
    found: dict[str, tuple[int, str]] = {}  # for each container its first process, and when that was started

    def started(process: int) -> str:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            return ""

    def first_process(name: str) -> int:
        process, since = found.get(name, (0, ""))
        if not process or started(process) != since:
            asked = subprocess.run(
                ["docker", "inspect", "-f", "{{.State.Pid}}", name], capture_output=True, text=True, check=False
            )
            process = int(asked.stdout.strip() or 0)
            found[name] = process, started(process)
        return process

    def wrapper(self: docker.DockerBackend, command: str, *arguments: str, **options: object) -> CommandResult:
        process = first_process(self.name) if os.geteuid() == 0 and "DOCKER_HOST" not in os.environ and not self.user else 0
        if not process:
            return run(self, command, *arguments, **options)
        time.sleep(0.05)  # what the command before has started needs a moment, which the engine always took
        line = self.get_command(command, *arguments)
        enter = "nsenter --target %s --all --wdns=/ -- env -i HOME=/root PATH=%s /bin/sh -c %s"
        result = self.run_local(enter, str(process), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", line)
        result.command = self.encode(line)
        return result

    return wrapper


docker.DockerBackend.run = _entered(_started(docker.DockerBackend.run))


def secret(name: str) -> str:
    """Return the scenario's secret ``name``, as made by inventories/lab/group_vars/all/secrets.yml."""
    return (ROOT / "secrets" / os.environ["LAB_NAME"] / name).read_text().strip()


def container(name: str) -> str:
    """Return the name of the container that is the scenario's host ``name``."""
    return f"{os.environ['LAB_NAME']}-{name.removeprefix(os.environ['LAB_NAME'] + '-')}"


@pytest.fixture(scope="session")
def on() -> Callable[[str], testinfra.host.Host]:
    """Return a function: ``on("db1")`` is the testinfra host of that name in this scenario."""
    return lambda name: testinfra.get_host(f"docker://{container(name)}")


class DockerBackend:
    """testinfra's fixture ``host`` starts Ansible for each command; this one enters the container, many times as fast."""

    @pytest.fixture(scope="module")
    @classmethod
    def host(cls, _testinfra_host: testinfra.host.Host, on: Callable[[str], testinfra.host.Host]) -> testinfra.host.Host:
        """The host of a test that is run on every host of the scenario."""
        return on(_testinfra_host.backend.host)


def pytest_configure(config: pytest.Config) -> None:
    """Replace testinfra's fixture; that of the plugin which was registered last counts."""
    config.pluginmanager.register(DockerBackend())


def playbook(path: str, *arguments: str, inventory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the repository against the scenario's hosts; return the finished process, both streams in stdout.

    ``inventory``: a copy of the scenario's that may be written to.
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
    """Return the tasks that changed something in a run, with all that it said of each."""
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
        time.sleep(min(max(0.2, waited / 10), 1))  # a look is a process on a busy host; what takes long is not asked so often


class Api:
    """A client of the API on one web host, without the edge: curl on that host, with the host's certificate."""

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
