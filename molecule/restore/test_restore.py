"""Restores after a dropped table, a lost database host, and the loss of all but the store. In the soak: the cost of backups."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers import ROOT, Api, address, container, in_soak, playbook, small_photo, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

HERE = Path(__file__).parent
TASKS, FILES = 10_000, 200
PYTHON = "/opt/image-editor/current/venv/bin/python"
RESTORE = ("playbooks/restore.yml", "-e", "restore_confirm=inventory")  # Molecule names every inventory `inventory`


class Platform:
    """The hosts, and the load that runs on client1."""

    def __init__(self, on) -> None:
        self.on, self.client, self.database, self.store = on, on("client1"), on("db1"), on("store1")

    def sql(self, query: str) -> str:
        return self.database.check_output(
            "cd / && runuser -u postgres -- psql -XtAqd image_editor -v ON_ERROR_STOP=1 -c %s", query
        )

    def put(self, host: str, path: str, content: bytes) -> None:
        subprocess.run(["docker", "exec", "-i", container(host), "sh", "-c", f"cat > {path}"], input=content, check=True)

    def state(self, host: str, unit: str) -> str:
        return self.on(host).run("systemctl is-active %s", unit).stdout.strip()

    def acknowledged(self) -> list[tuple[float, str]]:
        """The time and the id of every edit that the API accepted under load."""
        lines = [line.split() for line in self.client.check_output("cat /var/tmp/load.log").splitlines()]
        return [(float(line[1]), line[2]) for line in lines if line[0] == "edit" and len(line) == 3]

    def rows(self) -> set[str]:
        return set(self.sql("SELECT id FROM edit").split())

    def restore(self, *arguments: str) -> tuple[dict, float]:
        """Run playbooks/restore.yml; return its report and the seconds that it took."""
        began = time.monotonic()
        ran = playbook(*RESTORE, *arguments)
        assert ran.returncode == 0, ran.stdout[-5000:]
        return json.loads((ROOT / "build/restore.json").read_text()), time.monotonic() - began

    def stop_load(self) -> None:
        """Stop the load. The load must not have ended before: then a test would have run without it."""
        assert self.client.service("load").is_running, self.client.check_output("tail -n 5 /var/tmp/load.log")
        self.client.check_output("systemctl stop load")

    def load(self) -> None:
        self.client.check_output("systemctl stop load; systemctl reset-failed load; : > /var/tmp/load.log")
        self.client.check_output(
            "systemd-run -q --unit load -p StandardOutput=append:/var/tmp/load.log"
            f" {PYTHON} /usr/local/lib/load.py {self.api.token} 1 3600 0.1 /usr/local/lib/load.jpg"
        )
        try:
            until("the load runs", lambda: len(self.acknowledged()) > 20, 180)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says: {self.client.check_output('tail -n 5 /var/tmp/load.log')}") from None


@pytest.fixture(scope="module")
def platform(on) -> Iterator[Platform]:
    """The platform under load, with 10,000 ended edits, 200 of them with their images."""
    it = Platform(on)
    it.api = Api(it.client, url=f"https://{address(it.client)}:8000")
    it.put("client1", "/usr/local/lib/load.jpg", small_photo())
    it.put("client1", "/usr/local/lib/load.py", (HERE / "load.py").read_bytes())
    it.sql(
        "INSERT INTO edit (id, user_id, prompt, image_url, callback_url, request_digest, accepted_at, status, dispatches,"
        " attempt, finished_at, result_name, result_type, error_code, error_detail)"
        " SELECT id, (SELECT min(id) FROM auth_user), 'greyscale', 'media:uploads/none.jpg', '', '', now(), 'succeeded', 1,"
        " 1, now(), 'results/' || id || '/1.jpg', 'image/jpeg', '', ''"
        f" FROM (SELECT gen_random_uuid() id FROM generate_series(1, {TASKS})) new"
    )
    it.images = it.sql(f"SELECT result_name FROM edit WHERE status = 'succeeded' ORDER BY id LIMIT {FILES}").split()
    it.put("client1", "/root/images", "".join(f"{name}\n" for name in it.images).encode())
    it.client.check_output(
        "cd /var/lib/image-editor-media/files && while read -r name; do mkdir -p $(dirname $name);"
        " { cat /usr/local/lib/load.jpg; echo $name; } > $name; done < /root/images; chown -R www-data:www-data ."
    )
    ran = playbook("playbooks/backup.yml")
    assert ran.returncode == 0, ran.stdout[-5000:]
    it.load()
    yield it
    it.client.run("systemctl stop load")


@in_soak
def test_a_backup_costs_the_api_at_most_a_tenth_of_its_throughput(platform):
    """Compare requests per second with and without backups, in turns. The most expensive kind counts.

    All hosts of the scenario share one machine, so a backup takes processor time from the API. On a platform it would not.
    """
    platform.client.check_output("systemctl stop load 'image-editor-worker@*' image-editor-scheduler")
    measure = f"{PYTHON} /usr/local/lib/load.py {platform.api.token} 4 3 0 /usr/local/lib/load.jpg | tail -n 1"
    costs = {}
    for host, kind in (("store1", "postgresql"), ("client1", "media"), ("client1", "redis")):
        pairs = []
        for _ in range(5):
            quiet = float(platform.client.check_output(measure))
            unit = f"image-editor-backup-{kind}"
            again = f"while [ ! -e /run/enough ]; do systemctl start {unit}; done"
            platform.on(host).check_output(f"rm -f /run/enough; ({again}) >/dev/null 2>&1 &")
            time.sleep(0.5)
            pairs.append((quiet, float(platform.client.check_output(measure))))
            platform.on(host).check_output("touch /run/enough")
            until("it has ended", lambda host=host, unit=unit: platform.state(host, unit) == "inactive", 120)
        costs[kind] = round(1 - statistics.median(busy / quiet for quiet, busy in pairs), 3)
        print(json.dumps({"kind": kind, "requests a second (quiet, backed up)": pairs}))
    # Remove the edits of this measurement: a later test restores the queue, which must not be full of them.
    platform.sql("DELETE FROM edit WHERE status <> 'succeeded'")
    platform.client.check_output("image-editor-redis-cli -n 0 DEL edit; rm -rf /var/lib/image-editor-media/files/uploads/*")
    platform.client.check_output("image-editor-backup run redis")
    platform.client.check_output(
        "systemctl start 'image-editor-worker@edit' 'image-editor-worker@callback' image-editor-scheduler"
    )
    platform.load()
    assert figures.record("backup_api_cost", max(0.0, *costs.values()), "of throughput", "<=0.10")["ok"], costs


def test_a_restore_without_confirmation_is_refused_and_a_restore_beside_is_allowed(platform):
    """A restore without the environment's name is refused. A restore beside the live database is allowed."""
    refused = playbook("playbooks/restore.yml")
    assert refused.returncode != 0
    assert "restore_confirm=inventory" in " ".join(refused.stdout.split())
    assert not re.search(r"changed=[1-9]", refused.stdout)
    beside = playbook("playbooks/restore.yml", "-e", "restore_beside=true")
    assert beside.returncode == 0, beside.stdout[-5000:]
    there = "-h /var/lib/image-editor-backup/inspect/postgresql"
    look = f"cd / && runuser -u postgres -- psql -XtA image_editor {there} -c 'SELECT count(*) FROM edit'"
    assert int(platform.store.check_output(look)) >= TASKS
    platform.store.check_output("cd / && runuser -u postgres -- image-editor-backup discard")


