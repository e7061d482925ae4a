"""Functions and constants that tests of several scenarios import. Fixtures are in molecule/conftest.py."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import testinfra
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "app/tests/data/grace_hopper.jpg"

# `make soak` sets SOAK to the number of times that each failure is repeated. `make test` has each failure once.
SOAK = "SOAK" in os.environ
REPEAT = int(os.environ.get("SOAK", "1"))
in_soak = pytest.mark.skipif(not SOAK, reason="part of make soak")

# The lock of the environment (role preflight), on the builder.
LOCK = "/run/image-editor-run.lock"

# Seconds. A worker gives its message back when its connection is cut. If Redis does not answer then, the broker delivers the
# message again after the visibility timeout of 300 s, and looks for such messages every 10 s.
DELIVERED_AGAIN = 330

# A request that waits for PostgreSQL for two seconds ends with 503, and a client repeats it after so many seconds (Retry-After).
# All hosts of a lab share one disk, and a checkpoint may stop every server for longer. So many edits may be repeated during the
# tests of a file.
AGAIN, REPEATED = 5, 2

# curl with the host's certificate, as hosts of the platform call each other. After a crash of the API, a request
# waits in its socket. On a busy machine that takes 20 seconds and more.
CURL = (
    "curl -sS --max-time 60 --cacert /etc/ssl/certs/image-editor-ca.crt"
    " --cert /etc/ssl/certs/image-editor.crt --key /etc/ssl/private/image-editor.key"
)
# The same with the certificate of the application, on hosts that run its processes.
APPLICATION_CURL = (
    "curl -sS --max-time 60 --cacert /etc/ssl/certs/image-editor-ca.crt"
    " --cert /etc/ssl/image-editor/application.crt --key /etc/ssl/image-editor/application.key"
)


def secret(name: str) -> str:
    """Return the scenario's secret ``name``, as made by inventories/lab/group_vars/all/secrets.yml."""
    return (ROOT / "secrets" / os.environ["LAB_NAME"] / name).read_text().strip()


def small_photo() -> bytes:
    """Return the test photograph with 32x32 pixels. Under load, the size of images is not the subject."""
    small = io.BytesIO()
    Image.open(PHOTO).resize((32, 32)).save(small, "JPEG")
    return small.getvalue()


def container(name: str) -> str:
    """Return the name of the container that is the scenario's host ``name``, which may have a domain. The container has none."""
    return f"{os.environ['LAB_NAME']}-{name.removeprefix(os.environ['LAB_NAME'] + '-').partition('.')[0]}"


