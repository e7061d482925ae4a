"""What the tests of feature rollbacks in the scenarios single_host and replication share: runs, refusals and backups."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers import changed, one_line, playbook
from testinfra.host import Host

# The line that keeps each feature rolled back.
OFF = {
    "task_payload": "task_payload: id",
    "result_backend": "celery_result_backend_enabled: false",
    "redis_replication": "redis_replication_enabled: false",
    "postgresql_replication": "postgresql_replication_enabled: false",
    "flower": "flower_enabled: false",
    "monitoring": "monitoring_enabled: false",
}
MEMORY = "/var/lib/image-editor/rolled-back.json"
DUMPS = "/var/lib/image-editor-backup/dumps"
# The tasks that make the backups.
BACKUPS = ("dump | Dump the database and compare every table", "backup | Save a Redis snapshot and wait until it is written")
SWITCH = "Change the switch in the inventory's file"
# What check mode could change: files of settings, and the services that run. Redis and Sentinel rewrite the files of their state.
STATE = (
    "find /etc -type f ! -name '*-state.conf*' -exec sha256sum {} + | sort -k 2;"
    " for unit in $(systemctl list-units --type=service --state=running --plain --no-legend"
    " 'image-editor-*' 'redis-*' 'prometheus*' 'haproxy*' 'nginx*' 'grafana*' 'postgresql@*' | cut -d' ' -f1);"
    ' do echo "$unit $(systemctl show -P MainPID "$unit")"; done'
)
RESTORE = (
    "cd /; createdb --template=template0 rehearsal; trap 'dropdb rehearsal' EXIT;"
    " pg_restore --exit-on-error --dbname=rehearsal %s; psql -XtA -d rehearsal -c 'SELECT count(*) FROM edit'"
)


def another_release(directory: Path) -> Path:
    """Make a git repository whose app/ is another release than the one that the hosts run."""
    repository = directory / "repository"
    (repository / "app").mkdir(parents=True)
    (repository / "app/CHANGE").write_text("another release\n")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=tester", "-c", "user.email=tester@example.org", "commit", "--quiet", "--message", "Another release"],
    ):
        subprocess.run(["git", "-C", repository, *command], check=True)
    return repository


@dataclass
class Rollbacks:
    """Runs rollbacks of features with an inventory that they may write to."""

    on: Callable[[str], Host]
    directory: Path  # of the test run
    hosts: tuple[str, ...]
    database: str  # the host with PostgreSQL
    redis: str  # the host with the Redis node that a snapshot is expected of
    seconds: dict[str, float] = field(default_factory=dict)  # that each rollback took

    def __post_init__(self) -> None:
        linked = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
        shutil.copytree(linked / "hosts", self.inventory)
        shutil.copytree(linked / "group_vars", self.inventory / "group_vars", dirs_exist_ok=True)
        self.other = another_release(self.directory)

    @property
    def inventory(self) -> Path:
        """The copy of the scenario's inventory. Its folder keeps its name, after which the environment is named."""
        return self.directory / "hosts"

    @property
    def switches(self) -> Path:
        return self.inventory / "group_vars/all/features.yml"

    def play(self, path: str, *arguments: str) -> str:
        """Run a playbook; return its output."""
        began = time.monotonic()
        result = playbook(f"playbooks/{path}", *arguments, inventory=self.inventory)
        print(f"{path} {' '.join(arguments)}: {time.monotonic() - began:.1f} s")
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    def memory(self) -> dict[str, str]:
        """What each host remembers of rollbacks."""
        return {name: self.on(name).run(f"cat {MEMORY}").stdout for name in self.hosts}

    def state(self) -> dict[str, str]:
        """Everything that a rollback could change."""
        state = {name: self.on(name).check_output(STATE) for name in self.hosts}
        return state | {"switches": self.switches.read_text(), "memory": str(self.memory()), "dumps": str(sorted(self.dumps()))}

    def dumps(self) -> set[str]:
        return {name for name in self.on(self.database).check_output(f"ls {DUMPS}").split() if name.endswith(".dump")}

    @contextmanager
    def no_scheduled_save(self) -> Iterator[None]:
        """Redis is not saved by its timer. Else that save could pass for the one of the rollback."""
        timer = "image-editor-backup-redis.timer"
        self.on(self.redis).check_output(f"systemctl stop {timer}")
        try:
            yield
        finally:
            self.on(self.redis).check_output(f"systemctl start {timer}")

    def snapshot(self) -> tuple[int, str]:
        """When Redis last saved its data (whole seconds), and with which result."""
        lines = self.on(self.redis).check_output("image-editor-redis-cli INFO persistence").splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(found["rdb_last_save_time"]), found["rdb_last_bgsave_status"].strip()

    def check(self, name: str) -> None:
        """Run the rollback in check mode: it says what it would do, and nothing changes."""
        before = self.state()
        said = self.play(f"rollback/{name}.yml", "--check", "--diff")
        assert f"+{OFF[name]}" in said
        assert f"{name} would be off. Nothing was changed." in one_line(said)
        after = self.state()
        assert [key for key in before if before[key] != after[key]] == [], "check mode changed something there"

    def roll_back(self, name: str, edits: int) -> None:
        """Roll the feature back. The backups come first; the dump can be restored and has at least so many edits."""
        with self.no_scheduled_save():
            dumps, (saved, _) = self.dumps(), self.snapshot()
            began = time.monotonic()
            said = self.play(f"rollback/{name}.yml")
            self.seconds[name] = time.monotonic() - began
            at, status = self.snapshot()
        assert f"{name} is off. Commit its line" in one_line(said)
        assert re.search(f"^{OFF[name]}( |$)", self.switches.read_text(), re.MULTILINE)
        assert all(said.index(task) < said.index(SWITCH) for task in BACKUPS), "the backups did not come before the switch"
        (dump,) = self.dumps() - dumps or {"no new dump"}
        assert dump.startswith(f"before-{name.replace('_', '-')}-"), dump
        restored = self.on(self.database).check_output("runuser -u postgres -- sh -ec %s", RESTORE % f"{DUMPS}/{dump}")
        assert int(restored) >= edits, f"{restored} edits are in the dump, and {edits} were accepted before"
        assert at > saved, "Redis has not saved its data"
        assert status == "ok"

    def again(self, name: str) -> None:
        """Run the rollback a second time: nothing changes, and there is no second dump."""
        assert changed(self.play(f"rollback/{name}.yml")) == []

    def refused(self, path: str, *arguments: str) -> str:
        """Run a playbook that must be refused before it changes anything; return its output on one line."""
        before = self.switches.read_text(), self.memory()
        began = time.monotonic()
        result = playbook(f"playbooks/{path}", *arguments, inventory=self.inventory)
        assert result.returncode != 0, f"{path} was not refused: {result.stdout[-6000:]}"
        print(f"{path} {' '.join(arguments)} was refused: {time.monotonic() - began:.1f} s")
        assert changed(result.stdout) == []
        assert (self.switches.read_text(), self.memory()) == before
        return one_line(result.stdout)

    def refused_while_a_release_is_under_way(self, name: str) -> None:
        """The inventory names another release than the hosts run."""
        nothing_to_fetch = ("-e", "release_build_index_url=")  # the release is never built
        said = self.refused(f"rollback/{name}.yml", "-e", f"release_build_repository={self.other}", *nothing_to_fetch)
        assert re.search(r" runs release \w+\. The inventory pins \w+ \(release_version: \S+\)\. Only one", said), said[-3000:]

    def refused_while_unreachable(self, name: str, host: str) -> None:
        """The controller cannot reach the host. The host itself runs on, because clients use it."""
        variables = self.inventory / "host_vars" / f"{host}.yml"
        variables.parent.mkdir(exist_ok=True)
        variables.write_text("ansible_host: no-such-container\n")
        try:
            said = self.refused(f"rollback/{name}.yml")
        finally:
            variables.unlink()
            variables.parent.rmdir()
        assert f"{host} does not answer: " in said, said[-3000:]

    def refused_without_the_switch(self, name: str) -> None:
        """The switch is in another file of the inventory than the one that rollbacks change."""
        kept, elsewhere = self.switches.read_text(), self.switches.with_name("elsewhere.yml")
        (line,) = re.findall(f"(?m)^{OFF[name].split(':')[0]}:.*\n", kept)
        elsewhere.write_text(line)
        self.switches.write_text(kept.replace(line, ""))
        try:
            said = self.refused(f"rollback/{name}.yml")
        finally:
            self.switches.write_text(kept)
            elsewhere.unlink()
        assert f"needs one line `{line.split(':')[0]}: …`; it has 0." in said, said[-3000:]