def test_a_restore_after_a_dropped_table_loses_no_acknowledged_edit(platform):
    """Restore to a second before the drop: all edits acknowledged before it exist, all later edits are recovered or reported."""
    until("edits of this minute", lambda: len(platform.acknowledged()) > 50, 60)
    moment = datetime.now(UTC)
    time.sleep(3)
    platform.sql("DROP TABLE edit CASCADE")
    time.sleep(1)
    report, seconds = platform.restore("-e", "restore_parts=postgresql", "-e", f"restore_to={moment.isoformat()}")
    platform.stop_load()
    rows, acknowledged = platform.rows(), platform.acknowledged()
    before = {edit for at, edit in acknowledged if at < moment.timestamp()}
    after = {edit for at, edit in acknowledged if at >= moment.timestamp()}
    named = {*report["reconciled"]["recovered"], *report["reconciled"]["lost"]}
    print(json.dumps({"restore": seconds, "before": len(before), "after": len(after), "lost": len(report["reconciled"]["lost"])}))
    assert len(rows) >= TASKS + len(before)
    assert after - rows - named == set(), "an edit was dropped in silence"
    assert figures.record("pitr_acknowledged_lost", len(before - rows), "tasks", "<=0")["ok"]
    assert platform.client.file(f"/var/lib/image-editor-media/files/{platform.images[0]}").exists
    stored = json.loads(platform.store.check_output("image-editor-backup status --json"))["backups"]["postgresql"]
    assert stored[-1]["name"].endswith("F"), "no full backup of the new timeline"
    works(platform)


