"""Releases and rollbacks under load, of releases that work and of releases that fail. No client notices any of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import PHOTO, ROOT, SOAK, changed, in_soak, until
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import figures

URL = "https://localhost:9444"
CA = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca/ca.crt"
REPOSITORY = ROOT / "build/rolling_release/repository"
ARCHIVES = ROOT / "build/releases"
WEB, WORKERS = ("web1", "web2"), ("worker1", "worker2")
APPLICATION = (*WEB, *WORKERS)
TOKEN = "r" * 43
# Fixed dates, so that every run makes the same commits: an archive that an earlier run left behind names its commit.
DATES = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}

# `make test` runs a good release, its rollback and a bad release. `make soak` runs all tests and records times.

# Bugs that the application's tests missed. They show at every start, in each request, only in the service, or only in a worker.
BROKEN = {
    "start": ("backend/wsgi.py", "raise RuntimeError('this release does not start')\n"),
    "answer": ("backend/urls.py", "raise RuntimeError('each answer is a 500')\n"),
    "serve": ("backend/wsgi.py", "import sys\nif '--config' in sys.argv:\n    raise RuntimeError('this one is no service')\n"),
    "work": ("backend/celery.py", "import sys\nif 'worker' in sys.argv:\n    raise RuntimeError('no worker starts')\n"),
}
MIGRATION = """from django.db import migrations, models

def fail(apps, editor):
    raise RuntimeError("half-way")

class Migration(migrations.Migration):
    expands = %s
    dependencies = [("image_editor", "%s")]
    operations = [migrations.%s]
