"""The platform under test, and what each feature does on it. The tests of rollbacks, rollouts and baselines share this."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from feature_rollback import Rollbacks
from helpers import ROOT, Api, playbook, until
from testinfra.host import Host

EDGE = "curl -sk -o /dev/null -w '%{http_code}' https://localhost"
PORTS = (9090, 9093, 9100, 9121, 9187, 9810, 9820)  # of Prometheus, Alertmanager, the exporters, a worker and the collector

# One edit a second. Lint uses the machine too, and at a higher rate the edge sometimes answers 504.
EDITS = 12
LOAD = {"rollout_load": EDITS, "baseline_seconds": EDITS}
TOLERANCES = yaml.safe_load((ROOT / "roles/baseline/defaults/main.yml").read_text())["baseline_tolerances"]


@dataclass
class Bench:
    """The platform, its client, and an inventory that playbooks may write to."""

    host: Host
    api: Api
    rollbacks: Rollbacks
    collected_at: float = 0.0  # a time at which Prometheus had samples, before the rollback of monitoring
    stopped_at: float = 0.0  # a time at which Prometheus was stopped by that rollback

    def active(self, unit: str) -> bool:
        return self.host.run(f"systemctl is-active {unit}").stdout.strip() == "active"

    def listens(self, port: int) -> bool:
        return bool(self.host.check_output(f"ss -Htln 'sport = :{port}'"))

    def finish(self, edit: str) -> dict:
        """Wait until the edit has succeeded; return its document."""
        document = until("the edit has ended", lambda: self.api.ended(edit), 60)
        assert document["status"] == "succeeded", document
        return document

    @contextmanager
    def waiting_messages(self) -> Iterator[None]:
        """No worker takes edits from their queue."""
        self.host.check_output("systemctl stop image-editor-worker@edit")
        try:
            yield
        finally:
            self.host.check_output("systemctl start image-editor-worker@edit")

    def queue(self) -> dict[str, tuple[object, str]]:
        """For each edit that waits in the queue: the argument of its task, and its message as Redis holds it."""
        found = {}
        for message in self.host.check_output("image-editor-redis-cli -n 0 LRANGE edit 0 -1").splitlines():
            envelope = json.loads(message)
            (argument,), *_ = json.loads(base64.b64decode(envelope["body"]))
            found[envelope["headers"]["id"]] = argument, message
        return found

    def payload(self) -> str:
        """The payload setting of the application."""
        settings = self.host.file("/etc/image-editor/image-editor.env").content_string
        (found,) = re.findall(r'^IMAGE_EDITOR_TASK_PAYLOAD="(\w+)"', settings, re.MULTILINE)
        return found

    def results(self) -> int:
        """The number of task results that Celery has stored."""
        return int(self.host.check_output("image-editor-redis-cli -n 2 DBSIZE"))

    def has_result(self, edit: str) -> bool:
        """Whether Celery has stored a result of the edit's task."""
        return self.host.check_output(f"image-editor-redis-cli -n 2 EXISTS celery-task-meta-{edit}") == "1"

    def samples(self, at: float) -> list[dict]:
        """The samples of the metric `up` that Prometheus has of that time."""
        url = f"http://127.0.0.1:9090/prometheus/api/v1/query?query=up&time={at:.0f}"
        return json.loads(self.host.check_output("curl -sf %s", url))["data"]["result"]


def messages_have_the_whole_task(bench: Bench) -> None:
    with bench.waiting_messages():
        edit = bench.api.submit()
        argument, _ = bench.queue()[edit]
    assert argument["task_id"] == edit
    assert argument["prompt"] == "greyscale"
    bench.finish(edit)


def results_are_stored(bench: Bench) -> None:
    edit = bench.finish(bench.api.submit())["id"]
    until("Celery has stored the result", lambda: bench.has_result(edit))


def flower_is_on(bench: Bench) -> None:
    assert bench.active("image-editor-flower")
    assert bench.host.check_output(f"{EDGE}/flower/") == "401"


def monitoring_is_on(bench: Bench) -> None:
    """Prometheus also has what it collected before the rollback."""
    until("every service of the monitoring listens", lambda: all(bench.listens(port) for port in PORTS), 60)
    assert bench.samples(bench.collected_at)


# What each feature does while it is on. In the order of docs/rollout.md.
ON: dict[str, Callable[[Bench], None]] = {
    "task_payload": messages_have_the_whole_task,
    "result_backend": results_are_stored,
    "flower": flower_is_on,
    "monitoring": monitoring_is_on,
}


@dataclass
class Baselines:
    """Runs playbooks that measure the platform, with a directory of records. The client comes through the published port."""

    bench: Bench
    directory: Path

    def records(self) -> list[dict]:
        """All records, the oldest first."""
        return [json.loads(path.read_text()) for path in sorted(self.directory.glob("*.json"))]

    def play(self, name: str, **variables: object) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
        """Run a playbook with variables; return the finished process and all records."""
        here = {"baseline_directory": str(self.directory), "baseline_url": f"https://localhost:{os.environ['LAB_EDGE_PORT']}"}
        load = LOAD | ({"baseline_load": EDITS} if name == "baseline" else {})  # in a rollout it would win over rollout_load
        arguments = ("-e", json.dumps(load | here | variables))
        process = playbook(f"playbooks/{name}.yml", *arguments, inventory=self.bench.rollbacks.inventory)
        return process, self.records()
