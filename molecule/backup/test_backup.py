"""Backups and restores, and what happens when something is wrong: the old data stays, and one line says why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from helpers import ROOT, in_soak, playbook, secret, until

STATE = "/var/lib/image-editor-backup"
REPOSITORY = f"{STATE}/pgbackrest"
POSTGRES = "cd / && runuser -u postgres -- "


@pytest.fixture(scope="module")
def host(on):
    """A host with two tables, a few images and a few keys, all backed up."""
    it = on("platform1")
    for kind in ("postgresql", "redis", "media", "verify"):
        assert it.check_output("systemctl is-active image-editor-backup-%s.timer", kind) == "active"
    # A run at its usual time would keep the runs of the tests waiting, or have them refused.
    it.check_output("systemctl stop 'image-editor-backup-*.timer'")
    running = "systemctl list-units --state=activating --no-legend 'image-editor-backup-*.service'"
    until("no run is under way", lambda: it.check_output(running) == "", 60)
    sql(
        it,
        "CREATE TABLE IF NOT EXISTS django_migrations (app text, name text);"
        "CREATE TABLE IF NOT EXISTS edit (id int, prompt text);"
        "TRUNCATE django_migrations, edit; INSERT INTO django_migrations VALUES ('image_editor', '0001_initial');"
        "INSERT INTO edit SELECT i, 'greyscale' FROM generate_series(1, 1000) i",
    )
    it.check_output(
        "cd /var/lib/image-editor-media/files && for i in 1 2 3; do mkdir -p results/$i; echo $i > results/$i/1.jpg; done;"
        " chown -R www-data:www-data ."
    )
    it.check_output("image-editor-redis-cli SET one 1; image-editor-redis-cli SET two 2")
    for kind in ("postgresql", "redis", "media"):
        assert f"ok {kind}" in it.check_output("image-editor-backup run %s", kind)
    return it


def sql(host, statement: str) -> str:
    return host.check_output(POSTGRES + "psql -XtAqd image_editor -v ON_ERROR_STOP=1 -c %s", statement)


def backups(host, kind: str = "postgresql") -> list[dict]:
    return json.loads(host.check_output("image-editor-backup status --json"))["backups"][kind]


def refused(host, arguments: str, says: str, environment: str = "") -> str:
    """Check that the command fails with one line and neither changes nor restarts the database. Return standard output."""
    before = sql(host, "SELECT count(*), sum(id), pg_postmaster_start_time() FROM edit")
    ran = host.run(f"{environment} image-editor-backup {arguments}")
    assert ran.rc == 1, ran.stdout
    assert says in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert sql(host, "SELECT count(*), sum(id), pg_postmaster_start_time() FROM edit") == before
    assert not host.file("/var/lib/postgresql/17/main.restore").exists
    return ran.stdout


def metric(host, name: str, kind: str) -> float:
    text = host.check_output("cat /var/lib/prometheus/node-exporter/image-editor-backup-*.prom")
    return next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith(f'image_editor_backup_{name}{{kind="{kind}"}}')
    )


def test_a_verification_restores_every_kind_and_records_its_metrics(host):
    began = datetime.now(UTC).timestamp()
    said = host.check_output("image-editor-backup run verify")
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("ok ")] == [
        "ok postgresql",
        "ok redis",
        "ok media",
    ], said
    for kind in ("postgresql", "redis", "media"):
        assert metric(host, "verified_timestamp_seconds", kind) >= began - 1
        assert metric(host, "last_success_timestamp_seconds", kind) > began - 600
        assert metric(host, "size_bytes", kind) > 0
    assert host.run("ls %s/verify/postgresql", STATE).rc != 0, "the scratch instance was left behind"


def copies(host) -> list[str]:
    return host.check_output(f"ls {STATE}/copies").split()


def test_damaged_repositories_come_back_from_a_copy_that_no_other_host_reaches(host):
    """docs/restore.md has the commands. What hosts of backups can do ends with the rights of the user postgres."""
    assert host.check_output("image-editor-backup run copies").startswith("ok copies: ")
    (first,) = copies(host)
    assert host.run(POSTGRES + f"ls {STATE}/copies").rc != 0
    assert "was not verified since the copy before" in host.check_output("image-editor-backup run copies")
    host.check_output("image-editor-backup run verify")
    host.check_output("image-editor-backup run copies")
    newest = copies(host)[-1]
    assert newest > first
    links = f"cd {STATE}/copies/{newest} && find . -type f -links +1 | wc -l"
    assert int(host.check_output(links)) > 0, "what has not changed takes no more room"
    damage = f"find {REPOSITORY}/archive {REPOSITORY}/backup {STATE}/store -type f -exec sh -c ': >\"$1\"' damage {{}} \\;"
    host.check_output(POSTGRES + damage)
    assert host.run("image-editor-backup run verify").rc != 0
    assert "was not verified since" in host.check_output("image-editor-backup run copies")
    page = (ROOT / "docs/restore.md").read_text().partition("## The backups themselves are damaged")[2]
    commands = re.search(r"```sh\n(.*?)```", page, re.DOTALL)[1]
    host.check_output(f"set -e; {commands.replace('<copy>', newest)}")
    again = playbook("molecule/backup/converge.yml")
    assert again.returncode == 0, again.stdout[-3000:]
    host.check_output("systemctl stop 'image-editor-backup-*.timer'")
    assert "ok postgresql" in host.check_output("image-editor-backup run postgresql --full")
    assert host.run("image-editor-backup run verify").rc == 0
    host.check_output(f"rm -r {STATE}/damaged")


def test_a_second_backup_run_at_the_same_time_is_refused(host):
    refused(host, "postgresql", "another run for postgresql is under way", f"flock {STATE}/postgresql/lock")
    assert len(backups(host)) >= 1


def test_a_restore_reaches_a_chosen_moment_a_named_backup_and_an_earlier_timeline(host):
    """Restore to a moment between two inserts, to the backup before them, and to a later moment. Each restore leaves a dump."""
    sql(host, "INSERT INTO edit VALUES (2001, 'x')")
    moment = datetime.now(UTC).isoformat()
    sql(host, "INSERT INTO edit VALUES (2002, 'x')")
    later = datetime.now(UTC).isoformat()
    named = backups(host)[-1]["name"]
    for to, rows in ((moment, 1001), (named, 1000)):
        done = json.loads(host.check_output("image-editor-backup restore-postgresql --json --to %s", to))
        assert done["tables"]["edit"][0] == rows == int(sql(host, "SELECT count(*) FROM edit"))
        assert host.file(done["dump_before"]).exists
    # What was written after that moment is on the timeline before the restore, and can be restored from there.
    done = json.loads(host.check_output("image-editor-backup restore-postgresql --json --to %s --timeline current", later))
    assert done["tables"]["edit"][0] == 1002
    assert "ok postgresql" in host.check_output("image-editor-backup run postgresql")


def test_the_database_can_be_restored_beside_the_live_database(host):
    into = f"{STATE}/inspect/postgresql"
    host.check_output(POSTGRES + f"image-editor-backup recover --keep --into {into}")
    assert host.check_output(POSTGRES + f"psql -XtAh {into} image_editor -c 'SELECT count(*) FROM edit'") == sql(
        host, "SELECT count(*) FROM edit"
    )
    host.check_output(POSTGRES + "image-editor-backup discard")
    assert host.check_output("ls %s/inspect", STATE) == ""


def test_a_dump_restores_the_database_and_a_truncated_dump_is_refused(host):
    made = json.loads(host.check_output(POSTGRES + "image-editor-backup dump --json --reason before-release"))
    assert made["shipped"]
    rows = sql(host, "SELECT count(*) FROM edit")
    assert made["rows"] == int(rows) + 1
    sql(host, "DELETE FROM edit")
    host.check_output("rm %s", made["path"])  # so that the dump has to come from the store
    host.check_output("image-editor-backup restore-postgresql --to %s", made["name"])
    assert sql(host, "SELECT count(*) FROM edit") == rows
    # A dump that was cut short is refused.
    for end in ("dump", "json"):
        host.check_output(
            f"cp -a $(ls {STATE}/dumps/before-restore-*.{end} | tail -n 1) {made['path'].removesuffix('dump')}{end}"
        )
    host.check_output("truncate -s 2000 %s", made["path"])
    refused(host, f"restore-postgresql --to {made['name']}", "pg_restore")
    host.check_output("rm %s", made["path"])


def test_a_dump_is_made_while_the_store_does_not_answer(host):
    host.check_output("systemctl stop nginx")
    try:
        made = json.loads(host.check_output(POSTGRES + "image-editor-backup dump --json --reason without-store"))
    finally:
        host.check_output("systemctl start nginx")
    assert not made["shipped"]
    assert host.file(made["path"]).size == made["bytes"]
    host.check_output("rm %s", made["path"])


def test_redis_and_media_are_restored_from_their_backups(host):
    host.check_output("image-editor-redis-cli SET one 3; image-editor-redis-cli SET later 4")
    assert json.loads(host.check_output("image-editor-backup restore-redis --json"))["keys"] >= 2
    assert host.check_output("image-editor-redis-cli MGET one two later").split() == ["1", "2"]
    host.check_output("systemctl restart redis-server && sleep 1 && image-editor-redis-cli GET two")
    host.check_output(
        "cd /var/lib/image-editor-media/files/results && rm -r 1 && echo wrong > 2/1.jpg && mkdir -p 9 && echo 9 > 9/1.jpg"
    )
    host.check_output("image-editor-backup restore-media")
    assert host.check_output("cat /var/lib/image-editor-media/files/results/*/1.jpg").split() == ["1", "2", "3", "9"]
    assert host.file("/var/lib/image-editor-media/files/results/1/1.jpg").user == "www-data"


def test_a_restore_of_another_schema_is_refused_without_permission_to_migrate(host):
    sql(host, "INSERT INTO django_migrations VALUES ('image_editor', '0002_later')")
    refused(
        host,
        f"restore-postgresql --to {backups(host)[-1]['name']}",
        "has a newer schema than the backup: image_editor.0002_later",
    )
    host.check_output("image-editor-backup restore-postgresql --migrate --to %s", backups(host)[-1]["name"])
    sql(host, "DELETE FROM django_migrations")
    sql(host, "INSERT INTO django_migrations VALUES ('image_editor', '0000_before')")
    refused(
        host, f"restore-postgresql --to {backups(host)[-1]['name']}", "newer schema than the installed release: image_editor.0001"
    )
    sql(host, "UPDATE django_migrations SET name = '0001_initial'")


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("2020-01-01T00:00:00+00:00", "before the oldest moment that can be reached"),
        ("2020-01-01T00:00:00", "has no time zone"),
        ("2120-01-01T00:00:00+00:00", "is in the future"),
        ("20200101-000000F", "there is no backup 20200101-000000F"),
    ],
)
def test_a_restore_to_an_unreachable_moment_is_refused(host, to, says):
    refused(host, f"restore-postgresql --to {to}", says)


def test_a_wrong_passphrase_is_refused_and_changes_no_data(host):
    refused(host, "restore-postgresql", "was backup_passphrase changed?", "PGBACKREST_REPO1_CIPHER_PASS=wrong")
    key = "/etc/image-editor-backup/redis.passphrase"
    host.check_output(f"cp -a {key} /root/ && echo wrong > {key}")
    try:
        refused(host, "restore-redis", "wrong password")
        refused(host, "redis", "wrong password")
        assert host.check_output("image-editor-redis-cli GET two") == "2"
    finally:
        host.check_output(f"cp -a /root/redis.passphrase {key}")


@pytest.fixture
def damaged(host) -> Iterator[None]:
    """Put the repositories back after a test that damages them."""
    host.check_output(f"cp -a {STATE} /var/tmp/sound")
    yield
    host.check_output(f"rm -rf {STATE}/pgbackrest {STATE}/store && cp -a /var/tmp/sound/pgbackrest /var/tmp/sound/store {STATE}/")
    host.check_output("rm -rf /var/tmp/sound && systemctl restart image-editor-backup-store")


def test_a_damaged_backup_is_neither_restored_nor_reported_as_verified(host, damaged):
    """One byte of each file is changed. Restore and verification refuse the damaged kinds and name them."""
    flip = "for f in $(find %s -type f); do printf X | dd of=$f bs=1 seek=%d conv=notrunc status=none; done"
    host.check_output(flip % (f"{REPOSITORY}/backup/image-editor/2*/bundle", 3000))
    refused(host, "restore-postgresql", "pgbackrest")
    host.check_output(flip % (f"{STATE}/store/media/data", 20))
    was = metric(host, "verified_timestamp_seconds", "media")
    said = refused(host, "run verify", "not verified: postgresql, media")
    assert "FAILED postgresql" in said
    assert "FAILED media" in said
    assert "ok redis" in said
    assert metric(host, "verified_timestamp_seconds", "media") == was


def test_a_restore_across_missing_wal_is_refused(host, damaged):
    """WAL files after the backup are missing. Neither the end of the archive nor a moment behind the gap counts as reached."""
    for _ in range(2):
        sql(host, "INSERT INTO edit VALUES (3000, 'x'); SELECT pg_switch_wal()")
    moment = datetime.now(UTC).isoformat()
    for _ in range(3):
        sql(host, "INSERT INTO edit VALUES (3001, 'x')")
        segment = sql(host, "SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
        until("it is archived", lambda segment=segment: sql(host, "SELECT last_archived_wal FROM pg_stat_archiver") >= segment)
    files = host.check_output(f"find {REPOSITORY}/archive -name '0000*-*.zst' | sort | tail -n 5").split()
    host.check_output("rm %s", files[1])
    refused(host, "restore-postgresql", "WAL is missing")
    host.check_output("rm %s", files[0])
    refused(host, f"restore-postgresql --to {moment}", "WAL is missing")


@in_soak
def test_a_full_disk_fails_the_run_and_keeps_the_earlier_backups(host):
    """A run is refused if the disk is full already, and fails if the disk fills up later. Earlier backups stay intact."""
    there = backups(host), backups(host, "media")
    scratch = f"{STATE}/verify"
    host.check_output(
        f"mount -t tmpfs -o size=40M none {scratch} && touch {scratch}/metrics.prom && chown -R postgres: {scratch}"
    )
    said = refused(host, "run verify", "not verified")
    assert "MiB to spare: nothing was done, make room" in said
    host.check_output(f"umount {scratch}")
    sql(host, "CREATE TABLE large AS SELECT i, md5(i::text) || md5((-i)::text) FROM generate_series(1, 100000) i")
    image = "/var/lib/image-editor-media/files/large.jpg"
    host.check_output(f"head -c 8000000 /dev/urandom > {image} && chown www-data: {image}")
    host.check_output(f"cp -a {REPOSITORY} {STATE}/store /var/tmp/")
    for directory, spare in (("pgbackrest", 120 * 1024), ("store", 2048)):
        host.check_output(
            f"mount -t tmpfs -o size=$(($(du -sk {STATE}/{directory} | cut -f1) + {spare}))k none {STATE}/{directory}"
        )
        host.check_output(f"chown postgres: {STATE}/{directory} && cp -a /var/tmp/{directory}/. {STATE}/{directory}/")
    host.check_output("systemctl restart image-editor-backup-store")
    try:
        # The disk fills up after the backup has checked it.
        fill = f"fallocate -l $(df -k --output=avail {REPOSITORY} | tail -n 1)k {REPOSITORY}/ballast"
        host.check_output(
            "mkdir -p /var/tmp/full && cat > /var/tmp/full/pgbackrest <<'EOF' && chmod 755 /var/tmp/full/pgbackrest\n"
            f'#!/bin/sh\ncase "$*" in *--type=*) {fill};; esac\nexec /usr/bin/pgbackrest "$@"\nEOF'
        )
        refused(host, "postgresql", "MiB free: make room", "PATH=/var/tmp/full:$PATH PGBACKREST_ARCHIVE_TIMEOUT=10")
        refused(host, "run postgresql", "nothing was done, make room")
        host.check_output(f"rm {REPOSITORY}/ballast")
        refused(host, "run media", "look at its disk")
        assert (backups(host), backups(host, "media")) == there
    finally:
        host.check_output(f"umount {REPOSITORY} {STATE}/store; rm -rf /var/tmp/pgbackrest /var/tmp/store")
        host.check_output("systemctl restart image-editor-backup-store")
        sql(host, "DROP TABLE large")
    for kind in ("postgresql", "media"):
        assert f"ok {kind}" in host.check_output("image-editor-backup run %s", kind)


def test_the_playbook_verifies_the_newest_backup_of_each_kind(host):
    before = host.check_output(f"stat -c %Y {STATE}/verify/metrics.prom")
    ran = playbook("playbooks/verify_backup.yml")
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert host.check_output(f"stat -c %Y {STATE}/verify/metrics.prom") > before


def test_backups_are_encrypted_and_no_secret_is_readable(host):
    passphrase = secret("backup_passphrase")
    places = "/etc/systemd /usr/local /etc/image-editor-backup/backup.json /var/lib/prometheus /var/log"
    assert host.run(f"grep -rl -e {passphrase} {places}").stdout == ""
    assert host.run(f"journalctl | grep -c -e {passphrase}").stdout.strip() == "0"
    assert host.run(f"grep -rl greyscale {REPOSITORY} {STATE}/store").stdout == "", "not encrypted"
    for path in ("/etc/pgbackrest/conf.d/repository.conf", "/etc/pgbackrest.conf", "/etc/image-editor-backup/media.passphrase"):
        assert host.file(path).mode == 0o640
    assert host.check_output(f"find {STATE} -path '*/dumps/*' -perm /o+r -type f") == ""


def test_a_new_host_does_not_hide_the_backups_of_the_earlier_host(host):
    """The host is empty, as after a rebuild, and the store has images of the earlier host."""
    images, media = "/var/lib/image-editor-media/files/results", f"{STATE}/media"
    assert "ok media" in host.check_output("image-editor-backup run media")
    host.check_output(f"rm -r {images}; rm -f {media}/source; truncate -s 0 {media}/metrics.prom")
    before = backups(host, "media")
    said = json.loads(host.check_output("image-editor-backup new media --json"))
    assert said["result"] == "foreign"
    assert "playbooks/restore.yml" in said["lines"][0]
    refused(host, "run media", "from a host before this one")
    assert backups(host, "media") == before
    host.check_output("image-editor-backup restore-media")
    assert host.check_output(f"cat {images}/1/1.jpg") == "1"
    assert "ok media" in host.check_output("image-editor-backup new media")
