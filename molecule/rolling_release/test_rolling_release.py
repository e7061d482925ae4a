"""Releases and rollbacks under load, of releases that work and of releases that fail. No client notices any of them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import DELIVERED_AGAIN, LOCK, ROOT, SOAK, changed, container, in_soak, one_line, secret, small_photo, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures
import rollbacks

URL = "https://localhost:9444"
CA = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca/ca.crt"
REPOSITORY = ROOT / "build/rolling_release/repository"
ARCHIVES = ROOT / "build/releases"
WEB, WORKERS = ("web1", "web2"), ("worker1", "worker2")
APPLICATION = (*WEB, *WORKERS)
BUILDER = "web1"
TOKEN = "r" * 43
# Fixed dates, so that every run makes the same commits: an archive that an earlier run left behind names its commit.
DATES = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}

MEMORY = "/var/lib/image-editor/rolled-back.json"

# `make test` releases the branch `main` over the tag `previous` (prepare.yml), rolls it back, and tries a release that fails.
# `make soak` runs all tests and records times.

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

    def processes(self) -> dict[str, str]:
        """The main processes of the application's services."""
        command = "systemctl show -P MainPID 'image-editor-w*.service' image-editor-scheduler.service"
        return {host: self.on(host).check_output(command) for host in APPLICATION}

    def everywhere(self, release: str) -> bool:
        return set(self.current().values()) == {release} and self.running() == {release}

    def feature(self, *arguments: str, enabled: bool, fails: bool = False) -> str:
        """Switch the feature task_payload; return the output in one line."""
        variables = ("-e", "feature_name=task_payload", "-e", f"feature_enabled={str(enabled).lower()}")
        return " ".join(self.play("feature.yml", *variables, *arguments, fails=fails).split())

    def payloads(self) -> dict[str, str]:
        """The values of task_payload in the settings and in the processes of each host. More than one: they differ."""
        command = "(cat /etc/image-editor/image-editor.env; for u in"
        command += " $(systemctl list-units --plain --no-legend 'image-editor-w*.service' | cut -d' ' -f1); do"
        command += " tr '\\0' '\\n' </proc/$(systemctl show -P MainPID $u)/environ; done)"
        command += " | sed -nE 's/^IMAGE_EDITOR_TASK_PAYLOAD=\"?([a-z]+)\"?$/\\1/p' | sort -u | xargs"
        return {host: self.on(host).check_output(command) for host in APPLICATION}

    def switches(self) -> str:
        return (self.inventory / "group_vars/all/features.yml").read_text()

    def remembered(self, host: str) -> dict:
        """What the host remembers of rollbacks."""
        memory = self.on(host).file(MEMORY)
        return json.loads(memory.content_string) if memory.exists else {}

    def pin(self) -> str:
        return (self.inventory / "group_vars/all/releases.yml").read_text()

    def sql(self, query: str) -> str:
        return self.on("core1").check_output("runuser -u postgres -- psql -XtA -d image_editor -c %s", query)

    def credentials(self, host: str) -> tuple[str, str]:
        """The login and the password with which the application of a host signs in to the database."""
        settings = self.on(host).file("/etc/image-editor/image-editor.env").content_string
        return re.search(r"postgresql://(\w+):(\w+)@", settings).groups()

    def signs_in(self, login: str, password: str) -> bool:
        there = f"host=127.0.0.1 user={login} dbname=image_editor sslmode=require"
        return self.on("core1").run("PGPASSWORD=%s psql -XtAwc 'SELECT 1' %s", password, there).rc == 0

    def redis_accepts(self, passwords: dict[str, str]) -> set[str]:
        """The users of Redis that sign in with these passwords."""
        ping = "REDISCLI_AUTH=%s redis-cli --no-auth-warning --tls --cacert /etc/ssl/certs/image-editor-ca.crt"
        ping += " -p 6380 --user %s PING"
        return {user for user, password in passwords.items() if self.on("core1").run(ping, password, user).stdout == "PONG\n"}

    def columns(self) -> list[str]:
        return self.sql("SELECT column_name FROM information_schema.columns WHERE table_name = 'edit'").split()

    def last_migration(self) -> str:
        """The newest migration of the application that the database has."""
        return self.sql("SELECT max(name) FROM django_migrations WHERE app = 'image_editor'")

    def answers(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def failed(self) -> list[dict]:
        return [answer for answer in self.answers() if answer["status"] not in (200, 202)]

    def accepted(self, since: float) -> dict[str, str]:
        """The edits that the load submitted since then, each with the release that accepted it."""
        return {answer["id"]: answer["release"] for answer in self.answers() if answer["status"] == 202 and answer["at"] > since}

    @contextlib.contextmanager
    def edits_waiting(self) -> Iterator[float]:
        """Stop the workers of edits on all hosts, so that messages stay in the queue. At the end the workers run again."""
        self.edit_workers("stop", *WORKERS)
        try:
            yield time.time()
        finally:
            self.edit_workers("start", *WORKERS)

    def edit_workers(self, verb: str, *hosts: str) -> None:
        for host in hosts:
            self.on(host).check_output(f"systemctl {verb} image-editor-worker@edit")

    def kill(self, host: str) -> None:
        """Cut the power of a host."""
        subprocess.run(["docker", "kill", container(host)], check=True, capture_output=True)

    def boot(self, host: str) -> None:
        """Start a host that has lost power."""
        subprocess.run(["docker", "start", container(host)], check=True, capture_output=True)
        state = "systemctl is-system-running --wait"
        until(f"{host} has booted", lambda: self.on(host).run(state).stdout.strip() in ("running", "degraded"), 60)

    @contextlib.contextmanager
    def losing(self, host: str, hook: str) -> Iterator[None]:
        """A host loses power when a release runs its hook, such as ``after_workers``. At the end the host boots again."""
        hooks = self.inventory / "hooks"
        hooks.mkdir(exist_ok=True)
        kill = {
            "name": "Cut the power of the host",
            "ansible.builtin.command": f"docker kill {container(host)}",
            "delegate_to": "localhost",
            "when": f"inventory_hostname == '{host}'",
        }
        (hooks / f"{hook}.yml").write_text(json.dumps([kill]))
        try:
            yield
        finally:
            shutil.rmtree(hooks)
            self.boot(host)

    def queued(self) -> dict[str, dict]:
        """The payload of each message in the queue, by the id of its edit."""
        lines = self.on("core1").check_output("image-editor-redis-cli -n 0 LRANGE edit 0 -1").splitlines()
        messages = [json.loads(line) for line in lines]
        return {message["headers"]["id"]: json.loads(base64.b64decode(message["body"]))[0][0] for message in messages}

    def succeeded(self) -> set[str]:
        return set(self.sql("SELECT id FROM edit WHERE status = 'succeeded'").split())

    def sent(self, host: str) -> int:
        """How many periodic jobs the scheduler of a host has sent."""
        lines = self.on(host).run("journalctl -u image-editor-scheduler -o cat --grep 'Sending due task'").stdout
        return len(lines.splitlines())

    def ended(self, *hosts: str) -> list[str]:
        """The edits that the workers of these hosts have ended. An edit that was ended twice is in the list twice."""
        command = "journalctl -u image-editor-worker@edit -o cat | grep -F '\"edit ended\"'"
        return [json.loads(line)["task_id"] for host in hosts for line in self.on(host).run(command).stdout.splitlines()]


@pytest.fixture(scope="module")
def bench(on, tmp_path_factory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("rolling")
    inventory = directory / "inventory"
    shutil.copytree(f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/inventory", inventory)  # follows the links
    archives = set(ARCHIVES.iterdir())
    found = Bench(on, inventory, directory / "load.jsonl")
    on("web1").check_output("echo %s | image-editor-manage ensure_user load", TOKEN)
    (directory / "small.jpg").write_bytes(small_photo())
    with found.log.open("w") as log:
        command = [sys.executable, Path(__file__).with_name("load.py"), URL, CA, directory / "small.jpg", "20" if SOAK else "5"]
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


def test_a_canary_finishes_messages_of_its_own_and_of_the_previous_release(bench, noticed):
    """The previous release is real code of this repository, because a patch of today's code would share today's mistakes.

    The canary migrates the database while other hosts still run the previous release. Both releases publish to one queue.
    """
    old, new = bench.id("previous"), bench.id("main")
    assert bench.everywhere(old)
    tag = bench.on("web1").file("/opt/image-editor/tag").content_string
    assert tag.split() == ["previous", bench.git("rev-parse", "previous")]
    pin, migration = bench.pin(), bench.last_migration()
    said = " ".join(bench.release("main", "-e", "release_canary=1").split())
    assert "To go on, run the same command without release_canary" in said
    assert bench.current() == {"web1": new, "web2": old, "worker1": new, "worker2": old}
    assert bench.pin() == pin
    assert bench.last_migration() > migration, "the release has no migration"

    with bench.edits_waiting() as began:
        until("each release has accepted an edit", lambda: set(bench.accepted(began).values()) == {old, new}, 30)
        accepted, payloads = bench.accepted(began), bench.queued()
        fields = {by: {frozenset(payloads[edit]) for edit in accepted if accepted[edit] == by} for by in (old, new)}
        assert [len(found) for found in fields.values()] == [1, 1], "the messages of one release differ"
        assert fields[old] != fields[new], "the messages of both releases have the same fields"
        bench.edit_workers("start", "worker1")
        until("worker1 has ended the edits", lambda: accepted.keys() <= set(bench.ended("worker1")), 60)
    assert accepted.keys() <= bench.succeeded()


def test_the_next_run_finishes_a_release_whose_controller_was_killed(bench, noticed):
    """The release of the canary goes on to the other hosts. The controller dies between worker2 and web2."""
    new = bench.id("main")
    process = bench.start("release.yml", "-e", "release_version=main")
    until("worker2 has switched", lambda: bench.status("worker2")["current"] == new, 180)
    subprocess.run(["pkill", "-KILL", "-f", bench.inventory], check=True)  # with the processes that it has started
    process.communicate()
    assert bench.status("web2")["current"] != new
    assert "Commit this line" in bench.release("main")
    assert bench.everywhere(new)
    assert all(bench.on(host).service("image-editor-scheduler").is_running for host in WORKERS)
    assert "release_version: main" in bench.pin()
    commits = {bench.on(host).check_output("cat /opt/image-editor/current/COMMIT") for host in APPLICATION}
    assert {bench.id(commit) for commit in commits} == {new}, "COMMIT on a host names another release"


def test_another_scheduler_takes_over_from_one_that_hangs_and_that_one_waits_when_it_wakes_up(bench, noticed):
    lease = "SELECT split_part(holder, ':', 1) FROM scheduler_lease WHERE expires_at > now()"
    first = until("a scheduler has the lease", lambda: bench.sql(lease))
    (second,) = set(WORKERS) - {first}
    signal = "systemctl kill --kill-whom=main --signal={} image-editor-scheduler"
    bench.on(first).check_output(signal.format("STOP"))
    try:
        until(f"{second} takes over", lambda: bench.sql(lease) == second, 30)
        before, others = bench.sent(first), bench.sent(second)
    finally:
        bench.on(first).check_output(signal.format("CONT"))
    # Of the jobs, healing comes most often: every 5 s.
    until(f"{second} goes on sending jobs", lambda: bench.sent(second) >= others + 4, 60)
    assert bench.sent(first) == before, "both schedulers send"
    assert bench.sql(lease) == second


def test_check_mode_says_where_a_rollback_would_go_and_changes_nothing(bench, noticed):
    processes, pin = bench.processes(), bench.pin()
    said = one_line(bench.play("rollback/release.yml", "--check"))
    assert f"{bench.id('previous')} would run. Commit this line" in said
    assert bench.everywhere(bench.id("main"))
    assert (bench.processes(), bench.pin()) == (processes, pin)
    assert not any(bench.on(host).file(MEMORY).exists for host in APPLICATION)
    rollbacks.prove("release", "check")


def refused(bench, *arguments: str) -> str:
    """Run a rollback that must be refused before it changes anything; return its output on one line."""
    pin = bench.pin()
    said = bench.play("rollback/release.yml", *arguments, fails=True)
    assert not changed(said)
    assert bench.pin() == pin
    assert bench.everywhere(bench.id("main"))
    return one_line(said)


def test_a_rollback_is_refused_while_another_operator_releases(bench, noticed):
    host = bench.on(BUILDER)
    host.check_output(f"echo 'ann@elsewhere:12' >{LOCK}")
    try:
        said = refused(bench)
    finally:
        host.check_output(f"rm {LOCK}")
    assert "ann@elsewhere:12 has been changing this environment since" in said, said[-3000:]
    rollbacks.prove("release", "release")


def test_a_rollback_is_refused_while_a_host_does_not_answer(bench, noticed):
    """The controller cannot reach worker2. The host itself runs on, because clients use it."""
    variables = bench.inventory / "host_vars/worker2.yml"
    variables.parent.mkdir()
    variables.write_text("ansible_host: no-such-container\n")
    try:
        said = refused(bench)
    finally:
        variables.unlink()
    assert "[worker2]: UNREACHABLE!" in said, said[-3000:]
    rollbacks.prove("release", "unreachable")


def test_a_rollback_is_refused_if_the_inventory_lacks_the_pin(bench, noticed):
    file = bench.inventory / "group_vars/all/releases.yml"
    kept = file.read_text()
    file.write_text("# The pin is missing.\n")
    try:
        said = refused(bench)
    finally:
        file.write_text(kept)
    assert "needs exactly one line `release_version: …`" in said, said[-3000:]
    rollbacks.prove("release", "missing_switch")


def test_a_rollback_returns_to_the_earlier_release_which_finishes_newer_messages(bench, noticed):
    """The database keeps its newer schema."""
    old, new, migration = bench.id("previous"), bench.id("main"), bench.last_migration()
    with bench.edits_waiting() as began:
        until("the release has accepted some edits", lambda: len(bench.accepted(began)) > 5, 30)
        accepted = bench.accepted(began)
        assert set(accepted.values()) == {new}
        left = time.time()
        bench.play("rollback/release.yml")
        assert accepted.keys() <= bench.queued().keys()
    assert bench.everywhere(old)
    assert bench.last_migration() == migration
    rollbacks.prove("release", "done")
    until("the earlier release has finished the edits", lambda: accepted.keys() <= bench.succeeded(), 60)
    if SOAK:
        answers = [answer for answer in bench.answers() if answer["at"] > left and answer["release"] == new]
        last = max(answer["at"] + answer["seconds"] for answer in answers)
        assert figures.record("release_rollback_seconds", round(last - left, 1), "s", "<=20")["ok"]
    assert bench.id(bench.pin().split()[-1]) == old
    assert f"release {new}" in bench.remembered("core1"), "a host that the rollback is not about does not remember it"
    assert not changed(bench.play("rollback/release.yml"))
    rollbacks.prove("release", "second_run")
    hosts = () if SOAK else ("--limit", "web1:worker1")  # in the soak all hosts, which takes a minute more
    assert not changed(bench.play("site.yml", *hosts)), "site.yml changed something after the rollback"
    rollbacks.prove("release", "site")


def test_a_release_that_was_rolled_back_is_not_brought_back_by_a_lost_commit(bench, noticed):
    """A second clone still names the release that was rolled back."""
    before = bench.current()["web1"]
    refused = bench.release("main", fails=True)
    assert not changed(refused)
    said = " ".join(refused.split())
    assert f"release {bench.id('main')} was rolled back on" in said
    assert f"commit this line in group_vars/all/releases.yml: {bench.pin().splitlines()[-1]}" in said
    assert f"-e release_bring_back={bench.id('main')}" in said
    assert bench.everywhere(before)


def test_a_release_that_was_rolled_back_is_brought_back_by_its_name(bench, noticed):
    new = bench.id("main")
    bench.release("main", "-e", f"release_bring_back={new}")
    assert bench.everywhere(new)
    assert "release_version: main" in bench.pin()
    rollbacks.prove("release", "forward")


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
    assert all(bench.on(host).service("image-editor-scheduler").is_running for host in WORKERS)


@in_soak
def test_a_rejected_release_is_not_tried_again(bench, noticed):
    said = bench.release("bad-start", fails=True)
    assert "was rejected on" in said
    assert not changed(said)


@in_soak
def test_a_migration_that_fails_half_way_leaves_every_host_on_the_earlier_release(bench, noticed):
    before, pin = bench.current()["web1"], bench.pin()
    half = bench.commit("half", **migrations("half", (True, COLUMN % "half"), (True, "RunPython(fail, fail)")))
    said = bench.release("half", fails=True)
    assert "half-way" in said
    assert bench.everywhere(before)
    assert bench.pin() == pin
    assert half not in bench.status("web1")["rejected"], "the cause may be the database, so the release may be tried again"
    assert "half" in bench.columns(), "the migration before the broken one was not applied"


@in_soak
def test_a_contracting_migration_needs_confirmation_and_a_rollback_reverses_it(bench, noticed):
    before = bench.current()["web1"]
    after = bench.commit("contract", **migrations("contract", (True, COLUMN % "more"), (False, "RunSQL('SELECT 1', 'SELECT 1')")))
    said = bench.release("contract", fails=True)
    name = re.search(r"release_confirm_migrations=(\S+)", said)[1]
    assert bench.everywhere(before)
    bench.release("contract", "-e", f"release_confirm_migrations={name}")
    assert bench.everywhere(after)
    assert "more" in bench.columns()
    assert f"cannot work with {name}" in bench.play("rollback/release.yml", fails=True)
    bench.play("rollback/release.yml", "-e", "rollback_migrations=true")
    assert bench.on("core1").run("ls /var/lib/image-editor-backup/dumps/rollback-*.dump").rc == 0, "there is no dump"
    assert bench.everywhere(before)
    assert "more" not in bench.columns()


@in_soak
def test_a_rollback_that_cannot_migrate_the_database_back_ends_on_the_earlier_release(bench, noticed):
    """The dump before the migration fails. Afterwards the same command finishes the rollback."""
    before, rollback = bench.current()["web1"], ("rollback/release.yml", "-e", "rollback_migrations=true")
    bench.commit("wide", **migrations("wide", (True, COLUMN % "wide")))
    bench.release("wide")
    pin, dumps = bench.pin(), "/var/lib/image-editor-backup/dumps"
    bench.on("core1").check_output(f"mv {dumps} {dumps}.away && touch {dumps}")
    try:
        said = one_line(bench.play(*rollback, fails=True))
    finally:
        bench.on("core1").check_output(f"rm {dumps} && mv {dumps}.away {dumps}")
    assert "No host gets the newer release back, because the database may be migrated back. Run the same command again." in said
    assert bench.everywhere(before)
    assert bench.pin() == pin
    assert all(bench.on(host).service("image-editor-scheduler").is_running for host in WORKERS)
    assert not bench.on(BUILDER).file(LOCK).exists
    bench.play(*rollback)
    assert bench.everywhere(before)
    assert "wide" not in bench.columns()


@in_soak
def test_an_archive_with_a_wrong_checksum_is_not_installed(bench, noticed):
    before = bench.current()["web1"]
    damaged = bench.commit("damaged")
    described = json.loads((ARCHIVES / f"image-editor-{bench.id('main')}.json").read_text())
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
def test_the_lock_of_another_operator_is_respected_until_it_is_broken(bench, noticed):
    """The first operator is at another controller. This controller cannot tell whether that run is still alive."""
    release, before, pin = bench.commit("v3"), bench.current()["web1"], bench.pin()
    host = bench.on(BUILDER)
    host.check_output(f"echo 'ann@elsewhere:12' >{LOCK}")
    said = one_line(bench.release("v3", fails=True))
    assert "ann@elsewhere:12 has been changing this environment since" in said, said[-3000:]
    bench.release("v3", "-e", "release_canary=1", "-e", "platform_lock_break=ann@elsewhere:12")
    # Only the first web host and the first worker host have switched. The inventory keeps its pin.
    now = bench.current()
    assert [now[host] == release for host in APPLICATION] == [True, False, True, False]
    assert bench.pin() == pin
    assert not host.file(LOCK).exists
    bench.play("rollback/release.yml")
    assert bench.everywhere(before)


@in_soak
def test_each_hook_of_the_operator_runs_once_on_each_host_of_its_step(bench, noticed):
    """Each hook runs once on each host of its step. A release that has been built is not built again."""
    hooks = bench.inventory / "hooks"
    hooks.mkdir()
    for name in ("before_web", "after_workers"):
        task = [{"name": "Note it", "ansible.builtin.command": f"sh -c 'echo {name} >>/root/hooks'"}]
        (hooks / f"{name}.yml").write_text(json.dumps(task))
    said = bench.release("v3", "-e", f"release_bring_back={bench.id('v3')}")
    figures.record("release_seconds", round(bench.seen["release.yml"], 1), "s")
    assert "pack | Pack and describe the release" not in said
    ran = {host: bench.on(host).run("cat /root/hooks").stdout.split() for host in APPLICATION}
    assert ran == {"web1": ["before_web"], "web2": ["before_web"], "worker1": ["after_workers"], "worker2": ["after_workers"]}
    assert len(bench.status("web1")["releases"]) <= 5


def test_a_feature_is_tried_on_the_first_hosts_and_then_switched_on_all(bench, noticed):
    """With feature_canary=1, one web host and one worker host have the new value. The inventory and the hosts' memory do not."""
    before = bench.switches()
    said = bench.feature("-e", "feature_canary=1", enabled=False)
    assert bench.payloads() == {"web1": "id", "web2": "full", "worker1": "id", "worker2": "full"}
    assert bench.switches() == before
    assert "task_payload" not in bench.remembered("web1")
    assert "To go on, run the same command without feature_canary" in said
    assert "playbooks/feature.yml -e feature_name=task_payload -e feature_enabled=true" in said

    bench.feature(enabled=False)
    assert bench.payloads() == dict.fromkeys(APPLICATION, "id")
    assert bench.switches() == before.replace("task_payload: full #", "task_payload: id #") != before
    assert all(bench.remembered(host)["task_payload"]["rolled_back"] for host in APPLICATION)


@in_soak
def test_a_feature_with_which_a_host_does_not_start_is_put_back_on_all_hosts(bench, noticed):
    """worker1 has the new value already when the edit worker of worker2 does not start with it."""
    host, before = bench.on("worker2"), bench.switches()
    drop_in = "/etc/systemd/system/image-editor-worker@edit.service.d/refuse.conf"
    refuse = "ExecStartPre=+/bin/sh -c '! grep -q TASK_PAYLOAD=.full /etc/image-editor/image-editor.env'"
    host.check_output(
        "mkdir -p $(dirname %s) && printf '[Service]\\n%%s\\n' %s >%s && systemctl daemon-reload", drop_in, refuse, drop_in
    )
    try:
        said = bench.feature(enabled=True, fails=True)
    finally:
        host.check_output("rm %s && systemctl daemon-reload", drop_in)
    assert "worker2: activate | Switch the host to the release and restart what runs another" in said
    assert "task_payload is put back: every host runs with task_payload: id again, as the inventory says." in said
    assert bench.payloads() == dict.fromkeys(APPLICATION, "id")
    assert all(bench.on(name).service("image-editor-worker@edit").is_running for name in WORKERS)
    assert bench.switches() == before
    assert bench.remembered("web1")["task_payload"]["rolled_back"]
    assert not bench.on(BUILDER).file(LOCK).exists


@in_soak
def test_the_passwords_of_the_database_and_of_redis_change_under_load(bench, noticed):
    """Afterwards every process signs in with the new passwords, and the old ones are refused. Redis does not restart."""
    old, users = bench.credentials("web1"), ("admin", "application", "exporter", "proxy", "replication", "sentinel")
    assert bench.signs_in(*old)
    old_redis = {user: secret(f"redis_{user}_password") for user in users}
    new_redis = {user: f"{user}-{'n' * 32}" for user in users}
    assert bench.redis_accepts(old_redis) == set(users)
    redis = bench.on("core1").check_output("systemctl show -P MainPID redis-server")
    # Read after secrets.yml, so these values win.
    changes = {"vault_postgresql_password": "n" * 32, "vault_redis_passwords": new_redis}
    (bench.inventory / "group_vars/all/zz_passwords.yml").write_text(json.dumps(changes))
    said = bench.play("application.yml", fails=True)
    assert not changed(said)
    assert "The database has no login with the present password." in one_line(said)
    # In the order of site.yml; retire_passwords.yml runs last.
    bench.play("retire_passwords.yml", "playbooks/database.yml", "playbooks/cache.yml", "playbooks/application.yml")
    new = bench.credentials("web1")
    assert new[1] == "n" * 32
    assert {bench.credentials(host) for host in APPLICATION} == {new}
    assert bench.signs_in(*new)
    assert not bench.signs_in(*old)
    sessions = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'image_editor' AND usename <> 'postgres'"
    assert bench.sql(sessions) == new[0]
    assert bench.redis_accepts(new_redis) == set(users)
    assert bench.redis_accepts(old_redis) == set()
    assert bench.on("core1").check_output("systemctl show -P MainPID redis-server") == redis, "Redis was restarted"


def test_a_rollout_is_refused_if_the_hosts_run_another_release_than_the_pin(bench):
    """Otherwise the two baselines of a rollout could measure two releases."""
    pin, path = bench.pin(), bench.inventory / "group_vars/all/releases.yml"
    other = bench.commit("other")
    path.write_text("release_version: other\n")
    try:
        said = bench.play("rollout.yml", "-e", "optimisation=task_payload", fails=True)
    finally:
        path.write_text(pin)
    assert not changed(said)
    said = " ".join(said.split())
    for host, release in bench.current().items():
        assert f"{host} runs release {release}. The inventory pins {other} (release_version: other)." in said
    command = "ansible-playbook -i inventories/<yours> playbooks/release.yml -e release_version=other"
    assert f"To make every host run the pin: {command}." in said


def test_no_request_failed_and_every_edit_was_done_once_during_all_tests(bench):
    """During all tests above, no request failed or took long, and every edit was done exactly once."""
    assert bench.load.poll() is None, "the load ended before the tests did"
    answers = bench.answers()
    seconds = sorted(answer["seconds"] for answer in answers)
    print(f"{len(seconds)} answers")
    assert figures.record("release_p99_seconds", round(seconds[int(len(seconds) * 0.99)], 2), "s", "<=1")["ok"]
    assert figures.record("release_slowest_seconds", round(seconds[-1], 2), "s", "<=5")["ok"]
    failed = bench.failed()
    assert figures.record("release_failed_requests", len(failed), "requests", "<=0")["ok"], failed
    edits = [answer["id"] for answer in answers if answer["kind"] == "edit"]
    assert len(edits) > 100

    def unfinished() -> set[str]:
        return set(edits) - bench.succeeded()

    with contextlib.suppress(AssertionError):
        until("every edit has ended well", lambda: not unfinished(), 60)
    assert figures.record("release_edits_lost", len(unfinished()), "edits", "<=0")["ok"]
    # A worker writes the line after the commit that lets clients see that the edit has succeeded.
    until("the journals of the workers have every edit", lambda: set(edits) <= set(bench.ended(*WORKERS)))
    effects = bench.ended(*WORKERS)
    assert len(effects) == len(set(effects)), "an edit was done twice"
    if "rollback/release.yml" in bench.seen:
        rollbacks.prove("release", "load")


# The tests below cut the power of hosts, so requests that a web host is answering may fail.


def lost(bench, host: str, hook: str, ref: str, path: str = "release.yml") -> None:
    """Release ``ref``, or roll back to it, and lose a host at the hook. The others end as they began. The host boots again."""
    before, pin = bench.current()["web1"], bench.pin()
    with bench.losing(host, hook):
        said = one_line(bench.play(path, "-e", f"release_version={ref}", fails=True)).split("PLAY RECAP")[0]
        assert {bench.status(name)["current"] for name in APPLICATION if name != host} == {before}
        assert all(bench.on(name).service("image-editor-scheduler").is_running for name in WORKERS if name != host)
    assert f"Every host that answers runs the release that it ran before. {host} did not answer" in said, said[-3000:]
    assert f"-e platform_down={host}" in said[-2000:], "the last lines do not say what to do"
    assert bench.pin() == pin
    assert bench.id(ref) not in bench.status("web2")["rejected"]
    assert not bench.on(BUILDER).file(LOCK).exists


@in_soak
def test_a_release_that_loses_a_host_is_put_back_and_the_next_run_leads_the_host_back(bench):
    """worker2 loses power after it has switched, and web1, the builder, before. The release was built earlier."""
    began = time.time()
    ref = "main" if bench.current()["web1"] == bench.id("previous") else "previous"
    lost(bench, "worker2", "after_workers", ref)
    assert bench.status("worker2")["current"] == bench.id(ref), "worker2 was lost before it had switched"
    lost(bench, "web1", "before_web", ref)
    bench.release(ref)
    assert figures.record("release_lost_host_recovers", int(bench.everywhere(bench.id(ref))), "", ">=1")["ok"]
    assert f"release_version: {ref}" in bench.pin()
    accepted = bench.accepted(began)
    assert len(accepted) > 50
    until("every accepted edit has succeeded", lambda: accepted.keys() <= bench.succeeded(), DELIVERED_AGAIN)


@in_soak
def test_site_yml_leads_the_host_of_a_scheduler_back(bench):
    """The host returns with the release that was put back on all other hosts."""
    before, other = bench.current()["web1"], bench.id("main")
    assert before != other
    lost(bench, "worker1", "after_workers", "main")
    assert bench.status("worker1")["current"] == other
    until("the scheduler runs", lambda: bench.on("worker1").service("image-editor-scheduler").is_running, 60)
    bench.play("site.yml")
    assert bench.everywhere(before)
    assert bench.status("worker1")["previous"] != other, "a rollback would go to a release that has not ended"


@in_soak
def test_the_switch_of_a_feature_that_loses_a_host_is_put_back(bench):
    before, payloads = bench.switches(), bench.payloads()
    assert set(payloads.values()) == {"id"}
    process = bench.start("feature.yml", "-e", "feature_name=task_payload", "-e", "feature_enabled=true")
    settings = bench.on("worker1").file("/etc/image-editor/image-editor.env")
    until("worker1 has the new value", lambda: settings.contains("TASK_PAYLOAD=.full"), 180)
    bench.kill("worker2")
    said = one_line(process.communicate()[0])
    bench.boot("worker2")
    assert process.returncode != 0
    assert "every host that answers runs with task_payload: id again" in said, said[-3000:]
    assert "-e platform_down=worker2" in said
    assert bench.switches() == before
    assert bench.payloads() == payloads
    bench.feature(enabled=True)
    assert set(bench.payloads().values()) == {"full"}


@in_soak
def test_a_release_that_loses_the_host_that_migrates_is_put_back_and_the_next_run_ends(bench):
    """web1 is the first host of the run, so it migrates. It loses power before the migration, and in the next run after it."""
    release = bench.commit("lost", **migrations("lost", (True, COLUMN % "lost")))
    lost(bench, "web1", "before_migrate", "lost")
    assert "lost" not in bench.columns()
    lost(bench, "web1", "after_migrate", "lost")
    assert "lost" in bench.columns()
    bench.release("lost")
    assert bench.everywhere(release)


@in_soak
def test_a_rollback_that_loses_a_host_is_put_back_and_the_next_run_ends(bench):
    """worker2 loses power after it has switched. By then all web hosts have switched, too."""
    rollback, old = "rollback/release.yml", bench.id("previous")
    assert not bench.everywhere(old)
    lost(bench, "worker2", "after_workers", "previous", rollback)
    assert bench.status("worker2")["current"] == old, "worker2 was lost before it had switched"
    bench.play(rollback, "-e", "release_version=previous")
    assert bench.everywhere(old)
    assert "release_version: previous" in bench.pin()
