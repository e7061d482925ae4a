"""image-editor-backup and the database: pgBackRest's output, the choice of a backup, comparisons, and replay."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest

from image_editor_tools import waiting
from image_editor_tools.backup import contents, dumps, instance, moments, pgbackrest, postgres_user, server, wal
from image_editor_tools.backup.host import Host
from image_editor_tools.errors import Failure, Refusal

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def entry(label: str, at: datetime = NOON, kind: str = "full", **changes: object) -> dict:
    """A backup as pgBackRest lists it."""
    manifest = {"point": "image-editor", "at": at.isoformat(), "tables": {"edit": [2, "7"]}, "migrations": []}
    return {
        "label": label,
        "type": kind,
        "error": False,
        "info": {"size": 100, "repository": {"delta": 10}},
        "timestamp": {"stop": at.timestamp()},
        "annotation": {"manifest": json.dumps(manifest)},
    } | changes


def information(*entries: dict, code: int = 0, repository: dict | None = None) -> str:
    """The output of `pgbackrest info`."""
    return json.dumps(
        [
            {
                "status": {"code": code, "message": "no valid backups" if code else "ok"},
                "repo": [{"status": repository or {"code": 0, "message": "ok"}}],
                "db": [{"id": 1, "system-id": 5}, {"id": 2, "system-id": 6}],
                "archive": [
                    {"database": {"id": 1}, "max": "0000000300000000000000FF"},
                    {"database": {"id": 2}, "max": "000000010000000000000004"},
                ],
                "backup": list(entries),
            }
        ]
    )


def made(*entries: dict) -> list[pgbackrest.Backup]:
    return pgbackrest.marked(pgbackrest.parse_information(information(*entries)))


def test_only_marked_and_sound_backups_count():
    found = made(entry("1"), entry("2", annotation={}), entry("3", error=True), entry("4", kind="diff"))
    assert [(backup.label, backup.kind, backup.stored, backup.at) for backup in found] == [
        ("1", "full", 10, NOON),
        ("4", "diff", 10, NOON),
    ]


def test_a_change_of_the_stanza_waits_for_the_lock_of_archiving(monkeypatch):
    answers = [Failure("unable to acquire lock", 50), Failure("unable to acquire lock", 50), ""]
    ran, slept = [], []

    def run(*command: str, user: str) -> str:
        ran.append((*command, user))
        if isinstance(answer := answers.pop(0), Failure):
            raise answer
        return answer

    monkeypatch.setattr(pgbackrest, "run", run)
    monkeypatch.setattr(waiting.time, "sleep", slept.append)
    pgbackrest.with_archive("stanza-create")
    assert ran == [("pgbackrest", "--stanza=image-editor", "stanza-create", "postgres")] * 3
    assert slept == [1, 1]


@pytest.mark.parametrize(("code", "seconds"), [(49, 60), (50, 0)])
def test_a_change_of_the_stanza_fails_at_once_or_when_the_time_is_over(monkeypatch, code, seconds):
    def run(*command: str, user: str) -> str:
        raise Failure("no", code)

    monkeypatch.setattr(pgbackrest, "run", run)
    monkeypatch.setattr(pgbackrest, "LOCK_SECONDS", seconds)
    with pytest.raises(Failure, match="no"):
        pgbackrest.with_archive("stanza-upgrade")


def test_a_repository_without_a_backup_is_no_error():
    assert pgbackrest.marked(pgbackrest.parse_information(information(code=2))) == []
    with pytest.raises(Failure, match="no valid backups"):
        pgbackrest.marked(pgbackrest.parse_information(information(code=3)))


def test_a_wrong_passphrase_is_named():
    unreadable = {"code": 99, "message": "[FormatError] cannot decipher:\nmore"}
    with pytest.raises(Failure, match=r"^pgbackrest: \[FormatError\] cannot decipher; was backup_passphrase changed\?$"):
        pgbackrest.parse_information(information(repository=unreadable))


def test_the_repository_belongs_to_its_newest_database():
    stanza = pgbackrest.parse_information(information())
    assert pgbackrest.database_of(stanza) == 6
    assert pgbackrest.last_segment(stanza) == "000000010000000000000004"
    assert pgbackrest.database_of({"db": []}) is None


@pytest.mark.parametrize(("days", "kind"), [(6.9, "diff"), (7.1, "full")])
def test_a_full_backup_is_made_once_a_week(days, kind):
    """Differential backups since then do not postpone the next full backup."""
    now = NOON + timedelta(days=days)
    backups = made(entry("1"), entry("2", at=now, kind="diff"))
    assert pgbackrest.next_kind(backups, now.timestamp(), full_days=7) == kind
    assert pgbackrest.next_kind([], now.timestamp(), full_days=7) == "full"


@pytest.mark.parametrize(
    ("to", "label"),
    [
        ("latest", "3"),
        ("2026-11-24T13:00:00+00:00", "2"),
        ("2026-11-24T14:59:59+01:00", "2"),
        ("2026-11-24T12:00:00+00:00", "1"),
        ("1", "1"),
    ],
)
def test_a_restore_begins_with_the_newest_backup_before_the_moment(to, label):
    backups = made(*(entry(str(number), at=NOON + timedelta(hours=number - 1)) for number in (1, 2, 3)))
    assert pgbackrest.choose(backups, to).label == label


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("2026-11-24T11:59:59+00:00", "before the oldest moment that can be reached, 2026-11-24T12:00:00"),
        ("20200101-000000F", "there is no backup 20200101-000000F: name one of 1,"),
        ("2026-11-24T12:00:00", "has no time zone"),
        ("2126-11-24T12:00:00+00:00", "is in the future"),
    ],
)
def test_a_moment_that_cannot_be_reached_is_refused(to, says):
    with pytest.raises(Refusal, match=says):
        pgbackrest.choose(made(entry("1")), to)


def test_a_restore_without_any_backup_is_refused():
    with pytest.raises(Refusal, match="there is no backup"):
        pgbackrest.choose([], "latest")


@pytest.mark.parametrize("name", ["20261124-013000F", "release-20261124T101500Z", "latest", "20261124"])
def test_the_name_of_a_backup_is_not_read_as_a_time(name):
    assert moments.moment(name) is None


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")])
def test_ages_are_in_the_largest_unit_of_which_there_are_two(seconds, text):
    assert moments.age(seconds) == text


def holds(**tables: list) -> dict:
    return {"tables": tables, "migrations": []}


def test_tables_are_compared_by_rows_and_hashes():
    recorded = holds(edit=[2, "7"], user=[1, "3"])
    assert contents.differences(recorded, holds(edit=[2, "7"], user=(1, "3"))) == []
    assert contents.differences(recorded, holds(edit=[2, "8"], user=[1, "3"])) == ["edit: 2 rows recorded, 2 rows found"]
    assert contents.differences(recorded, holds(edit=[2, "7"])) == ["user: 1 rows recorded, no table found"]
    assert contents.differences(holds(), holds(edit=[0, "0"])) == ["edit: no table recorded, 0 rows found"]
    with pytest.raises(Failure, match=r"^backup 1 does not hold what was recorded when it was backed up: edit: 2 rows"):
        contents.require_equal(recorded, holds(edit=[1, "7"], user=[1, "3"]), "backup 1")


def schema(*migrations: str) -> dict:
    return {"tables": {}, "migrations": list(migrations)}


def test_a_schema_that_the_release_does_not_know_is_refused():
    with pytest.raises(Refusal, match=r"newer schema than the installed release: a[.]2"):
        contents.schema_is_behind(schema("a.1"), schema("a.1", "a.2"), migrate=True)


def test_an_older_schema_needs_permission():
    with pytest.raises(Refusal, match=r"newer schema than the backup: a[.]2"):
        contents.schema_is_behind(schema("a.1", "a.2"), schema("a.1"), migrate=False)
    assert contents.schema_is_behind(schema("a.1", "a.2"), schema("a.1"), migrate=True) is True


@pytest.mark.parametrize("live", [None, schema(), schema("a.1")])
def test_without_a_release_or_with_the_same_schema_there_is_nothing_to_migrate(live):
    assert contents.schema_is_behind(live, schema("a.1"), migrate=False) is False


HISTORY = "1\t0/3000060\tno recovery target specified\n"


def test_a_replay_that_reached_the_archives_end_is_complete():
    wal.require_no_gap(HISTORY, "000000010000000000000003")
    wal.require_no_gap(HISTORY, "000000010000000000000002")
    wal.require_no_gap(HISTORY, "000000020000000000000009")  # a file of a later timeline


@pytest.mark.parametrize(
    ("history", "last", "says"),
    [
        (HISTORY, "000000010000000000000004", "WAL is missing: replay ended at 0/3000060"),
        ("", "000000010000000000000004", "did not say how far"),
        (HISTORY, "", "did not say how far"),
    ],
)
def test_a_replay_that_ended_early_is_refused(history, last, says):
    with pytest.raises(Failure, match=says):
        wal.require_no_gap(history, last)


def test_a_new_primary_archives_the_wal_that_it_got_as_a_replica():
    """PostgreSQL itself archives histories, partial files and what is ready."""
    status = ["00000002.history.done", "000000010000000000000004.done", "000000010000000000000005.done"]
    status += ["000000010000000000000006.partial.done", "000000020000000000000006.ready"]
    assert wal.received(status) == ["000000010000000000000005", "000000010000000000000004"]


def test_a_restore_is_refused_while_patroni_is_paused(tmp_path, monkeypatch):
    said = {"nodes": {"one": {"paused": False}, "two": {"paused": True}}}
    monkeypatch.setattr(server, "NODE", tmp_path / "config.yml")
    monkeypatch.setattr(server, "run", lambda *command: json.dumps(said))
    server.require_control()  # no node of a cluster
    server.NODE.touch()
    with pytest.raises(Refusal, match="Patroni is paused, nothing was changed"):
        server.require_control()
    said["nodes"]["two"]["paused"] = False
    server.require_control()


def test_restored_data_begins_a_new_cluster_and_must_lead_it(tmp_path, monkeypatch):
    ran, role = [], ["primary"]
    host = Host(**{field.name: "" for field in fields(Host)} | {"postgresql_data": str(tmp_path), "postgresql_unit": "unit"})

    def run(*command: str) -> str:
        ran.append(command)
        return role[0] + "\n"

    monkeypatch.setattr(server, "NODE", tmp_path / "config.yml")
    monkeypatch.setattr(server, "run", run)
    server.start(host)
    assert ran == [("systemctl", "start", "unit")]
    server.NODE.touch()
    (tmp_path / "patroni.dynamic.json").touch()
    server.start(host)
    assert [command[:2] for command in ran[1:]] == [(server.CLUSTER, "forget"), ("systemctl", "start"), (server.CLUSTER, "wait")]
    assert not (tmp_path / "patroni.dynamic.json").exists(), "Patroni would take the settings when the backup was made"
    role[0] = "replica"
    with pytest.raises(Failure, match="another node has become the primary"):
        server.start(host)


def test_wal_positions_count_across_log_files():
    """A position at a segment's first byte means that the segment before it is complete."""
    assert wal.segment_of("0/3000000") == 2
    assert wal.segment_of("1/1000000") == 256
    assert wal.parse_name("00000002000000010000000A") == (2, 256 + 10)