def works(platform: Platform) -> None:
    """A client submits an edit, and the edit succeeds."""
    edit = platform.api.submit()
    until("an edit ends", lambda: platform.api.ended(edit), 60)
    assert platform.api.ended(edit)["status"] == "succeeded"


@pytest.fixture
def without_store(tmp_path) -> Path:
    """The scenario's inventory, with the store declared down."""
    directory = tmp_path / "inventory"
    shutil.copytree(HERE / "group_vars", directory / "group_vars")
    shutil.copy(HERE / "hosts.yml", directory)
    (directory / "out_of_service.yml").write_text("down: {hosts: {store1: }}\n")
    return directory


def test_without_the_store_everything_else_goes_on_and_the_archive_catches_up(platform, without_store):
    """Edits, site.yml and the dump before a release need no store. PostgreSQL keeps its WAL until the store is back."""
    subprocess.run(["docker", "kill", container("store1")], check=True, capture_output=True)
    try:
        ran = playbook("playbooks/site.yml", inventory=without_store)
        assert ran.returncode == 0, ran.stdout[-5000:]
        dump = "cd / && runuser -u postgres -- image-editor-backup dump --json --reason without-store"
        assert not json.loads(platform.database.check_output(dump))["shipped"]
        works(platform)
        written = platform.sql("SELECT pg_walfile_name(pg_switch_wal())")
    finally:
        subprocess.run(["docker", "start", container("store1")], check=True, capture_output=True)
    archived = f"SELECT last_archived_wal >= '{written}' FROM pg_stat_archiver"
    until("the archive has caught up", lambda: platform.sql(archived) == "t", 180)


def wipe(*hosts: str) -> None:
    for host in hosts:
        subprocess.run(["docker", "rm", "-fv", container(host)], check=True, capture_output=True)


def rebuild() -> None:
    for path in ("playbooks/lab/create.yml", "playbooks/site.yml"):
        ran = playbook(path)
        assert ran.returncode == 0, ran.stdout[-5000:]


def test_a_lost_database_host_is_rebuilt_and_loses_at_most_60_seconds_of_edits(platform):
    """The host dies under load. site.yml rebuilds it, and the restore reaches the last second that was archived."""
    platform.load()
    time.sleep(20)
    lost_at = time.time()
    wipe("db1")
    began = time.monotonic()
    rebuild()
    built = time.monotonic() - began
    report, seconds = platform.restore()
    took = time.monotonic() - began
    platform.stop_load()
    rows = platform.rows()
    gone = [
        at
        for at, edit in platform.acknowledged()
        if at < lost_at and edit not in rows and edit not in report["reconciled"]["recovered"]
    ]
    window = max((lost_at - min(gone)) if gone else 0, 0)
    print(json.dumps({"site": built, "restore": seconds, "gone": len(gone), "window": window}))
    assert len(rows) >= TASKS
    assert set(gone_ids(platform, lost_at, rows)) <= {*report["reconciled"]["lost"], *report["reconciled"]["recovered"]}
    works(platform)
    assert figures.record("db_loss_window_seconds", round(window, 1), "s", "<=60")["ok"]
    assert figures.record("rebuild_db_seconds", round(took, 1), "s", "<=360")["ok"]


def gone_ids(platform: Platform, until_: float, rows: set[str]) -> list[str]:
    return [edit for at, edit in platform.acknowledged() if at < until_ and edit not in rows]


def test_a_platform_that_lost_everything_but_the_store_is_rebuilt_and_restored(platform):
    for kind in ("redis", "media"):
        platform.client.check_output("image-editor-backup run %s", kind)
    before = platform.rows()
    platform.store.check_output("image-editor-backup run postgresql")
    began = time.monotonic()
    wipe("db1", "client1")
    rebuild()
    built = time.monotonic() - began
    _, seconds = platform.restore()
    took = time.monotonic() - began
    print(json.dumps({"site": built, "restore": seconds, "all": took}))
    assert platform.rows() >= before
    for name in platform.images:
        end = platform.client.check_output(f"tail -c {len(name) + 1} /var/lib/image-editor-media/files/%s", name)
        assert end == name  # each image ends with its own name
    platform.api = Api(platform.client, url=f"https://{address(platform.client)}:8000")
    works(platform)
    figures.record("rebuild_all_seconds", round(took, 1), "s")
