"""Every optimisation is rolled back and switched on again, while edits go on. (Redis replication: scenario default.)"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import ROOT, SOAK, Api, changed, playbook, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

SWITCHES = {
    "task_payload": "task_payload: id",
    "result_backend": "celery_result_backend_enabled: false",
    "flower": "flower_enabled: false",
    "monitoring": "monitoring_enabled: false",
}
EDGE = "curl -sk -o /dev/null -w '%{http_code}' https://localhost"


@dataclass
class Bench:
    """The platform, an inventory that tests may write to, and edits that never pause."""

    host: object
    inventory: Path
    api: Api
    edits: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    answer: dict = field(default_factory=dict)

    @property
    def switches(self) -> Path:
        return self.inventory / "group_vars/all/features.yml"

    def play(self, path: str, *arguments: str) -> str:
        began = time.monotonic()
        result = playbook(f"playbooks/{path}", *arguments, inventory=self.inventory)
        print(f"{path} {' '.join(arguments)}: {time.monotonic() - began:.1f} s")
        self.seconds.setdefault(path, time.monotonic() - began)
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    def active(self, unit: str) -> bool:
        return self.host.run(f"systemctl is-active {unit}").stdout.strip() == "active"

    def listens(self, port: int) -> bool:
        return bool(self.host.check_output(f"ss -Htln 'sport = :{port}'"))

    def done(self) -> dict:
        """Submit an edit; return its document when it has ended."""
        edit = self.api.submit()
        return until("an edit of now is done", lambda: self.api.ended(edit), 60)

    def results(self) -> int:
        return int(self.host.check_output("image-editor-redis-cli -n 2 DBSIZE"))


@pytest.fixture(scope="module")
def bench(on, tmp_path_factory) -> Iterator[Bench]:
    inventory = tmp_path_factory.mktemp("rollback") / "hosts"  # the scenario's folder name, after which the environment is named
    linked = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
    shutil.copytree(linked / "hosts", inventory)
    shutil.copytree(linked / "group_vars", inventory / "group_vars")
    found = Bench(on("platform1"), inventory, Api(on("platform1"), "rollback"))
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(1):
            found.edits.append(found.api.submit())

    threading.Thread(target=work, daemon=True).start()
    found.answer = found.done()
    yield found
    stop.set()


def rolled_back(bench, name: str) -> None:
    """Roll the feature back; check the output, the switch, an edit and, in the soak, that a second run changes nothing."""
    said = bench.play(f"rollback/{name}.yml")
    assert f"{name} is off. Commit its line" in said
    assert SWITCHES[name] in bench.switches.read_text()
    if SOAK:
        assert not changed(bench.play(f"rollback/{name}.yml"))
    assert bench.done()["status"] == "succeeded"


def test_check_mode_says_what_it_would_do(bench):
    before = bench.switches.read_text()
    said = bench.play("rollback/flower.yml", "--check", "--diff")
    assert "+flower_enabled: false" in said
    assert bench.switches.read_text() == before
    assert bench.active("image-editor-flower")


def test_task_payload(bench):
    """A message with the whole task and a message with the id alone are in the queue when the workers start again."""
    bench.host.check_output("systemctl stop image-editor-worker@edit")
    full = bench.api.submit()
    rolled_back(bench, "task_payload")
    bench.host.check_output("systemctl stop image-editor-worker@edit")
    bare = bench.api.submit()
    queue = bench.host.check_output("image-editor-redis-cli -n 0 LRANGE edit 0 -1").splitlines()
    said = [json.loads(message)["headers"]["argsrepr"] for message in queue]  # of this edit, and of the fixture's edits
    assert [f"('{bare}',)"] == [args for args in said if bare in args]
    bench.host.check_output("systemctl start image-editor-worker@edit")
    for edit in (full, bare):
        assert until("both are done", lambda edit=edit: bench.api.ended(edit), 60)["status"] == "succeeded"


def test_result_backend(bench):
    assert bench.results() > 0
    rolled_back(bench, "result_backend")
    before = bench.results()
    assert bench.done().keys() == bench.answer.keys()
    assert bench.results() <= before, "database 2 is written no longer"


def test_flower(bench):
    assert bench.host.check_output(f"{EDGE}/flower/") == "401"
    rolled_back(bench, "flower")
    assert bench.host.check_output(f"{EDGE}/flower/") == "404"
    assert not bench.active("image-editor-flower")
    assert bench.host.run("systemctl is-enabled image-editor-flower").stdout.strip() == "disabled"


def test_monitoring(bench):
    size = "find /var/lib/prometheus -type f | wc -l"
    before = int(bench.host.check_output(size))
    assert before > 0
    rolled_back(bench, "monitoring")
    assert not any(bench.listens(port) for port in (9090, 9093, 9100, 9121, 9187, 9810, 9820))
    assert int(bench.host.check_output(size)) > 0, "what was collected is kept"
    assert bench.done().keys() == bench.answer.keys()


def test_it_stays_so_and_comes_again(bench):
    assert not changed(bench.play("site.yml"))
    assert all(line in bench.switches.read_text() for line in SWITCHES.values())
    bench.switches.write_text((ROOT / "inventories/single_host/group_vars/all/features.yml").read_text())
    refused = playbook("playbooks/site.yml", inventory=bench.inventory)
    assert refused.returncode != 0, "an inventory without the commits must not bring features back"
    assert not changed(refused.stdout)
    for name, line in SWITCHES.items():
        assert f"{name} was rolled back on" in " ".join(refused.stdout.split())
        assert line in " ".join(refused.stdout.split())
    bench.play("site.yml", "-e", f"feature_bring_back={','.join(SWITCHES)}")
    assert bench.host.check_output(f"{EDGE}/flower/") == "401"
    assert bench.active("prometheus")
    seconds = [bench.seconds[f"rollback/{name}.yml"] for name in SWITCHES]
    if SOAK:
        assert figures.record("feature_rollback_seconds_max", round(max(seconds), 1), "s", "<=60")["ok"]


def test_no_edit_was_lost(bench):
    assert len(bench.edits) > 30
    for edit in bench.edits:
        assert until("the edit is done", lambda edit=edit: bench.api.ended(edit), 60)["status"] == "succeeded"