def test_a_restored_server_gets_the_settings_that_its_control_file_demands():
    control = (
        "pg_control version number:            1700\nmax_connections setting:              200\nmax_prepared_xacts setting:   0\n"
    )
    assert instance.controlled_settings(control) == {"max_connections": "200", "max_prepared_transactions": "0"}


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("LOG: starting\nFATAL:  could not locate required checkpoint record\n", "could not locate required checkpoint record"),
        (
            "LOG:  last completed transaction was at log time 2026-11-24 12:00\n"
            "FATAL:  recovery ended before configured recovery target was reached\n",
            "(last transaction: 2026-11-24 12:00); WAL is missing, or try latest",
        ),
        (
            "FATAL:  recovery ended before configured recovery target was reached\n"
            "FATAL:  the database system is in recovery mode\n",
            "WAL is missing, or try latest",
        ),
        ("", "its log is empty"),
    ],
)
def test_the_reason_of_a_server_failure_is_read_from_its_log(log, says):
    assert says in instance.reason_of_death(log)


def test_dumps_are_named_by_reason_and_time():
    assert dumps.name_for("before-release", NOON) == "before-release-20261124T120000Z"
    assert dumps.is_name("before-release-20261124T120000Z")
    with pytest.raises(Refusal, match="small letters"):
        dumps.name_for("Before release", NOON)
    for other in ("latest", "20261124-013000F", "2026-11-24T12:00:00+00:00", "x-20261124T120000Z; DROP"):
        assert not dumps.is_name(other)


