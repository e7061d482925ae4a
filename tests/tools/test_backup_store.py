"""image-editor-backup and the store: snapshots, Redis's dumps, whose backups there are, metrics, the report, the command line."""

from __future__ import annotations

import fcntl
import json
import socket
import time
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime

import pytest
from conftest import ROOT, load

from image_editor_tools.backup import (
    first,
    guards,
    main,
    media,
    metrics,
    ownership,
    postgresql,
    redis,
    restic,
    status,
    units,
    verification,
)
from image_editor_tools.backup.host import Host
from image_editor_tools.errors import Failure, Refusal

HOST = Host(**{field.name: [] if "list" in str(field.type) else "" for field in fields(Host)})


def snapshot(at: str, *tags: str, hostname: str = "") -> restic.Snapshot:
    summary = {"total_files_processed": 3, "total_bytes_processed": 2**20}
    return {"id": at * 4, "short_id": at[-8:], "time": at, "tags": list(tags), "hostname": hostname, "summary": summary}


SNAPSHOTS = [
    snapshot("2026-11-24T10:00:00.5Z", "keys=2,sha256=ab", "keys=2", "sha256=ab"),
    snapshot("2026-11-24T12:00:00.5Z", "release-20261124T120000Z"),
]


def test_snapshots_are_sorted_by_time():
    assert restic.parse_snapshots(json.dumps(SNAPSHOTS[::-1])) == SNAPSHOTS
    assert restic.parse_snapshots("") == restic.parse_snapshots("null") == []


@pytest.mark.parametrize(
    ("kind", "to", "found"),
    [
        ("redis", "latest", 1),
        ("redis", "2026-11-24T11:00:00+00:00", 0),
        ("redis", "2026-11-24T13:00:00+00:00", 1),
        ("dumps", "release-20261124T120000Z", 1),
    ],
)
def test_the_newest_snapshot_at_or_before_a_moment_is_chosen(kind, to, found):
    assert restic.choose(SNAPSHOTS, kind, to) is SNAPSHOTS[found]


@pytest.mark.parametrize(
    ("kind", "to"),
    [("redis", "2026-11-24T09:00:00+00:00"), ("dumps", "release-20261124T130000Z"), ("dumps", "latest"), ("redis", "abc")],
)
def test_an_unknown_snapshot_is_refused(kind, to):
    with pytest.raises(Refusal, match=f"there is no backup of {kind} for"):
        restic.choose(SNAPSHOTS, kind, to)


def test_a_store_that_does_not_answer_is_noticed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = replace(HOST, store=f"https://127.0.0.1:{server.getsockname()[1]}")
        assert restic.answers(host)
    assert not restic.answers(host)


def test_tags_have_values():
    assert restic.tag(SNAPSHOTS[0], "sha256") == "ab"
    assert restic.tag(SNAPSHOTS[1], "sha256") == restic.tag({}, "keys") == ""


def test_restored_files_are_counted_together_with_unchanged_files():
    lines = ['{"message_type":"status"}', "a warning", '{"message_type":"summary","files_restored":2,"files_skipped":5}']
    assert restic.restored_files(lines) == 7
    assert restic.restored_files(lines[:2]) == 0


@pytest.mark.parametrize(
    ("output", "keys"),
    [
        ("[offset 0] Checking\n[info] 42 keys read\n[offset 9] \\o/ RDB looks OK! \\o/\n", 42),
        ("[info] 42 keys read\n--- RDB ERROR DETECTED ---\n", None),
        ("\\o/ RDB looks OK! \\o/", None),
    ],
)
def test_a_dump_of_redis_is_sound_if_its_checker_says_so(output, keys):
    assert redis.parse_check(output) == keys


def test_keys_that_expired_count_as_loaded():
    info = "# Persistence\r\nloading:{}\r\nrdb_last_load_keys_expired:1\r\nrdb_last_load_keys_loaded:4\r\n"
    assert redis.parse_loaded_keys(info.format(0)) == 5
    assert redis.parse_loaded_keys(info.format(1)) is None
    assert redis.parse_loaded_keys("\nloading:0\n") is None


# --- whose backups the store has ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "owner"), [(None, ownership.Owner.NOBODY), (7, ownership.Owner.HERE), (8, ownership.Owner.BEFORE)]
)
def test_a_database_is_known_by_its_identifier(stored, owner):
    assert ownership.database_owner(stored, live=7) is owner


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A host's own directory, and a list of the snapshots in its store. No service is started."""
    for kind in ("redis", "media", "verify"):
        (tmp_path / kind).mkdir()
    for module in (ownership, metrics, guards):
        monkeypatch.setattr(module, "STATE", tmp_path)
    monkeypatch.setattr(restic, "snapshots", lambda host, kind: found)
    monkeypatch.setattr(redis, "elsewhere", lambda: "")
    monkeypatch.setattr(units, "run_now", lambda kind: [f"ok {kind}: 1 files"])
    found: list[restic.Snapshot] = []
    return tmp_path, found