def playbook(path: str, *arguments: str, inventory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the repository against the scenario's hosts; return the finished process, both streams in stdout.

    ``inventory``: a copy of the scenario's inventory that the playbook may write to. Ansible's many processes leave the
    processor to the hosts of the lab, which would otherwise starve, and take each other for dead.
    """
    inventory = inventory or Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
    return subprocess.run(
        ["nice", "-n", "10", "ansible-playbook", "-i", str(inventory), *arguments, path],
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


def one_line(said: str) -> str:
    """The output of a playbook without its line breaks, which come anywhere in a message."""
    return " ".join(said.split())


def until(what: str | Callable[[], object], condition: Callable[[], object], seconds: float = 30) -> object:
    """Return the first true value of ``condition``; fail after ``seconds``, naming ``what`` or what it returns then."""
    began = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - began
        assert waited < seconds, f"not within {seconds:g} s: {what() if callable(what) else what}"
        time.sleep(min(max(0.2, waited / 10), 1))  # each check starts a process on a busy host, so the pauses grow


def connects(host: testinfra.host.Host, target: str, port: int) -> bool:
    """Whether a TCP connection from the host to a port of the target is accepted within 3 seconds."""
    return host.run(f"timeout 3 bash -c '</dev/tcp/{target}/{port}'").rc == 0


def address(host: testinfra.host.Host) -> str:
    """Return the host's address in the network of the scenario. Certificates of services have it, and not the host's name."""
    return host.check_output("hostname -I").split()[0]


def main_process(host: testinfra.host.Host, unit: str) -> str:
    """Return the pid of a unit's main process on the host."""
    return host.check_output("systemctl show -P MainPID %s", unit)


class Unavailable(AssertionError):
    """The API asks the client to repeat the request later."""


class Api:
    """A client of the API on one web host, without the edge: curl on that host with the host's certificate."""

    def __init__(self, host: testinfra.host.Host, user: str = "tester", url: str = "https://localhost:8000") -> None:
        self.host, self.url, self.token = host, url, user.ljust(43, "x")
        subprocess.run(
            ["docker", "cp", "-q", str(PHOTO), f"{container(host.backend.get_hostname())}:/root/photo.jpg"], check=True
        )
        host.check_output("echo %s | image-editor-manage ensure_user %s", self.token, user)

    def request(self, arguments: str) -> tuple[int, dict, float]:
        """Return status and JSON of ``curl <arguments> <url><last argument>``, and the seconds until the answer was there."""
        *options, path = arguments.split(" ")
        out = self.host.check_output(
            f"{CURL} -H 'Authorization: Bearer {self.token}' -w '\\n%{{http_code}} %{{time_total}}' {' '.join(options)}"
            f" {shlex.quote(self.url + path)}"
        )
        body, end = out.rsplit("\n", 1)
        status, seconds = end.split()
        return int(status), json.loads(body), float(seconds)

    def __call__(self, arguments: str) -> tuple[int, dict]:
        """Return status and JSON of a request."""
        status, document, _ = self.request(arguments)
        return status, document

    def submit(self, prompt: str = "greyscale") -> str:
        """Upload the test photograph; return the edit's id."""
        return self.submit_timed(prompt)[0]

    def submit_timed(self, prompt: str = "greyscale") -> tuple[str, float]:
        """Upload the test photograph; return the edit's id and the seconds until the answer was there."""
        status, edit, seconds = self.request(f"-F image=@/root/photo.jpg -F prompt={prompt} /api/v1/edits")
        if status == 503:
            raise Unavailable(edit)
        assert status == 202, edit
        return edit["id"], seconds

    def ended(self, edit_id: str) -> dict | None:
        """Return the edit if it has ended."""
        _, edit = self(f"/api/v1/edits/{edit_id}")
        return edit if edit["status"] in ("succeeded", "failed", "cancelled") else None

    def statuses(self) -> dict[str, str]:
        """The status of every edit of this client, by its id."""
        found: dict[str, str] = {}
        path = "/api/v1/edits?limit=100"
        while path:
            _, page = self(path)
            found |= {edit["id"]: edit["status"] for edit in page["items"]}
            path = page["next"]
        return found


@dataclass
class Load:
    """What a client got that submits an edit every second."""

    accepted: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # until each answer was there
    at: list[str] = field(default_factory=list)  # when
    repeated: list[str] = field(default_factory=list)  # because the API asked for it
    refused: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """Seconds in which 99 of 100 edits were answered."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@contextmanager
def submitting(api: Api, workers: Sequence[testinfra.host.Host], when: Callable[[], bool] = lambda: True) -> Iterator[Load]:
    """Submit an edit every second. At the end, fail if the client has stopped, or an edit was refused, lost or done twice.

    ``workers``: the hosts whose workers do the edits. Their journals say how often each edit was done. ``when``: submit only
    while this is true.
    """
    load, stop = Load(), threading.Event()

    def work() -> None:
        while not stop.wait(1):
            if not when():
                continue
            try:
                try:
                    edit, seconds = api.submit_timed()
                except Unavailable as error:
                    load.repeated.append(f"{datetime.now(UTC):%H:%M:%S} {error}")
                    time.sleep(AGAIN)
                    edit, seconds = api.submit_timed()
            except (AssertionError, ValueError) as error:  # curl failed, the status is not 202, or the answer is no JSON
                load.refused.append(str(error))
            else:
                load.accepted.append(edit)
                load.seconds.append(seconds)
                load.at.append(f"{datetime.now(UTC):%H:%M:%S}")

    client = threading.Thread(target=work, name="client of the API")
    client.start()
    try:
        yield load
        assert client.is_alive(), "the client stopped before the tests ended, so the rest of the tests had no load"
    finally:
        stop.set()
        client.join()
    assert load.accepted, "the client submitted nothing"
    counts = f"{len(load.accepted)} edits accepted, {len(load.repeated)} repeated"
    slowest = ", ".join(f"{seconds:.2f} s at {at}" for seconds, at in sorted(zip(load.seconds, load.at, strict=True))[:-4:-1])
    print(f"{counts}; answers: p99 {load.p99:.2f} s, slowest {slowest}")
    refused = f"{len(load.refused)} edits were refused, {len(load.accepted)} accepted: {load.refused[:3]}"
    assert not load.refused, f"{refused}; repeated: {load.repeated}"
    assert len(load.repeated) <= REPEATED, f"{len(load.repeated)} edits had to be repeated: {load.repeated}"

    def unfinished() -> list[str]:
        statuses = api.statuses()
        return [edit for edit in load.accepted if statuses.get(edit) != "succeeded"]

    deadline = time.monotonic() + DELIVERED_AGAIN
    while (left := unfinished()) and time.monotonic() < deadline:
        time.sleep(2)
    records = [api(f"/api/v1/edits/{edit}")[1] for edit in left[:5]]
    assert not left, f"{len(left)} edits have not succeeded within {DELIVERED_AGAIN} s: {json.dumps(records, indent=1)}"
    time.sleep(2)  # a worker writes the line after the commit that lets clients see that the edit has succeeded
    ends = "journalctl -u image-editor-worker@edit -o cat | grep -F '\"edit ended\"'"
    lines = [json.loads(line) for worker in workers for line in worker.run(ends).stdout.splitlines()]
    done = Counter(line["task_id"] for line in lines if line["outcome"] == "succeeded")
    wrong = {edit: done[edit] for edit in load.accepted if done[edit] != 1}
    assert not wrong, f"how often the workers' journals say that an edit succeeded, where that is not once: {wrong}"