def test_a_dump_loaded_beside_has_a_database_of_its_own():
    name = "release-20261124T120000Z"
    assert dumps.scratch_database("image_editor", name, beside=True) == "restore_release_20261124t120000z"
    assert dumps.scratch_database("image_editor", name, beside=False) == "image_editor_restore"


def test_rows_of_a_dump_are_counted_in_its_script():
    listed = "3; 0 1 TABLE DATA public edit postgres\n4; 0 2 TABLE DATA public empty postgres\n5; 0 3 TABLE public edit x\n"
    script = [
        "SET x;\n",
        "COPY public.edit (id, prompt) FROM stdin;\n",
        "1\ta\n",
        "2\tCOPY public.x (i) FROM stdin;\n",
        "\\.\n",
        "\n",
    ]
    assert dumps.count_rows(listed, script) == {"edit": 2, "empty": 0}
    recorded = holds(edit=[2, "7"], empty=[0, "0"])
    assert contents.missing_rows(recorded, {"edit": 2, "empty": 0}) == []
    assert contents.missing_rows(recorded, {"edit": 1}) == ["edit: 2 rows, 1 in the dump", "empty: 0 rows, none in the dump"]


def test_the_newest_dumps_stay(tmp_path):
    paths = [tmp_path / f"{number}.dump" for number in range(4)]
    for number, path in enumerate(paths):
        path.touch()
        os.utime(path, (number, number))
    assert dumps.oldest(paths, kept=3) == paths[:1]
    assert dumps.oldest(paths, kept=0) == paths[:3]
    assert dumps.oldest(paths[:2], kept=3) == []


def test_an_error_of_a_command_run_as_postgres_is_passed_on():
    complaint = 'image-editor-backup: refused: error; {"error": "refused: there is no backup"}'
    assert postgres_user.error_of(complaint) == "refused: there is no backup"
    assert postgres_user.error_of("runuser: user postgres does not exist") == "runuser: user postgres does not exist"
