"""Logical dumps of the database: a quick way back before a release or a rollback."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_editor_tools.backup import database, restic
from image_editor_tools.backup.contents import Contents, missing_rows, require_equal, rows_of, schema_is_behind
from image_editor_tools.backup.guards import locked, require_room
from image_editor_tools.backup.host import STATE, Host
from image_editor_tools.backup.postgres_user import as_postgres
from image_editor_tools.database import change, rows, session
from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.shell import run

DIRECTORY = STATE / "dumps"
NAME = re.compile(r"[a-z][a-z0-9-]*-\d{8}T\d{6}Z")
TIME_LENGTH = len("20260101T000000Z")
# Who may connect to a database. A dump does not hold this.
MAY_CONNECT = """
SELECT DISTINCT pg_get_userbyid(grantee) FROM pg_database, aclexplode(datacl)
 WHERE datname = %s AND privilege_type = 'CONNECT' AND grantee NOT IN (0, datdba)
"""


def is_name(text: str) -> bool:
    """Whether a text is the name of a dump."""
    return bool(NAME.fullmatch(text))


def name_for(reason: str, now: datetime) -> str:
    """The name of a dump: why it is made, and when."""
    name = f"{reason}-{now:%Y%m%dT%H%M%SZ}"
    if not is_name(name):
        raise Refusal(f"{reason} cannot begin the name of a dump: use small letters, digits and hyphens")
    return name


def scratch_database(database_name: str, name: str, beside: bool) -> str:
    """The database that a dump is loaded into."""
    return "restore_" + name.replace("-", "_").lower() if beside else f"{database_name}_restore"


def make(host: Host, reason: str) -> dict[str, Any]:
    """Dump the database, compare the dump with the rows it was made from, and send a copy to the store. As the user postgres.

    If the store does not answer, the dump stays on this host alone: a release or a rollback must not wait for the store.
    """
    name = name_for(reason, datetime.now(UTC))
    path = DIRECTORY / f"{name}.dump"
    with locked("dumps"):
        found = _dump(host, path)
        shipped = bool(host.store) and restic.answers(host)
        if shipped:
            restic.prepare(host, "dumps")
            restic.restic(host, "dumps", "backup", "--quiet", "--tag", name, path, path.with_suffix(".json"))
        for old in oldest(DIRECTORY.glob("*.dump"), host.dumps_kept):
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)
    total = sum(rows_of(found).values())
    return {"name": name, "path": str(path), "shipped": shipped, "rows": total, "bytes": path.stat().st_size}


def _dump(host: Host, path: Path) -> Contents:
    """Write one dump and the description of what it holds; return the description."""
    part = path.with_suffix(".part")
    with session(host.local_conninfo, snapshot=True) as connection:
        ((size, snapshot),) = rows(connection, "SELECT pg_database_size(current_database()), pg_export_snapshot()")
        require_room(path.parent, size, f"a dump of {size >> 20} MiB")
        try:
            run(
                f"{host.postgresql_binaries}/pg_dump",
                *(f"--dbname={host.local_conninfo}", f"--snapshot={snapshot}", "--format=custom", "--lock-wait-timeout=30s"),
                f"--file={part}",
            )
            found = database.contents(connection)
            if missing := missing_rows(found, rows_in(host, part)):
                raise Failure("the dump does not hold what the database holds: " + "; ".join(missing))
            path.with_suffix(".json").write_text(json.dumps(found))
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return found


def oldest(paths: Iterable[Path], kept: int) -> list[Path]:
    """The files to remove so that the newest ``kept``, and at least one, stay."""
    return sorted(paths, key=lambda path: path.stat().st_mtime)[: -max(kept, 1)]


def rows_in(host: Host, path: Path) -> dict[str, int]:
    """The number of rows of each table in a dump. Reads the whole dump, as a restore does."""
    restore = f"{host.postgresql_binaries}/pg_restore"
    listed = run(restore, "--list", path)
    command = [restore, "--data-only", "--schema=public", "--file=-", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reading:
        counted = count_rows(listed, reading.stdout)
        complaint = reading.stderr.read().strip()
    if reading.returncode:
        raise Failure(f"pg_restore: {(complaint.splitlines() or ['it failed'])[-1]}")
    return counted


def count_rows(listed: str, script: Iterable[str]) -> dict[str, int]:
    """Count the rows in the script that pg_restore writes. ``listed`` is its list of contents, which has empty tables too."""
    counted = dict.fromkeys(re.findall(r" TABLE DATA public (\S+) ", listed), 0)
    table = ""
    for line in script:
        if table and line == "\\.\n":
            table = ""
        elif table:
            counted[table] += 1
        elif started := re.match(r"COPY public\.(\S+) .*FROM stdin;$", line):
            table = started[1]
    return counted


def load_beside(host: Host, name: str) -> dict[str, Any]:
    """Load a dump into a database of its own, beside the live one. As root."""
    scratch = scratch_database(host.database, name, beside=True)
    with locked("dumps"):
        return _load(host, name, scratch, migrate=True, check_schema=False)[0] | {"database": scratch}


def restore(host: Host, name: str, migrate: bool) -> dict[str, Any]:
    """Replace the live database by that of a dump. As root."""
    scratch, before = scratch_database(host.database, name, beside=False), f"{host.database}_before_restore"
    with locked("dumps"):
        result, live = _load(host, name, scratch, migrate, check_schema=True)
    result["dump_before"] = as_postgres("dump", "--reason", "before-restore")["path"] if live else ""
    with locked("dumps"), session(host.conninfo_for("postgres"), autocommit=True) as connection:
        change(connection, "DROP DATABASE IF EXISTS {} WITH (FORCE)", before)
        rows(connection, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", host.database)
        change(connection, "ALTER DATABASE {} RENAME TO {}", host.database, before)
        change(connection, "ALTER DATABASE {} RENAME TO {}", scratch, host.database)
        change(connection, "REVOKE ALL ON DATABASE {} FROM PUBLIC", host.database)
        for (user,) in rows(connection, MAY_CONNECT, before):
            change(connection, "GRANT CONNECT ON DATABASE {} TO {}", host.database, user)
    return result | {"before": f"database {before}"}


def _load(host: Host, name: str, scratch: str, migrate: bool, check_schema: bool) -> tuple[dict[str, Any], Contents | None]:
    """Load a dump into a scratch database and compare; also return what the live database holds."""
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as work:
        path = _find(host, name, Path(work))
        recorded = json.loads(path.with_suffix(".json").read_text())
        live = database.live_contents(host)
        behind = schema_is_behind(live, recorded, migrate) if check_schema else False
        require_room(Path(host.postgresql_data), 3 * path.stat().st_size, "a restore of the dump")
        with session(host.conninfo_for("postgres"), autocommit=True) as connection:
            change(connection, "DROP DATABASE IF EXISTS {}", scratch)
            change(connection, "CREATE DATABASE {} OWNER {} ENCODING 'UTF-8' TEMPLATE template0", scratch, host.database_owner)
            try:
                into = host.conninfo_for(scratch)
                restore = f"{host.postgresql_binaries}/pg_restore"
                run(restore, "--exit-on-error", f"--dbname={into}", path, user="postgres")
                require_equal(recorded, database.contents_of(into), f"dump {name}")
            except BaseException:
                change(connection, "DROP DATABASE IF EXISTS {} WITH (FORCE)", scratch)
                raise
    description = {"backup": name, "to": name, "reached": name[-TIME_LENGTH:], "recorded": rows_of(recorded)}
    return description | recorded | {"behind": behind}, live


def _find(host: Host, name: str, work: Path) -> Path:
    """The dump on this host, or fetched from the store into ``work``."""
    work.chmod(0o755)
    path = DIRECTORY / f"{name}.dump"
    if not path.exists():
        restic.fetch(host, "dumps", name, work)
        path = next(work.rglob("*.dump"))
        run("chown", "-R", "postgres:", work)
    return path
