"""Backups and restores of the database with pgBackRest."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from image_editor_tools.backup import database, dumps, ownership, restic, server, wal
from image_editor_tools.backup.contents import require_equal, rows_of, schema_is_behind
from image_editor_tools.backup.guards import locked, require_room
from image_editor_tools.backup.host import STATE, Host
from image_editor_tools.backup.instance import Instance
from image_editor_tools.backup.metrics import record_success
from image_editor_tools.backup.moments import moment
from image_editor_tools.backup.pgbackrest import (
    STANZA,
    backups,
    choose,
    database_of,
    information,
    last_segment,
    marked,
    next_kind,
    pgbackrest,
    with_archive,
)
from image_editor_tools.backup.postgres_user import as_postgres
from image_editor_tools.database import session, value
from image_editor_tools.errors import Failure, Refusal

INSPECTED = STATE / "inspect" / "postgresql"  # where `recover --keep` puts an instance to look into
WANTED = STATE / "postgresql" / "full"  # while this file exists, the next backup is a full one


def back_up(host: Host, kind: str = "") -> dict[str, Any]:
    """Make a full or differential backup, mark it, and remove backups that are too old. On the host that keeps the backups.

    Without ``kind``, a full backup is made when one is wanted or the last one is older than ``full_days``.
    """
    began = time.time()
    with locked("postgresql"):
        ownership.require_own(host, "postgresql")
        kind = kind or ("full" if WANTED.exists() else next_kind(backups(), began, host.full_days))
        _run_pgbackrest(host, kind)
        label = information()["backup"][-1]["label"]
        manifest = database.mark(host.conninfo)
        database.wait_until_archived(host.conninfo)
        pgbackrest("annotate", f"--set={label}", "--annotation=manifest=" + json.dumps(manifest, separators=(",", ":")))
        if kind == "full":
            WANTED.unlink(missing_ok=True)
        newest = backups()[-1]
        record_success("postgresql", began, newest.stored)
        for stored in ("redis", "media", "dumps"):
            restic.expire(host, stored)
    return {"backup": label, "size_bytes": newest.size, "stored_bytes": newest.stored, "seconds": time.time() - began}


def _run_pgbackrest(host: Host, kind: str) -> None:
    place = Path(host.repository) / "pgbackrest"
    local = host.repository.startswith("/")  # not in a bucket
    if local:
        with session(host.conninfo) as connection:
            size = value(connection, "SELECT sum(pg_database_size(oid))::bigint FROM pg_database")
        require_room(place, size, f"a {kind} backup of {size >> 20} MiB")
    try:
        pgbackrest("backup", f"--type={kind}")
    except Failure as failure:
        # A full disk makes pgBackRest fail in many ways. Name the cause.
        if local and (free := shutil.disk_usage(place).free) < 4 * wal.SEGMENT:
            raise Failure(f"{place} has {free >> 20} MiB free: make room ({failure})") from None
        raise


def recover(host: Host, into: Path, to: str, timeline: str, keep: bool) -> dict[str, Any]:
    """Restore into a directory, beside whatever runs. As the user postgres.

    The replay stops at the backup's mark, compares every table with what was recorded there, and goes on to the moment that is
    wanted. The server is stopped at the end unless ``keep`` is true. After a Failure nothing is left in ``into``.
    """
    stanza = information()
    backup = choose(marked(stanza), to)
    instance = Instance(into, host)
    instance.discard()
    require_room(into.parent, backup.size, f"a restore of {backup.size >> 20} MiB")
    into.mkdir(mode=0o700)
    fetch = f'pgbackrest --stanza={STANZA} --pg1-path={into} {" ".join(host.pgbackrest_options)} archive-get %f "%p"'
    try:
        pgbackrest(
            *(f"--pg1-path={into}", *host.pgbackrest_options, f"--set={backup.label}"),
            *(f"--recovery-option=restore_command={fetch}", "restore"),
        )
        instance.start(recovery_target_name=backup.manifest["point"], recovery_target_action="pause")
        instance.wait("SELECT pg_get_wal_replay_pause_state() = 'paused'")
        require_equal(backup.manifest, instance.contents(), f"backup {backup.label}")
        if to == backup.label:
            instance.ask("SELECT pg_wal_replay_resume()::text")
        else:
            instance.stop()
            target = {} if to == "latest" else {"recovery_target_time": moment(to).isoformat(" ")}
            instance.start(recovery_target_action="promote", recovery_target_timeline=timeline, **target)
        instance.wait("SELECT NOT pg_is_in_recovery()")
        if to == "latest":
            history = max((into / "pg_wal").glob("*.history"), default=None)
            wal.require_no_gap(history.read_text() if history else "", last_segment(stanza))
        reached = instance.ask("SELECT pg_last_xact_replay_timestamp()::text")
        found = instance.contents()
        with session(instance.conninfo, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM RESET restore_command")
        if not keep:
            instance.stop()
    except BaseException:
        instance.discard()
        raise
    recorded = rows_of(backup.manifest)
    return {"backup": backup.label, "to": to, "reached": reached or backup.manifest["at"], "recorded": recorded, **found}


def discard(host: Host) -> None:
    """Remove the instance that was restored beside the live database."""
    Instance(INSPECTED, host).discard()


def restore(host: Host, to: str, timeline: str, migrate: bool) -> dict[str, Any]:
    """Replace the live database by its state at a moment. Nothing may write to the database meanwhile. As root."""
    if dumps.is_name(to):
        return dumps.restore(host, to, migrate)
    into = Path(host.postgresql_data).with_name("main.restore")
    server.require_control()
    live = database.live_contents(host)
    if live and database.is_replica(host.local_conninfo):
        raise Refusal("this node is a replica, and no node is the primary: nothing was changed (image-editor-postgresql status)")
    if live:
        _complete_archive(host)
    result = as_postgres("recover", "--into", into, "--to", to, "--timeline", timeline)
    instance = Instance(into, host)
    try:
        result["behind"] = schema_is_behind(live, result, migrate)
        result["dump_before"] = as_postgres("dump", "--reason", "before-restore")["path"] if live else ""
    except Failure:
        instance.discard()
        raise
    before = _exchange(host, into, result)
    instance.remove_files()
    return result | {"before": str(before)}


def _complete_archive(host: Host) -> None:
    """Bring all WAL of the live database into the archive.

    A replay to a moment stops at the first transaction after the moment, so such a transaction must exist. The new, empty
    database of a rebuilt host is not the archive's, and has nothing to add.
    """
    if database.system_identifier(host.local_conninfo) == database_of(information()):
        with session(host.local_conninfo, autocommit=True) as connection:
            value(connection, "SELECT pg_current_xact_id()::text")
        database.wait_until_archived(host.local_conninfo)


def _exchange(host: Host, into: Path, expected: dict[str, Any]) -> Path:
    """Exchange the live data directory for a restored one, compare, and put the old one back if anything fails."""
    place = Path(host.postgresql_data)
    before = place.with_name("main.before-restore")
    if before.exists():  # now, while the database runs: an error here costs nothing
        shutil.rmtree(before)
    server.stop(host)
    if place.exists():
        place.rename(before)
    into.rename(place)
    try:
        server.start(host)
        database.require_server(host.local_conninfo, "the restored PostgreSQL does not answer")
        require_equal(expected, database.contents_of(host.local_conninfo), "the database in its place")
        database.wait_until_archived(host.local_conninfo)
    except Failure as failure:
        server.stop(host)
        place.rename(into)
        if before.exists():
            before.rename(place)
            server.start(host)
        raise Failure(f"{failure}. The old state is back; what was restored is in {into}") from None
    return before


def archive_received(host: Host) -> dict[str, Any]:
    """Archive the WAL that this node got as a replica. As the user postgres, when the node has become the primary.

    A replica takes WAL as archived, but the primary may have died before that. pgBackRest leaves out what the archive has. The
    server archives the WAL of its new timeline meanwhile.
    """
    place = Path(host.postgresql_data) / "pg_wal"
    names = wal.received(entry.name for entry in (place / "archive_status").iterdir())
    for name in names:
        if (place / name).exists():  # PostgreSQL may have removed it meanwhile
            with_archive("archive-push", str(place / name))
    return {"archived": len(names)}


def verify(host: Host) -> str:
    """Restore the newest backup into a scratch directory, compare, and replay the archive to its end."""
    into = STATE / "verify" / "postgresql"
    result = recover(host, into, "latest", "latest", keep=False)
    Instance(into, host).discard()
    total = sum(rows_of(result).values())
    return f"{result['backup']} is what was recorded, and the archive goes on to {result['reached']} with {total} rows"