def test_a_new_host_takes_an_empty_store(state):
    assert first.make(HOST, "media") == (first.Result.MADE, ["ok media: 1 files"])
    ownership.require_own(HOST, "media")


def test_a_new_host_does_not_hide_the_backups_of_the_host_before_it(state):
    """A new host makes no backup until the earlier backups are restored or an operator runs ``adopt``."""
    _, found = state
    found += SNAPSHOTS
    result, (line,) = first.make(HOST, "media")
    assert result is first.Result.FOREIGN
    assert "playbooks/restore.yml" in line
    found.clear()  # the host remembers that the backups are not its own
    with pytest.raises(ownership.Foreign, match="image-editor-backup adopt media"):
        ownership.require_own(HOST, "media")
    assert ownership.adopt(HOST, "media") is True
    assert ownership.adopt(HOST, "media") is False
    ownership.require_own(HOST, "media")
    assert first.make(HOST, "media")[0] is first.Result.MADE


@pytest.mark.parametrize(
    ("stored", "result"),
    [
        ("a" * 40, first.Result.PRESENT),  # by this host, or by the primary that it replicated from
        ("b" * 40, first.Result.PRESENT),  # by the primary before the failover
        ("c" * 40, first.Result.FOREIGN),
    ],
)
def test_a_host_that_a_failover_made_primary_knows_the_backups_of_its_set(state, monkeypatch, stored, result):
    info = f"# Replication\r\nrole:master\r\nmaster_replid:{'a' * 40}\r\nmaster_replid2:{'b' * 40}\r\nmaster_repl_offset:1\r\n"
    monkeypatch.setattr(ownership, "run", lambda *command: info)
    state[1].append(snapshot("2026-11-24T10:00:00.5Z", "keys=2", "sha256=ab", f"set={stored}"))
    assert first.make(HOST, "redis")[0] is result


PEERS = replace(HOST, me="media2", media_hosts=["media1", "media2"])


@pytest.mark.parametrize(
    ("seconds", "maker", "host", "says"),
    [
        (60, "media1", PEERS, "nothing to do: media1 backs the images up, not media2"),
        (60, "media2", PEERS, ""),
        (60, "media0", PEERS, ""),  # no longer a media host
        (60, "media1", replace(PEERS, media_hosts=["media2"]), ""),
        (media.DUTY + 60, "media1", PEERS, ""),
    ],
)
def test_another_media_host_takes_the_backups_over_when_the_newest_is_too_old(state, tmp_path, seconds, maker, host, says):
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / name).touch()
    at = datetime.fromtimestamp(time.time() - seconds, UTC).isoformat()
    state[1].append(snapshot(at, hostname=maker))
    assert media.elsewhere(replace(host, media=str(tmp_path))) == says


def test_a_media_host_that_lacks_images_does_not_hide_the_backup_of_another(state, tmp_path):
    state[1].append(snapshot("2026-11-24T10:00:00.5Z", hostname="media1"))
    (tmp_path / "files").mkdir()
    assert media.elsewhere(replace(PEERS, media=str(tmp_path))).startswith("nothing to do: media2 has 0 of 3 images")


def test_the_second_media_host_makes_no_first_backup(state):
    state[1].append(snapshot(datetime.now(UTC).isoformat(), hostname="media1"))
    assert first.make(PEERS, "media")[0] is first.Result.NOTHING


def test_a_set_without_a_failover_has_one_replication_id():
    info = f"master_replid:{'a' * 40}\r\nmaster_replid2:{'0' * 40}\r\n"
    assert ownership.parse_replication_ids(info) == ["a" * 40]


def test_a_host_that_was_backed_up_makes_no_second_first_backup(state):
    metrics.record_success("redis", time.time() - 1, 10)
    assert first.make(HOST, "redis")[0] is first.Result.PRESENT


def test_a_wanted_full_backup_is_made_at_once(state, monkeypatch, tmp_path):
    monkeypatch.setattr(postgresql, "WANTED", tmp_path / "full")
    monkeypatch.setattr(ownership, "claim", lambda host, kind: (ownership.Owner.HERE, False))
    monkeypatch.setattr(metrics, "was_backed_up", lambda kind: True)
    assert first.make(HOST, "postgresql")[0] is first.Result.PRESENT
    (tmp_path / "full").touch()
    assert first.make(HOST, "postgresql")[0] is first.Result.MADE