"""
COLUMN = 'AddField("edit", "%s", models.TextField(null=True))'


@dataclass
class Bench:
    """The platform, a repository to release from, an inventory to write to, and the load."""

    on: object
    inventory: Path
    log: Path
    load: subprocess.Popen[str] | None = None
    seen: dict[str, float] = field(default_factory=dict)

    def git(self, *arguments: str) -> str:
        return subprocess.check_output(["git", "-C", REPOSITORY, *arguments], env=os.environ | DATES, text=True).strip()

    def commit(self, tag: str, **changes: str) -> str:
        """Commit and tag the release ``tag``; return its id. ``changes``: text to put at the beginning of files of app/."""
        self.git("checkout", "--quiet", "main")
        for name, text in {"CHANGE": f"{tag}\n", **changes}.items():
            path = REPOSITORY / "app" / name
            path.write_text(text + (path.read_text() if path.exists() else ""))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", tag)
        self.git("tag", "--force", tag)
        self.git("reset", "--quiet", "--hard", "HEAD~1")
        return self.id(tag)

    def id(self, ref: str) -> str:
        return self.git("rev-parse", f"{ref}:app")[:12]

    def start(self, path: str, *arguments: str) -> subprocess.Popen[str]:
        command = ["ansible-playbook", "-i", str(self.inventory), *arguments, f"playbooks/{path}"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **streams)

    def play(self, path: str, *arguments: str, fails: bool = False) -> str:
        """Run a playbook against the inventory that tests may write to; return its output."""
        began = time.monotonic()
        process = self.start(path, *arguments)
        output, _ = process.communicate()
        self.seen[path] = time.monotonic() - began
        print(f"{path} {' '.join(arguments)}: {self.seen[path]:.1f} s")
        assert (process.returncode != 0) == fails, output[-6000:]
        return output

    def release(self, version: str, *arguments: str, fails: bool = False) -> str:
        return self.play("release.yml", "-e", f"release_version={version}", *arguments, fails=fails)

    def status(self, host: str) -> dict:
        return json.loads(self.on(host).check_output("image-editor-release status --json"))

    def current(self) -> dict[str, str]:
        return {host: self.status(host)["current"] for host in APPLICATION}

    def running(self) -> set[str]:
        """The releases that the processes run. The symlink may name another."""
        command = "for u in $(systemctl list-units --plain --no-legend 'image-editor-w*.service' | cut -d' ' -f1); do"
        command += " basename $(readlink /proc/$(systemctl show -P MainPID $u)/cwd); done"
        return {line for host in APPLICATION for line in self.on(host).check_output(command).split()}

    def everywhere(self, release: str) -> bool:
        return set(self.current().values()) == {release} and self.running() == {release}

    def pin(self) -> str:
        return (self.inventory / "group_vars/all/releases.yml").read_text()

    def sql(self, query: str) -> str:
        return self.on("core1").check_output("runuser -u postgres -- psql -XtA -d image_editor -c %s", query)

    def answers(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def failed(self) -> list[dict]:
        return [answer for answer in self.answers() if answer["status"] not in (200, 202)]


@pytest.fixture(scope="module")
def bench(on, tmp_path_factory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("rolling")
    inventory = directory / "inventory"
    shutil.copytree(f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/inventory", inventory)  # follows the links
    archives = set(ARCHIVES.iterdir())
    found = Bench(on, inventory, directory / "load.jsonl")
    on("web1").check_output("echo %s | image-editor-manage ensure_user load", TOKEN)
    small = io.BytesIO()
    Image.open(PHOTO).resize((32, 32)).save(small, "JPEG")
    (directory / "small.jpg").write_bytes(small.getvalue())
    with found.log.open("w") as log:
        command = [sys.executable, Path(__file__).with_name("load.py"), URL, CA, directory / "small.jpg"]
        load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, text=True)
        load.stdin.write(f"{TOKEN}\n")
        load.stdin.flush()
        found.load = load
        until("the load runs", lambda: len(found.answers()) > 20, 30)
        yield found
        load.kill()
        load.wait()
    for path in set(ARCHIVES.iterdir()) - archives:
        path.unlink()


@pytest.fixture
def noticed(bench) -> Iterator[None]:
    """Fail if a request of the load fails during the test."""
    before = len(bench.failed())
    yield
    assert bench.failed()[before:] == []


def migrations(label: str, *operations: tuple[bool, str]) -> dict[str, str]:
    """Files of migrations, each depending on the one before. ``label`` keeps the names of two tests apart."""
    last = sorted(path.stem for path in (REPOSITORY / "app/image_editor/migrations").glob("0*.py"))[-1]
    files = {}
    for number, (expands, operation) in enumerate(operations, int(last[:4]) + 1):
        name = f"{number:04}_{label}_{number}"
        files[f"image_editor/migrations/{name}.py"] = MIGRATION % (expands, last, operation)
        last = name
    return files


def test_a_release_reaches_every_host_and_a_rollback_returns_to_the_earlier_release(bench, noticed):
    first, second = bench.id("main"), bench.commit("v2")
    assert "Commit this line" in bench.release("v2")
    assert bench.everywhere(second)
    assert "release_version: v2" in bench.pin()
    commits = {bench.on(host).check_output("cat /opt/image-editor/current/COMMIT") for host in APPLICATION}
    assert {bench.id(commit) for commit in commits} == {second}, "COMMIT on a host names another release"

    began = time.time()
    bench.play("rollback/release.yml")
    assert bench.everywhere(first)
    if SOAK:
        answers = [answer for answer in bench.answers() if answer["at"] > began and answer["release"] == second]
        last = max(answer["at"] + answer["seconds"] for answer in answers)
        figures.record("release_seconds", round(bench.seen["release.yml"], 1), "s")
        assert figures.record("release_rollback_seconds", round(last - began, 1), "s", "<=20")["ok"]
    assert bench.id(bench.pin().split()[-1]) == first
    assert not changed(bench.play("rollback/release.yml"))
    assert not changed(bench.play("site.yml")), "site.yml changed something after the rollback"


def test_a_release_that_was_rolled_back_is_not_brought_back_by_a_lost_commit(bench, noticed):
    """A second clone still names the release that was rolled back."""
    before = bench.current()["web1"]
    refused = bench.release("v2", fails=True)
    assert not changed(refused)
    said = " ".join(refused.split())
    assert f"release {bench.id('v2')} was rolled back on" in said
    assert f"commit this line in group_vars/all/releases.yml: {bench.pin().splitlines()[-1]}" in said
    assert f"-e release_bring_back={bench.id('v2')}" in said
    assert bench.everywhere(before)


@pytest.mark.parametrize("broken", [name if name == "start" else pytest.param(name, marks=in_soak) for name in BROKEN])
def test_a_release_that_fails_its_checks_is_put_back_and_rejected(bench, noticed, broken):
    file, text = BROKEN[broken]
    before = bench.current()["web1"]
    bad = bench.commit(f"bad-{broken}", **{file: text})
    pin = bench.pin()
    said = bench.release(f"bad-{broken}", fails=True)
    assert bench.everywhere(before)
    assert bench.pin() == pin
    verdict = said.split("Fail and name the check that failed")[-1]
    assert f"Release {bad} is rejected" in verdict
    assert text.split("'")[-2] in verdict, "the reason from the journal is missing"
    assert all(bad in bench.status(host)["rejected"] for host in APPLICATION)
    assert bench.on("worker1").service("image-editor-scheduler").is_running


@in_soak
def test_a_rejected_release_is_not_tried_again(bench, noticed):
    said = bench.release("bad-start", fails=True)
    assert "was rejected on" in said
    assert not changed(said)


@in_soak
def test_a_migration_that_fails_half_way_leaves_every_host_on_the_earlier_release(bench, noticed):
    before = bench.current()["web1"]
    bench.commit("half", **migrations("half", (True, COLUMN % "half"), (True, "RunPython(fail, fail)")))
    assert "half-way" in bench.release("half", fails=True)
    assert bench.everywhere(before)


@in_soak
def test_a_contracting_migration_needs_confirmation_and_a_rollback_reverses_it(bench, noticed):
    before = bench.current()["web1"]
    after = bench.commit("contract", **migrations("contract", (True, COLUMN % "more"), (False, "RunSQL('SELECT 1', 'SELECT 1')")))
    said = bench.release("contract", fails=True)
    name = re.search(r"release_confirm_migrations=(\S+)", said)[1]
    assert bench.everywhere(before)
    bench.release("contract", "-e", f"release_confirm_migrations={name}")
    assert bench.everywhere(after)
    column = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'edit' AND column_name = 'more'"
    assert bench.sql(column) == "1"
    assert f"cannot work with {name}" in bench.play("rollback/release.yml", fails=True)
    bench.play("rollback/release.yml", "-e", "rollback_migrations=true")
    assert bench.everywhere(before)
    assert bench.sql(column) == "0"


@in_soak
def test_an_archive_with_a_wrong_checksum_is_not_installed(bench, noticed):
    before = bench.current()["web1"]
    damaged = bench.commit("damaged")
    described = json.loads((ARCHIVES / f"image-editor-{bench.id('v2')}.json").read_text())
    (ARCHIVES / f"image-editor-{damaged}.json").write_text(json.dumps(described | {"sha256": "0" * 64}))
    assert "has the checksum" in bench.release("damaged", fails=True)
    assert bench.everywhere(before)
    assert damaged not in bench.status("web1")["releases"]


@in_soak
def test_a_release_that_does_not_fit_on_a_disk_is_refused_and_not_rejected(bench, noticed):
    before = bench.current()["web1"]
    bench.commit("large")
    host = bench.on("web2")
    free = bench.status("web2")["free"] // 2**20
    host.check_output(f"fallocate -l {free - 100}M /opt/image-editor/ballast")
    try:
        said = bench.release("large", fails=True)
    finally:
        host.check_output("rm /opt/image-editor/ballast")
    assert re.search(r"web2: release \w+ needs \d+ MiB .* and \d+ MiB are free", said.replace("\n", " "))
    assert bench.everywhere(before)
    assert not bench.status("web1")["rejected"].get(bench.id("large"))


@in_soak
def test_an_unknown_git_ref_is_refused_and_changes_nothing(bench, noticed):
    before = bench.current()["web1"]
    said = bench.release("v9-typo", fails=True)
    assert "release_version is 'v9-typo'" in said
    assert not changed(said)
    assert bench.everywhere(before)


@in_soak
def test_the_next_run_finishes_a_release_whose_controller_was_killed(bench, noticed):
    release = bench.commit("killed")
    process = bench.start("release.yml", "-e", "release_version=killed")
    until("the first web host has switched", lambda: bench.status("web1")["current"] == release, 180)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert bench.status("web2")["current"] != release
    bench.release("killed")
    assert bench.everywhere(release)
    assert "release_version: killed" in bench.pin()


@in_soak
def test_a_release_lock_of_another_operator_is_respected_until_it_is_broken(bench, noticed):
    """The first operator is at another controller. This controller cannot tell whether that run is still alive."""
    release = bench.commit("v3")
    host = bench.on("core1")
    host.check_output("image-editor-release lock 'ann@elsewhere 12'")
    said = bench.release("v3", fails=True).replace("\n", " ")
    assert re.search(r"ann@elsewhere 12 has held the release lock for +0 h 0 min \d+ s", said), said[-3000:]
    bench.release("v3", "-e", "release_canary=1", "-e", "release_lock_break='ann@elsewhere 12'")
    # Only the first web host and the first worker host have switched. The inventory keeps its pin.
    now = bench.current()
    assert [now[host] == release for host in APPLICATION] == [True, False, True, False]
    assert "release_version: killed" in bench.pin()
    assert not host.file("/run/image-editor-release.lock").exists
    bench.play("rollback/release.yml")
    assert bench.everywhere(bench.id("killed"))


@in_soak
def test_each_hook_of_the_operator_runs_once_on_each_host_of_its_step(bench, noticed):
    """Each hook runs once on each host of its step. A release that has been built is not built again."""
    hooks = bench.inventory / "hooks"
    hooks.mkdir()
    for name in ("before_web", "after_workers"):
        task = [{"name": "Note it", "ansible.builtin.command": f"sh -c 'echo {name} >>/root/hooks'"}]
        (hooks / f"{name}.yml").write_text(json.dumps(task))
    said = bench.release("v2", "-e", f"release_bring_back={bench.id('v2')}")
    assert "pack | Pack and describe the release" not in said
    ran = {host: bench.on(host).run("cat /root/hooks").stdout.split() for host in APPLICATION}
    assert ran == {"web1": ["before_web"], "web2": ["before_web"], "worker1": ["after_workers"], "worker2": ["after_workers"]}
    assert len(bench.status("web1")["releases"]) <= 5


def test_no_request_failed_and_every_edit_was_done_once_during_all_tests(bench):
    """During all tests above, no request failed or took long, and every edit was done exactly once."""
    assert bench.load.poll() is None, "the load ended before the tests did"
    answers = bench.answers()
    seconds = sorted(answer["seconds"] for answer in answers)
    print(f"{len(seconds)} answers, p99 {seconds[int(len(seconds) * 0.99)]:.2f} s, slowest {seconds[-1]:.2f} s")
    assert figures.record("release_slowest_seconds", round(seconds[-1], 2), "s", "<=5")["ok"]
    failed = bench.failed()
    assert figures.record("release_failed_requests", len(failed), "requests", "<=0")["ok"], failed
    edits = [answer["id"] for answer in answers if answer["kind"] == "edit"]
    assert len(edits) > 100

    def unfinished() -> set[str]:
        return set(edits) - set(bench.sql("SELECT id FROM edit WHERE status = 'succeeded'").split())

    with contextlib.suppress(AssertionError):
        until("every edit has ended well", lambda: not unfinished(), 60)
    assert figures.record("release_edits_lost", len(unfinished()), "edits", "<=0")["ok"]
    ends = "journalctl -u image-editor-worker@edit -o cat | grep -F '\"edit ended\"'"
    effects = [json.loads(line)["task_id"] for host in WORKERS for line in bench.on(host).check_output(ends).splitlines()]
    assert len(effects) == len(set(effects)), "an edit was done twice"
