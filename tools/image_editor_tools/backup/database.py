"""Reading what a database holds, and marking a point of its write-ahead log (WAL) for a later comparison."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection
from psycopg.errors import DeadlockDetected, LockNotAvailable

from image_editor_tools.backup.host import Host
from image_editor_tools.database import rows, session, value
from image_editor_tools.errors import Failure
from image_editor_tools.waiting import wait_for

MARK_ATTEMPTS = 10
ARCHIVE_PATIENCE = 120  # seconds


def tables(connection: Connection) -> list[str]:
    """The names of the application's tables, quoted where needed."""
    query = "SELECT format('%I', tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    return [name for (name,) in rows(connection, query)]


def contents(connection: Connection, names: list[str] | None = None) -> dict[str, Any]:
    """The rows of each table, counted and hashed whatever their order, and the migrations that were applied."""
    names = tables(connection) if names is None else names
    counted = {}
    for name in names:
        query = f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {name} t"
        counted[name] = list(rows(connection, query)[0])
    applied = "SELECT app || '.' || name FROM django_migrations ORDER BY 1"
    migrations = [name for (name,) in rows(connection, applied)] if "django_migrations" in names else []
    return {"tables": counted, "migrations": migrations}


def contents_of(conninfo: str) -> dict[str, Any]:
    """What a database holds."""
    with session(conninfo, snapshot=True) as connection:
        return contents(connection)


def live_contents(host: Host) -> dict[str, Any] | None:
    """What the live database holds; None if it does not answer."""
    try:
        return contents_of(host.local_conninfo)
    except Failure:
        return None


def is_replica(conninfo: str) -> bool:
    """Whether a server follows another one, or replays an archive."""
    with session(conninfo) as connection:
        return value(connection, "SELECT pg_is_in_recovery()")


def system_identifier(conninfo: str) -> int:
    """The number that tells this database from every other. A restored database keeps it."""
    with session(conninfo) as connection:
        return value(connection, "SELECT system_identifier FROM pg_control_system()")


def mark(conninfo: str) -> dict[str, Any]:
    """Create a named restore point in the WAL, and count what the tables hold at exactly this point.

    Writers wait for the milliseconds in which the restore point and the snapshot are made. They do not wait for the counting.
    """
    with session(conninfo) as connection:
        names = tables(connection)
    point = f"image-editor {datetime.now(UTC).isoformat(timespec='microseconds')}"
    with session(conninfo, snapshot=True) as connection:
        for attempt in range(MARK_ATTEMPTS):
            try:
                connection.execute("SAVEPOINT quiet")
                connection.execute("SET LOCAL lock_timeout = '2s'")
                if names:
                    connection.execute(f"LOCK TABLE {', '.join(names)} IN SHARE MODE")
                connection.execute("SELECT pg_create_restore_point(%s)", [point])
                connection.execute("ROLLBACK TO SAVEPOINT quiet")
                break
            except (LockNotAvailable, DeadlockDetected):
                connection.rollback()
                if attempt + 1 == MARK_ATTEMPTS:
                    raise Failure("a transaction holds a table for too long to mark the backup: end it, then try again") from None
                time.sleep(1 + attempt)
        found = contents(connection, names)
    return {"point": point, "at": point.split()[1]} | found


def wait_until_archived(conninfo: str, seconds: float = ARCHIVE_PATIENCE) -> None:
    """Wait until all WAL written so far is in the archive."""
    with session(conninfo, autocommit=True) as connection:
        segment = value(connection, "SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
        wait_for(
            lambda: (value(connection, "SELECT last_archived_wal FROM pg_stat_archiver") or "") >= segment,
            f"{segment} was not archived within {seconds:g} s: look at the database's journal and `pgbackrest check`",
            seconds,
            error=Failure,
        )


def require_server(conninfo: str, otherwise: str, seconds: float = 60) -> None:
    """Wait until a server that was just started answers."""
    wait_for(lambda: contents_of(conninfo), otherwise, seconds, retry=(Failure,), error=Failure)