def test_a_replica_makes_no_backup(state, monkeypatch):
    monkeypatch.setattr(redis, "elsewhere", lambda: "nothing to do: redis1 is primary, not redis2")
    assert first.make(HOST, "redis") == (first.Result.NOTHING, ["nothing to do: redis1 is primary, not redis2"])


@pytest.mark.parametrize(
    ("status", "said"),
    [({"primary": "redis1"}, ""), ({"primary": "redis2"}, "nothing to do: redis2 is primary, not redis1")],
)
def test_only_the_primary_has_something_to_back_up(tmp_path, monkeypatch, status, said):
    monkeypatch.setattr(redis, "DESCRIPTION", tmp_path / "image-editor.json")
    monkeypatch.setattr(redis, "run", lambda *command: json.dumps(status))
    (tmp_path / "image-editor.json").write_text('{"me": "redis1"}')
    assert redis.elsewhere() == said


def test_a_host_that_has_left_the_redis_set_has_nothing_to_back_up(tmp_path, monkeypatch):
    """Its timer is still there, and must not fail every hour."""
    monkeypatch.setattr(redis, "DESCRIPTION", tmp_path / "image-editor.json")
    assert redis.elsewhere() == "nothing to do: this host is not a member of the Redis set"


@pytest.mark.parametrize(
    ("status", "why"), [({"error": "refused: of another version"}, "of another version"), ({"primary": ""}, "no node of Redis")]
)
def test_a_set_without_a_known_primary_fails_with_the_reason(tmp_path, monkeypatch, status, why):
    monkeypatch.setattr(redis, "DESCRIPTION", tmp_path / "image-editor.json")
    monkeypatch.setattr(redis, "run", lambda *command: json.dumps(status))
    (tmp_path / "image-editor.json").write_text('{"me": "redis1"}')
    with pytest.raises(Failure, match=why):
        redis.elsewhere()


# --- guards, metrics, verdicts, report --------------------------------------------------------------------------------------


def test_a_second_run_at_once_is_refused(state):
    directory, _ = state
    with (directory / "media" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Refusal, match="another run for media is under way"), guards.locked("media"):
            pass
    with guards.locked("media"):
        pass


def test_a_backup_that_does_not_fit_on_the_disk_is_refused(tmp_path):
    guards.require_room(tmp_path, 0, "nothing")
    with pytest.raises(Refusal, match=r"a backup may need \d+ MiB and 64 MiB to spare: nothing was done, make room"):
        guards.require_room(tmp_path, 2**60, "a backup")


def test_new_metrics_are_merged_with_the_metrics_in_the_file(state):
    directory, _ = state
    metrics.record("verify", {("verified_timestamp_seconds", "redis"): 1.5})
    metrics.record("verify", {("verified_timestamp_seconds", "media"): 2})
    assert (directory / "verify" / "metrics.prom").read_text() == (
        "# TYPE image_editor_backup_verified_timestamp_seconds gauge\n"
        'image_editor_backup_verified_timestamp_seconds{kind="media"} 2.000\n'
        'image_editor_backup_verified_timestamp_seconds{kind="redis"} 1.500\n'
    )
    assert metrics.by_kind(directory) == {
        "media": {"verified_timestamp_seconds": 2},
        "redis": {"verified_timestamp_seconds": 1.5},
    }
    assert (directory / "verify" / "metrics.prom").stat().st_mode & 0o777 == 0o644


def test_a_kind_that_was_only_verified_has_no_backup_of_this_host(state):
    metrics.record("media", {("verified_timestamp_seconds", "media"): 1})
    assert not metrics.was_backed_up("media")
    metrics.record_success("media", time.time(), 5)
    assert metrics.was_backed_up("media")


def test_one_kind_that_cannot_be_verified_does_not_hide_the_others(state, monkeypatch, capsys):
    def damaged(host, work):
        raise Failure("2 of 3 files came back")

    monkeypatch.setattr(verification, "STATE", state[0])
    monkeypatch.setattr(verification.media, "verify", damaged)
    monkeypatch.setattr(verification.redis, "verify", lambda host, work: "2 keys")
    host = Host(**{**{field.name: getattr(HOST, field.name) for field in fields(Host)}, "kinds": ["media", "redis"]})
    lines: list[str] = []
    verdicts = verification.verify(host, lines.append)
    assert lines[0] == "FAILED media: 2 of 3 files came back"
    assert lines[1].startswith("ok redis: 2 keys, ")
    assert verification.failed(verdicts) == ["media"]
    assert list(metrics.by_kind(state[0])) == ["redis"]


def test_the_report_has_ages_and_names():
    report = {
        "metrics": {"media": {"last_success_timestamp_seconds": 1000, "duration_seconds": 2, "size_bytes": 2**20}},
        "backups": {"dumps": [status.entry_of_snapshot("dumps", SNAPSHOTS[1])], "redis": []},
    }
    first_line, second = status.lines(report, now=1000 + 7200)
    assert first_line == "media      backed up 2 h ago, took 2.0 s, 1.0 MiB"
    assert "release-20261124T120000Z" in second
    assert status.lines({"metrics": {}, "backups": {}}) == ["nothing was backed up on this host yet"]
    assert status.entry_of_snapshot("redis", SNAPSHOTS[0])["name"] == SNAPSHOTS[0]["short_id"]


# --- the command line -------------------------------------------------------------------------------------------------------


def run(monkeypatch, capsys, *arguments: str, result: object) -> tuple[int, str, str]:
    """Run a command whose work is replaced by a result, or an error."""

    def work(*_):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(main.Host, "read", classmethod(lambda cls: HOST))
    monkeypatch.setattr(main, "work", work)
    code = main.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


RESTORED = {"backup": "1", "to": "1", "reached": "noon", "tables": {"edit": [2, "7"]}, "before": "/old", "dump_before": ""}
RESULTS = [
    ("postgresql", {"backup": "1", "size_bytes": 2**21, "stored_bytes": 2**11, "seconds": 1}, "ok postgresql 1: 2 MiB, 2 KiB"),
    ("redis", {"keys": 2, "size_bytes": 2**11, "seconds": 1}, "ok redis: 2 keys, 2 KiB, 1.0 s"),
    ("redis", {"skipped": "nothing to do: a is primary, not b"}, "nothing to do: a is primary, not b"),
    ("media", {"files": 3, "new": 1, "seconds": 1}, "ok media: 3 files, 1 new, 1.0 s"),
    ("dump", {"name": "d", "path": "/d", "shipped": False, "rows": 3, "bytes": 2048}, "ok d: 3 rows, 2 KiB, in /d, not in"),
    ("restore-redis", {"keys": 2, "snapshot": "ab", "reached": "noon"}, "ok redis: 2 keys from snapshot ab of noon"),
    ("restore-media", {"files": 2, "snapshot": "ab", "reached": "noon"}, "ok media: 2 files from snapshot ab of noon"),
    ("restore-postgresql", RESTORED, "ok postgresql: 1 restored, up to noon, 2 rows\nwhat was there before: /old, and the dump"),
    ("load-dump", {**RESTORED, "before": "", "database": "restore_d"}, "up to noon, 2 rows\nit is database restore_d"),
]


@pytest.mark.parametrize(("command", "result", "says"), RESULTS)
def test_every_result_is_text_or_json(monkeypatch, capsys, command, result, says):
    code, out, _ = run(monkeypatch, capsys, command, result=result)
    assert code == 0
    assert says in out
    code, out, _ = run(monkeypatch, capsys, command, "--json", result=result)
    assert (code, json.loads(out)) == (0, result)


@pytest.mark.parametrize("error", [Failure("no room\nat all"), OSError("no room at all")])
def test_every_failure_is_reported_in_one_line(monkeypatch, capsys, error):
    assert run(monkeypatch, capsys, "media", result=error) == (1, "", "no room at all\n")


def test_the_roles_describe_all_that_the_command_reads():
    """Neither the roles nor the command may have a setting that the other lacks."""
    everywhere = load(ROOT / "roles/backup/vars/main.yml")["__backup_description"]
    on_the_store = load(ROOT / "roles/backup_store/vars/main.yml")["__backup_store_description"]
    assert set(everywhere) & set(on_the_store) == set()
    assert set(everywhere) | set(on_the_store) == {field.name for field in fields(Host)}
    assert set(on_the_store) == {field.name for field in fields(Host) if field.default is not MISSING}


def test_roles_that_share_a_setting_have_the_same_default():
    """With the defaults alone, role backup must reach the store that role backup_store has set up."""
    backup, store = (load(ROOT / f"roles/{role}/defaults/main.yml") for role in ("backup", "backup_store"))
    shared = set(backup) & set(store)
    assert shared == {"backup_store_port"}
    assert {name: backup[name] for name in shared} == {name: store[name] for name in shared}


def test_the_store_describes_itself_and_settings_of_another_version_are_left_out(tmp_path):
    described = {field.name: "x" for field in fields(Host) if field.default is MISSING}
    (tmp_path / "backup.json").write_text(json.dumps(described | {"unknown": 1, "local_conninfo": "dbname=x port=1"}))
    host = Host.read(tmp_path)
    assert (host.store, host.repository) == ("x", "")
    assert host.conninfo_for("postgres") == "dbname=postgres port=1"
    (tmp_path / "store.json").write_text(json.dumps({"repository": "/backups", "keep_days": 7}))
    assert Host.read(tmp_path).repository == "/backups"
