#!/usr/bin/python3
"""Backups of the platform: make them, look at them, prove them, bring them back. For timers, operators and the Ansible role.

docs/restore.md says when to use what. /etc/image-editor-backup/backup.json describes the host's part in it. Whatever
fails says why in one line, leaves what was there before, and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import psycopg2
    from psycopg2 import Error as DatabaseError
except ImportError:  # on hosts that have neither the database nor the store

    class DatabaseError(Exception):  # type: ignore[no-redef]
        """Never raised there."""


CONFIGURATION = Path("/etc/image-editor-backup")
STATE = Path("/var/lib/image-editor-backup")
KINDS = ("postgresql", "redis", "media")
# Of a restored instance of ours: the settings that pg_control remembers must not be lower than the primary's were.
CONTROLLED = ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_xacts", "max_locks_per_xact")
SEGMENT = 16 * 2**20  # bytes of a WAL file
PATIENCE = 24 * 3600  # seconds that PostgreSQL may take to replay


class Failure(Exception):
    """Something is not as it must be; the text tells the operator what and what to do. ``code``: a program's exit code."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


def say(text: str) -> None:
    print(text, flush=True)


def described() -> dict[str, Any]:
    return json.loads((CONFIGURATION / "backup.json").read_text())


def run(*command: str | Path, user: str = "", **options: Any) -> str:
    """Run a program, as another user if one is named; its output. Failure with what it complained of."""
    name = Path(command[0]).name
    if user and os.geteuid() == 0:
        command = ("runuser", "-u", user, "--", *command)
    options = {"stdin": subprocess.DEVNULL, "cwd": "/"} | options
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, **options)
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        said = [line for line in lines if re.search(r"ERROR|FATAL|Fatal|error|HINT", line)] or lines[-1:]
        raise Failure(f"{name}: {'; '.join(said[:3]) or f'exit code {done.returncode}'}", done.returncode)
    return done.stdout


@contextlib.contextmanager
def locked(kind: str) -> Iterator[None]:
    """One at a time."""
    directory = STATE / kind
    with (directory / "lock").open("a") as lock:
        if os.geteuid() == 0:  # an operator's run leaves no lock behind that the unit's user could not take
            os.fchown(lock.fileno(), directory.stat().st_uid, directory.stat().st_gid)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                f"another run for {kind} is under way on this host: nothing was done, wait until it has ended"
            ) from None
        yield


def room(directory: Path, needed: int, what: str) -> None:
    """Refuse what will not fit, before it has taken the last of the room."""
    free = shutil.disk_usage(directory).free
    if free < needed + 64 * 2**20:
        raise Failure(
            f"{directory} has {free >> 20} MiB free, {what} may need {needed >> 20} MiB and 64 MiB to spare: "
            f"nothing was done, make room"
        )


def record(name: str, **samples: float) -> None:
    """Metrics for the node exporter, in name/metrics.prom; ``samples`` are named metric__kind. Others of the file stay."""
    path = STATE / name / "metrics.prom"
    found = (
        dict(line.rsplit(" ", 1) for line in path.read_text().splitlines() if line and line[0] != "#") if path.exists() else {}
    )
    for key, value in samples.items():
        metric, kind = key.split("__")
        found[f'image_editor_backup_{metric}{{kind="{kind}"}}'] = f"{value:.3f}"
    lines = []
    for metric in dict.fromkeys(key.split("{")[0] for key in sorted(found)):
        lines.append(f"# TYPE {metric} gauge")
        lines += [f"{key} {value}" for key, value in sorted(found.items()) if key.startswith(metric + "{")]
    replacement = path.with_suffix(".new")
    replacement.write_text("\n".join(lines) + "\n")
    replacement.chmod(0o644)
    replacement.replace(path)


def succeeded(kind: str, began: float, size: int) -> None:
    now = time.time()
    record(
        kind,
        **{
            f"last_success_timestamp_seconds__{kind}": now,
            f"duration_seconds__{kind}": now - began,
            f"size_bytes__{kind}": size,
        },
    )


# --- PostgreSQL: what is in a database -----------------------------------------------------------------------------------


def connect(conninfo: str) -> Any:
    root = os.geteuid() == 0 and "user=postgres" in conninfo
    try:
        if root:  # the local socket takes the database's superuser from its own system user only
            os.seteuid(pwd.getpwnam("postgres").pw_uid)
        return psycopg2.connect(conninfo, connect_timeout=10, options="-c TimeZone=UTC -c DateStyle=ISO -c search_path=public")
    except psycopg2.OperationalError as error:
        raise Failure(f"PostgreSQL: {str(error).strip().splitlines()[0]}") from None
    finally:
        if root:
            os.seteuid(0)


def rows(session: Any, query: str, *values: Any) -> list[tuple]:
    with session.cursor() as cursor:
        cursor.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []


def tables(session: Any) -> list[str]:
    query = "SELECT format('%I', tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    return [name for (name,) in rows(session, query)]


def contents(session: Any, names: list[str] | None = None) -> dict[str, Any]:
    """Number of rows and a sum of their hashes, whatever their order, of each table; and which migrations were applied."""
    names = tables(session) if names is None else names
    counted = {}
    for name in names:
        query = f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {name} t"
        counted[name] = list(rows(session, query)[0])
    known = "SELECT app || '.' || name FROM django_migrations ORDER BY 1"
    migrations = [name for (name,) in rows(session, known)] if "django_migrations" in names else []
    return {"tables": counted, "migrations": migrations}


def differences(recorded: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Tables that do not hold what was recorded."""
    wanted, there = recorded["tables"], found["tables"]
    return [
        f"{name}: {wanted.get(name, ['no table'])[0]} rows recorded, {there.get(name, ['no table'])[0]} found"
        for name in sorted({*wanted, *there})
        if wanted.get(name) != there.get(name)
    ]


def refuse_differences(recorded: dict[str, Any], found: dict[str, Any], where: str) -> None:
    if different := differences(recorded, found):
        raise Failure(f"{where} does not hold what was recorded when it was backed up: " + "; ".join(different))


def mark(session: Any) -> dict[str, Any]:
    """A named point in the WAL, and what the tables hold at exactly this point: to be compared after a restore.

    Writers wait for the milliseconds in which the point is set and the snapshot is taken; counting goes on without them.
    """
    session.autocommit = True
    names = tables(session)
    session.autocommit = False
    session.set_session(isolation_level="REPEATABLE READ")
    point = f"image-editor {datetime.now(UTC).isoformat(timespec='microseconds')}"
    for attempt in range(10):
        try:
            rows(session, "SAVEPOINT quiet")
            rows(session, "SET LOCAL lock_timeout = '2s'")
            if names:
                rows(session, f"LOCK TABLE {', '.join(names)} IN SHARE MODE")
            rows(session, "SELECT pg_create_restore_point(%s)", point)
            rows(session, "ROLLBACK TO SAVEPOINT quiet")
            break
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
            session.rollback()
            if attempt == 9:
                raise Failure("a transaction holds a table for too long to mark the backup: end it, then try again") from None
            time.sleep(1 + attempt)
    found = contents(session, names)
    session.rollback()
    return {"point": point, "at": point.split()[1]} | found


def archived(session: Any, seconds: float = 120) -> None:
    """Wait until all WAL written so far is in the archive."""
    session.rollback()
    session.autocommit = True
    ((segment,),) = rows(session, "SELECT pg_walfile_name(pg_switch_wal() - 1::numeric)")
    deadline = time.monotonic() + seconds
    while (rows(session, "SELECT last_archived_wal FROM pg_stat_archiver")[0][0] or "") < segment:
        if time.monotonic() > deadline:
            raise Failure(
                f"{segment} was not archived within {seconds:g} s: look at the database's journal and `pgbackrest check`"
            )
        time.sleep(0.2)


# --- PostgreSQL: the repository ------------------------------------------------------------------------------------------


def pgbackrest(*arguments: str) -> str:
    return run("pgbackrest", "--stanza=image-editor", *arguments, user="postgres")


@dataclass(frozen=True)
class Backup:
    """A backup in the repository that was marked, so that it can be compared."""

    label: str
    kind: str
    size: int  # bytes of the database
    stored: int  # bytes that it took
    stopped: float
    manifest: dict[str, Any]

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.manifest["at"])


def information() -> dict[str, Any]:
    """All that pgBackRest says of the stanza."""
    (stanza,) = json.loads(pgbackrest("info", "--output=json"), strict=False)  # it may quote what it cannot decipher
    unreadable = [repo["status"]["message"].splitlines()[0] for repo in stanza["repo"] if repo["status"]["code"] == 99]
    if unreadable:
        hint = "; was backup_passphrase changed?" if "FormatError" in unreadable[0] else ""
        raise Failure(f"pgbackrest: {unreadable[0].rstrip(':')}{hint}")
    return stanza


def backups() -> tuple[list[Backup], dict[str, Any]]:
    """Marked backups, oldest first; and all that pgBackRest says of the stanza."""
    stanza = information()
    if stanza["status"]["code"] not in (0, 2):  # 2: no backup yet
        raise Failure(f"pgbackrest: {stanza['status']['message']}")
    found = [
        Backup(
            entry["label"],
            entry["type"],
            entry["info"]["size"],
            entry["info"]["repository"]["delta"],
            entry["timestamp"]["stop"],
            json.loads(entry["annotation"]["manifest"]),
        )
        for entry in stanza["backup"]
        if entry.get("annotation", {}).get("manifest") and not entry["error"]
    ]
    return found, stanza


def identifier(session: Any) -> int:
    """What tells this database from every other, a restored one excepted."""
    return rows(session, "SELECT system_identifier FROM pg_control_system()")[0][0]


def stanza(host: dict[str, Any], adopt: bool) -> str:
    """Make the repository where there is none. "foreign" where it holds another database than the one that runs."""
    with contextlib.closing(connect(host["conninfo"])) as session:
        mine = identifier(session)
    known = information()
    if not known["db"]:
        pgbackrest("stanza-create")
        return "changed"
    if known["db"][-1]["system-id"] == mine:
        return "unchanged"
    if adopt:
        pgbackrest("stanza-upgrade")
        return "changed"
    say("foreign")
    return (
        "The repository holds backups of another database than the one that runs, so nothing is archived. If the host was "
        "rebuilt, playbooks/restore.yml brings the database back (docs/restore.md). To begin anew beside the old backups: "
        "-e backup_adopt_database=true"
    )


def run_unit(kind: str) -> None:
    """What the timer does, now: with the unit's user and walls. Its lines, and its verdict. For root."""
    unit = f"image-editor-backup-{kind}.service"
    if "activating" in run("/bin/sh", "-c", f"systemctl is-active {unit} || :"):
        raise Failure(
            f"a run for {kind} is under way already: nothing was done, wait until it has ended (systemctl status {unit})"
        )
    since = f"--since=@{time.time():.6f}"
    code = subprocess.run(["systemctl", "start", unit], stderr=subprocess.DEVNULL, check=False).returncode
    run("journalctl", "--sync")
    # By unit and time: a journal that is late finds the invocation's ID gone, and then its lines are without it.
    lines = run("journalctl", "--output=cat", since, f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout").strip().splitlines()
    for line in lines:
        say(line)
    if code:
        raise Failure(lines[-1].removeprefix("failed: ") if lines else f"{unit} could not be started")


def new(kind: str) -> None:
    """For the role, on a host that has backed nothing up yet: the first backup, or word of those from a host before it.

    A new host has nothing that is worth a backup, and restores begin with the newest.
    """
    if kind in ("redis", "media"):
        if kind == "redis" and not is_redis_primary():
            return
        source = STATE / kind / "source"
        if not source.exists():
            belongs(kind, "before" if snapshots(kind) else "here")
        if source.read_text() == "before":
            say("foreign")
            say(str(Foreign(kind)))
            return
    run_unit(kind)


def belongs(kind: str, to: str) -> None:
    """Remember whose backups the store has: of this host (here), or of one before it (before)."""
    source = STATE / kind / "source"
    source.write_text(to)
    source.chmod(0o644)


class Foreign(Failure):
    """The newest backup in the store is from a host before this one."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"the store has backups of {kind} from a host before this one, and a newer one would hide them: nothing was done. "
            "Bring them back with playbooks/restore.yml (docs/restore.md), or begin anew beside them: "
            f"image-editor-backup adopt {kind}"
        )


def refuse_to_hide(kind: str) -> None:
    source = STATE / kind / "source"
    if source.exists() and source.read_text() == "before":
        raise Foreign(kind)


def back_up_postgresql(host: dict[str, Any], kind: str) -> None:
    """A full backup where the last is older than a week, else what has changed since; then the mark, and what is too old goes."""
    began = time.time()
    with locked("postgresql"), contextlib.closing(connect(host["conninfo"])) as session:
        made, _ = backups()
        full = max((backup.stopped for backup in made if backup.kind == "full"), default=0)
        kind = kind or ("full" if full < began - host["full_days"] * 86400 else "diff")
        place = Path(host["repository"]) / "pgbackrest"
        local = host["repository"].startswith("/")  # not in a bucket
        if local:
            ((size,),) = rows(session, "SELECT sum(pg_database_size(oid))::bigint FROM pg_database")
            session.rollback()
            room(place, size, f"a {kind} backup of {size >> 20} MiB")
        try:
            pgbackrest("backup", f"--type={kind}")
        except Failure as failure:
            if local and (free := shutil.disk_usage(place).free) < 4 * SEGMENT:  # what follows from that says many things
                raise Failure(f"{place} has {free >> 20} MiB free: make room ({failure})") from None
            raise
        _, stanza = backups()
        label = stanza["backup"][-1]["label"]
        manifest = mark(session)
        archived(session)
        pgbackrest("annotate", f"--set={label}", "--annotation=manifest=" + json.dumps(manifest, separators=(",", ":")))
        newest = backups()[0][-1]
        succeeded("postgresql", began, newest.stored)
        say(f"ok postgresql {label}: {newest.size >> 20} MiB, {newest.stored >> 10} KiB stored, {time.time() - began:.1f} s")
        for store in ("redis", "media", "dumps"):
            expire(store, host["keep_days"])


# --- PostgreSQL: bringing it back ----------------------------------------------------------------------------------------


class Instance:
    """PostgreSQL on a restored data directory, reachable by nobody but its own user, that archives nothing."""

    def __init__(self, directory: Path, binaries: str, database: str) -> None:
        self.directory, self.binaries = directory, binaries
        self.conninfo = f"host={directory} port=5432 user=postgres dbname={database}"
        self.files = {end: directory.with_name(f"{directory.name}.{end}") for end in ("conf", "hba", "log")}

    def start(self, **recovery: str) -> None:
        control = run(f"{self.binaries}/pg_controldata", self.directory)
        settings = {
            "data_directory": self.directory,
            "hba_file": self.files["hba"],
            "listen_addresses": "",
            "unix_socket_directories": self.directory,
            "shared_buffers": "64MB",
            "archive_mode": "on",
            # Its WAL is kept, as not archived yet: the archive gets it once the directory is in its place.
            "archive_command": "",
            "hot_standby": "on",
            "lc_messages": "C",
            **{
                name.replace("xacts", "transactions").replace("xact", "transaction"): found[1]
                for name in CONTROLLED
                if (found := re.search(rf"^{name} setting:\s+(\d+)$", control, re.MULTILINE))
            },
            **recovery,
        }
        self.files["hba"].write_text("local all postgres peer\n")
        self.files["conf"].write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        self.files["log"].write_text("")
        try:
            self._control(
                "start", "-o", f"-c config_file={self.files['conf']}", "-l", str(self.files["log"]), "-t", str(PATIENCE)
            )
        except Failure:
            raise Failure(self.complaint()) from None

    def _control(self, *arguments: str) -> None:
        # Not through a pipe: the server would inherit it, and hold it open.
        with tempfile.TemporaryFile("w+") as said:
            command = [f"{self.binaries}/pg_ctl", "-D", str(self.directory), "-w", *arguments]
            if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/", check=False).returncode:
                said.seek(0)
                raise Failure(f"pg_ctl: {said.read().strip()}")

    def complaint(self) -> str:
        """The last thing that the server died of."""
        log = self.files["log"].read_text()
        found = re.findall(r"(?:FATAL|PANIC):\s+(.*)", log)
        reason = found[-1] if found else (log.strip().splitlines() or ["it said nothing"])[-1]
        if "before configured recovery target" in reason:
            reached = re.findall(r"last completed transaction was at log time (.*)", log)
            last = reached[-1] if reached else "none"
            reason = f"the archive ends before that moment (last transaction: {last}); WAL is missing, or try latest"
        return f"PostgreSQL could not replay the archive: {reason}"

    def wait(self, query: str) -> None:
        """Until the query says true; Failure if the server dies."""
        while True:
            with contextlib.suppress(Failure, DatabaseError):
                if self.ask(query):
                    return
            if not (self.directory / "postmaster.pid").exists():
                raise Failure(self.complaint())
            time.sleep(0.2)

    def ask(self, query: str) -> Any:
        with contextlib.closing(connect(self.conninfo)) as session:
            session.autocommit = True
            return rows(session, query)[0][0]

    def contents(self) -> dict[str, Any]:
        with contextlib.closing(connect(self.conninfo)) as session:
            return contents(session)

    def stop(self) -> None:
        if (self.directory / "postmaster.pid").exists():
            self._control("stop", "-m", "fast", "-t", "600")

    def discard(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        for path in self.files.values():
            path.unlink(missing_ok=True)


def moment(text: str) -> datetime | None:
    """A time with its zone, if the text is a time at all."""
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:
        return None
    if len(text) < 16:
        return None
    if time_.tzinfo is None:
        raise Failure(f"{text} has no time zone: say {text}+00:00 for UTC")
    if time_ > datetime.now(UTC):
        raise Failure(f"{text} is in the future")
    return time_


def chosen(made: list[Backup], to: str) -> Backup:
    """The backup from which ``to`` is reached soonest."""
    if not made:
        raise Failure("there is no backup")
    if to == "latest":
        return made[-1]
    if at := moment(to):
        earlier = [backup for backup in made if backup.at <= at]
        if not earlier:
            raise Failure(f"{to} is before the oldest moment that can be reached, {made[0].at.isoformat()}")
        return earlier[-1]
    named = [backup for backup in made if backup.label == to]
    if not named:
        raise Failure(f"there is no backup {to}: {', '.join(backup.label for backup in made)}, a time with its zone, or latest")
    return named[0]


def recover(into: Path, to: str, timeline: str, keep: bool) -> dict[str, Any]:
    """Restore beside whatever runs: compare at the backup's mark, go on to the moment that is wanted, stop (or ``keep`` it up).

    Returns what was found there. After a Failure nothing is left in ``into``.
    """
    host = described()
    made, stanza = backups()
    backup = chosen(made, to)
    instance = Instance(into, host["binaries"], host["database"])
    instance.discard()
    room(into.parent, backup.size, f"a restore of {backup.size >> 20} MiB")
    into.mkdir(mode=0o700)
    fetch = f'pgbackrest --stanza=image-editor --pg1-path={into} {" ".join(host["local"])} archive-get %f "%p"'
    try:
        pgbackrest(
            *(f"--pg1-path={into}", *host["local"], f"--set={backup.label}", f"--recovery-option=restore_command={fetch}"),
            "restore",
        )
        instance.start(recovery_target_name=backup.manifest["point"], recovery_target_action="pause")
        instance.wait("SELECT pg_get_wal_replay_pause_state() = 'paused'")
        refuse_differences(backup.manifest, instance.contents(), f"backup {backup.label}")
        if to == backup.label:
            instance.ask("SELECT pg_wal_replay_resume()::text")
        else:
            instance.stop()
            target = {"recovery_target_time": moment(to).isoformat(" ")} if to != "latest" else {}
            instance.start(recovery_target_action="promote", recovery_target_timeline=timeline, **target)
        instance.wait("SELECT NOT pg_is_in_recovery()")
        if to == "latest":
            refuse_gap(into, stanza)
        reached = instance.ask("SELECT pg_last_xact_replay_timestamp()::text")
        found = instance.contents()
        if not keep:
            instance.stop()
    except BaseException:
        instance.discard()
        raise
    recorded = {name: count for name, (count, _) in backup.manifest["tables"].items()}
    return {"backup": backup.label, "to": to, "reached": reached or backup.manifest["at"], "recorded": recorded, **found}


def refuse_gap(directory: Path, stanza: dict[str, Any]) -> None:
    """Replay without a target ends silently where a file is missing; so see that it got to the last one."""
    history = max((directory / "pg_wal").glob("*.history"), default=None)
    current = stanza["db"][-1]["id"]
    last = max((archive["max"] or "" for archive in stanza["archive"] if archive["database"]["id"] == current), default="")
    if history is None or not last:
        raise Failure("PostgreSQL did not say how far it replayed the archive")
    timeline, point, *_ = history.read_text().strip().splitlines()[-1].split()
    high, low = (int(part, 16) for part in point.split("/"))
    reached = ((high << 32) + low - 1) // SEGMENT
    wanted = int(last[8:16], 16) * (2**32 // SEGMENT) + int(last[16:24], 16)
    if int(last[:8], 16) <= int(timeline) and reached < wanted:
        raise Failure(f"WAL is missing: replay ended at {point}, but the archive has {last}")


def live_contents(host: dict[str, Any]) -> dict[str, Any] | None:
    """What the database that runs holds; None if there is none that answers."""
    try:
        with contextlib.closing(connect(host["live"])) as session:
            return contents(session)
    except Failure:
        return None


def refuse_schema(live: dict[str, Any] | None, found: dict[str, Any], migrate: bool) -> bool:
    """The release that is installed expects the schema that the live database has. True if the restored one is behind it."""
    if not live or not live["migrations"]:
        return False
    newer = sorted(set(found["migrations"]) - set(live["migrations"]))
    older = sorted(set(live["migrations"]) - set(found["migrations"]))
    if newer:
        raise Failure(
            f"the backup has a newer schema than the installed release: {', '.join(newer)}; nothing was changed. "
            f"Deploy the release of its time first (release_version, playbooks/site.yml)"
        )
    if older and not migrate:
        raise Failure(
            f"the installed release has a newer schema than the backup: {', '.join(older)}; nothing was changed. Deploy the "
            f"release of its time first, or let the restored database be migrated: -e restore_migrate=true"
        )
    return bool(older)


def restore_postgresql(to: str, timeline: str, migrate: bool) -> dict[str, Any]:
    """Put the database of a moment in the place of the one that runs. Nothing may write to it meanwhile. For root."""
    host = described()
    if re.fullmatch(DUMP, to):
        return restore_dump(host, to, migrate)
    place = Path(host["data"])
    into, before = place.with_name("main.restore"), place.with_name("main.before-restore")
    live = live_contents(host)
    if live:
        with contextlib.closing(connect(host["live"])) as session:
            # All of it into the archive. And replay to a moment stops at the first transaction after it: there has to be one.
            # A new, empty database on a rebuilt host is not the archive's, and has nothing to give it.
            if identifier(session) == backups()[1]["db"][-1]["system-id"]:
                rows(session, "SELECT pg_current_xact_id()")
                session.commit()
                archived(session)
    result = as_postgres("recover", "--into", into, "--to", to, "--timeline", timeline)
    instance = Instance(into, host["binaries"], host["database"])
    try:
        result["behind"] = refuse_schema(live, result, migrate)
        result["dump_before"] = as_postgres("dump", "--reason", "before-restore")["path"] if live else ""
    except Failure:
        instance.discard()
        raise
    if before.exists():  # while the database runs: whatever is in the way shows before anything is stopped
        shutil.rmtree(before)
    run("systemctl", "stop", host["unit"])
    if place.exists():
        place.rename(before)
    into.rename(place)
    try:
        run("systemctl", "start", host["unit"])
        _patient(lambda: live_contents(host), "the restored PostgreSQL does not answer")
        with contextlib.closing(connect(host["live"])) as session:
            session.autocommit = True
            rows(session, "ALTER SYSTEM RESET restore_command")
            refuse_differences(result, contents(session), "the database in its place")
            archived(session)
    except Failure as failure:
        run("systemctl", "stop", host["unit"])
        place.rename(into)
        if before.exists():
            before.rename(place)
            run("systemctl", "start", host["unit"])
        raise Failure(f"{failure}. The old state is back; what was restored is in {into}") from None
    for path in instance.files.values():
        path.unlink(missing_ok=True)
    return result | {"before": str(before)}


def as_postgres(*arguments: str | Path) -> dict[str, Any]:
    """A command of this program as the database's user; its result."""
    try:
        return json.loads(run(sys.executable, __file__, *arguments, user="postgres").splitlines()[-1])
    except Failure as failure:
        raise Failure(str(failure).partition("failed: ")[2] or str(failure)) from None


def _patient(condition: Any, otherwise: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Failure(otherwise)
        time.sleep(0.2)
    return value


# --- PostgreSQL: logical dumps -------------------------------------------------------------------------------------------

DUMP = r"[a-z][a-z0-9-]*-\d{8}T\d{6}Z"


def dump(reason: str) -> dict[str, Any]:
    """A logical copy, compared with the rows that it was made from: here for a quick way back, and in the store."""
    host = described()
    directory = STATE / "dumps"
    name = f"{reason}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if not re.fullmatch(DUMP, name):
        raise Failure(f"{reason} is no name for a dump: small letters, digits and hyphens")
    path = directory / f"{name}.dump"
    with locked("dumps"), contextlib.closing(connect(host["live"])) as session:
        session.set_session(isolation_level="REPEATABLE READ", readonly=True)
        ((size, snapshot),) = rows(session, "SELECT pg_database_size(current_database()), pg_export_snapshot()")
        room(directory, size, f"a dump of {size >> 20} MiB")
        part = path.with_suffix(".part")
        try:
            run(
                f"{host['binaries']}/pg_dump",
                *(f"--dbname={host['live']}", f"--snapshot={snapshot}", "--format=custom", "--lock-wait-timeout=30s"),
                f"--file={part}",
            )
            found = contents(session)
            counted = rows_in(host, part)
            wrong = [
                f"{name}: {n} rows, {counted.get(name, 'none')} in it"
                for name, (n, _) in found["tables"].items()
                if counted.get(name) != n
            ]
            if wrong:
                raise Failure("the dump does not hold what the database holds: " + "; ".join(wrong))
            (directory / f"{name}.json").write_text(json.dumps(found))
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        shipped = bool(host["store"])
        if shipped:
            prepare("dumps")
            restic("dumps", "backup", "--quiet", "--tag", name, path, path.with_suffix(".json"))
        for old in sorted(directory.glob("*.dump"), key=lambda file: file.stat().st_mtime)[: -host["dumps_kept"]]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)
    total = sum(n for n, _ in found["tables"].values())
    return {"name": name, "path": str(path), "shipped": shipped, "rows": total, "bytes": path.stat().st_size}


def rows_in(host: dict[str, Any], path: Path) -> dict[str, int]:
    """How many rows of each table are in a dump; reads all of it, as a restore would."""
    listed = run(f"{host['binaries']}/pg_restore", "--list", path)
    counted = dict.fromkeys(re.findall(r" TABLE DATA public (\S+) ", listed), 0)
    command = [f"{host['binaries']}/pg_restore", "--data-only", "--schema=public", "--file=-", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reading:
        table = ""
        for line in reading.stdout:
            if table and line == "\\.\n":
                table = ""
            elif table:
                counted[table] += 1
            elif started := re.match(r"COPY public\.(\S+) .*FROM stdin;$", line):
                table = started[1]
        complaint = reading.stderr.read().strip()
    if reading.returncode:
        raise Failure(f"pg_restore: {(complaint.splitlines() or ['it failed'])[-1]}")
    return counted


def restore_dump(host: dict[str, Any], name: str, migrate: bool, beside: bool = False) -> dict[str, Any]:
    """Load a dump into a database of its own, compare, and let it take the place of the live one unless ``beside``."""
    scratch = "restore_" + name.replace("-", "_").lower() if beside else f"{host['database']}_restore"
    with locked("dumps"), tempfile.TemporaryDirectory(dir=STATE / "dumps") as work:
        Path(work).chmod(0o755)
        path = STATE / "dumps" / f"{name}.dump"
        if not path.exists():
            fetch("dumps", name, Path(work))
            path = next(Path(work).rglob("*.dump"))
            run("chown", "-R", "postgres:", work)
        recorded = json.loads(path.with_suffix(".json").read_text())
        live = live_contents(host)
        behind = False if beside else refuse_schema(live, recorded, migrate)
        admin = host["live"].replace(f"dbname={host['database']}", "dbname=postgres")

        def sql(*statements: str) -> None:
            for statement in statements:
                run("psql", "-Xqd", admin, "-v", "ON_ERROR_STOP=1", "-c", statement, user="postgres")

        room(Path(host["data"]), 3 * path.stat().st_size, "a restore of the dump")
        sql(
            f"DROP DATABASE IF EXISTS {scratch}",
            f"CREATE DATABASE {scratch} OWNER {host['owner']} ENCODING 'UTF-8' TEMPLATE template0",
        )
        into = host["live"].replace(f"dbname={host['database']}", f"dbname={scratch}")
        try:
            run(f"{host['binaries']}/pg_restore", "--exit-on-error", f"--dbname={into}", path, user="postgres")
            with contextlib.closing(connect(into)) as session:
                refuse_differences(recorded, contents(session), f"dump {name}")
        except BaseException:
            sql(f"DROP DATABASE IF EXISTS {scratch} WITH (FORCE)")
            raise
        result = {
            "backup": name,
            "to": name,
            "reached": name[-16:],
            "recorded": {t: n for t, (n, _) in recorded["tables"].items()},
        }
        if beside:
            return result | recorded | {"database": scratch}
    result["dump_before"] = as_postgres("dump", "--reason", "before-restore")["path"] if live else ""
    with locked("dumps"):
        before = f"{host['database']}_before_restore"
        sql(
            f"DROP DATABASE IF EXISTS {before} WITH (FORCE)",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{host['database']}'",
            f"ALTER DATABASE {host['database']} RENAME TO {before}",
            f"ALTER DATABASE {scratch} RENAME TO {host['database']}",
            f"REVOKE ALL ON DATABASE {host['database']} FROM PUBLIC",
            *([f'GRANT CONNECT ON DATABASE {host["database"]} TO "{host["reader"]}"'] if host["reader"] else []),
        )
        return result | recorded | {"before": f"database {before}", "behind": behind}


# --- Redis, media and dumps: the store -----------------------------------------------------------------------------------


NO_REPOSITORY = 10  # restic's exit code


def restic(kind: str, *arguments: str | Path, local: str = "") -> str:
    """restic on this kind's repository, through the store's door (or, on its own host, straight)."""
    host = described()
    with tempfile.NamedTemporaryFile("w") as pair:  # it wants certificate and key in one file
        pair.write(Path(host["certificate"]).read_text() + Path(host["key"]).read_text())
        pair.flush()
        environment = os.environ | {
            "RESTIC_REPOSITORY": local or f"rest:{host['store']}/{kind}/",
            "RESTIC_PASSWORD_FILE": str(CONFIGURATION / f"{kind}.passphrase"),
            "RESTIC_CACHE_DIR": str(STATE / kind / "cache"),
        }
        own = (STATE / kind).exists() and (STATE / kind).stat().st_uid == os.geteuid()
        options = ["--cacert", host["ca"], "--tls-client-cert", pair.name, "--retry-lock", "2m", *([] if own else ["--no-cache"])]
        try:
            return run("restic", *options, *arguments, env=environment)
        except Failure as failure:
            if "(500)" not in str(failure):
                raise
            raise Failure(
                f"the store cannot take it: look at its disk, then at its journal (image-editor-backup-store); {failure}",
                failure.code,
            ) from None


def expire(kind: str, days: int) -> None:
    """Forget what is older. On the store's own host: through its door nothing can be removed."""
    if (store := os.environ.get("STORE")) and snapshots(kind):
        here = f"rclone:{store}/{kind}"
        restic(
            kind, "forget", "--quiet", "--group-by", "", "--keep-within", f"{days}d", "--keep-last", "3", "--prune", local=here
        )


def snapshots(kind: str) -> list[dict[str, Any]]:
    """Oldest first. None where the repository has not been made yet."""
    try:
        found = json.loads(restic(kind, "snapshots", "--json", "--no-lock") or "null") or []
    except Failure as failure:
        if failure.code != NO_REPOSITORY:
            raise
        return []
    return sorted(found, key=lambda snapshot: snapshot["time"])


def snapshot_for(kind: str, to: str) -> dict[str, Any]:
    """The newest at or before a moment; for dumps the one of that name."""
    found = snapshots(kind)
    if kind == "dumps":
        found = [snapshot for snapshot in found if to in snapshot.get("tags", [])]
    elif to != "latest":
        at = moment(to)
        found = [snapshot for snapshot in found if at and datetime.fromisoformat(snapshot["time"]) <= at]
    if not found:
        raise Failure(f"there is no backup of {kind} for {to}")
    return found[-1]


def tagged(snapshot: dict[str, Any], name: str) -> str:
    return next((tag.split("=", 1)[1] for tag in snapshot.get("tags", []) if tag.startswith(name + "=")), "")


def fetch(kind: str, to: str, into: Path, *options: str) -> dict[str, Any]:
    """Restore a snapshot below a directory and read it back to compare; its description."""
    snapshot = snapshot_for(kind, to)
    files, size = snapshot["summary"]["total_files_processed"], snapshot["summary"]["total_bytes_processed"]
    room(into, size, f"{files} files of {kind}")
    said = restic(kind, "restore", snapshot["id"], "--target", into, "--verify", "--json", *options).splitlines()
    summary = next(line for line in map(json.loads, reversed(said)) if line.get("message_type") == "summary")
    there = summary.get("files_restored", 0) + summary.get("files_skipped", 0)
    # It counts directories too; never fewer than the files that were backed up.
    if there < files:
        raise Failure(f"{there} of {files} files of {kind} came back")
    return snapshot


def back_up_redis() -> None:
    """What the primary holds, saved by it, checked, and copied."""
    began = time.time()
    with locked("redis"):
        if not is_redis_primary():
            return
        refuse_to_hide("redis")
        size = Path("/var/lib/redis/dump.rdb").stat().st_size if Path("/var/lib/redis/dump.rdb").exists() else 0
        room(STATE / "redis", 2 * size, "a copy of Redis's dump")
        run("image-editor-redis", "save")
        copy = STATE / "redis" / "dump.rdb"
        shutil.copyfile("/var/lib/redis/dump.rdb", copy)
        keys, digest = checked_rdb(copy)
        prepare("redis")
        restic("redis", "backup", "--quiet", "--tag", f"keys={keys},sha256={digest}", copy)
        succeeded("redis", began, copy.stat().st_size)
        say(f"ok redis: {keys} keys, {copy.stat().st_size >> 10} KiB, {time.time() - began:.1f} s")
        copy.unlink()


def is_redis_primary() -> bool:
    """Whether this host has what there is to save, or to restore; says who has it if not."""
    primary = json.loads(run("/bin/sh", "-c", "image-editor-redis status --json || :"))["primary"]
    me = json.loads(Path("/etc/redis/image-editor.json").read_text())["me"]
    if not primary:
        raise Failure("no node of Redis is primary: look at image-editor-redis status")
    if primary != me:
        say(f"nothing to do: {primary} is primary, not {me}")
    return primary == me


def checked_rdb(path: Path) -> tuple[int, str]:
    """How many keys a dump of Redis holds, and its SHA-256; Failure if it is damaged."""
    said = run("redis-check-rdb", path)
    found = re.search(r"(\d+) keys read", said)
    if not found or "RDB looks OK" not in said:
        raise Failure(f"redis-check-rdb: {path} is damaged")
    with path.open("rb") as stream:
        return int(found[1]), hashlib.file_digest(stream, "sha256").hexdigest()


def fetch_rdb(to: str, into: Path) -> tuple[dict[str, Any], Path, int]:
    """Restore a dump of Redis below a directory: its snapshot, the file, how many keys it holds. Failure if it is another."""
    snapshot = fetch("redis", to, into)
    copy = next(into.rglob("dump.rdb"))
    keys, digest = checked_rdb(copy)
    if (str(keys), digest) != (tagged(snapshot, "keys"), tagged(snapshot, "sha256")):
        raise Failure("the dump of Redis is not the one that was backed up")
    return snapshot, copy, keys


def prepare(kind: str) -> None:
    """Make the kind's repository where there is none."""
    try:
        restic(kind, "cat", "config", "--no-lock")
    except Failure as failure:
        if failure.code != NO_REPOSITORY:
            raise
        restic(kind, "init", "--quiet")


def back_up_media(host: dict[str, Any]) -> None:
    """Pictures: what is new since the last time."""
    began = time.time()
    with locked("media"):
        refuse_to_hide("media")
        prepare("media")
        restic("media", "backup", "--quiet", "--one-file-system", Path(host["media"]) / "files")
        made = snapshots("media")[-1]["summary"]
        succeeded("media", began, made["total_bytes_processed"])
        say(f"ok media: {made['total_files_processed']} files, {made['files_new']} new, {time.time() - began:.1f} s")


def restore_media(to: str) -> dict[str, Any]:
    """Bring back pictures that are missing or damaged; those that are newer than the backup stay. For root."""
    with locked("media"):
        snapshot = fetch("media", to, Path("/"))
    belongs("media", "here")
    summary = snapshot["summary"]
    return {"to": to, "snapshot": snapshot["short_id"], "reached": snapshot["time"], "files": summary["total_files_processed"]}


def restore_redis(to: str) -> dict[str, Any] | None:
    """Let the primary start from a backup; its replicas copy it. Sentinels must be stopped, and nobody may write. For root."""
    data = Path("/var/lib/redis")
    place, before = data / "appendonlydir", data / "appendonlydir.before-restore"
    if not is_redis_primary():
        return None
    with locked("redis"), tempfile.TemporaryDirectory(dir=data) as work:
        snapshot, copy, keys = fetch_rdb(to, Path(work))
        if before.exists():
            shutil.rmtree(before)
        run("systemctl", "stop", "redis-server")
        if place.exists():
            place.rename(before)
        place.mkdir(mode=0o750)
        shutil.copyfile(copy, place / "appendonly.aof.1.base.rdb")
        (place / "appendonly.aof.1.base.rdb").chmod(0o640)
        (place / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
        run("chown", "-R", "redis:redis", place)
        try:
            run("systemctl", "start", "redis-server")
            loaded = _patient(redis_loaded, "the restored Redis does not answer")
            if loaded != keys:
                raise Failure(f"Redis loaded {loaded} of {keys} keys")
        except Failure as failure:
            run("systemctl", "stop", "redis-server")
            shutil.rmtree(place)
            if before.exists():
                before.rename(place)
            run("systemctl", "start", "redis-server")
            raise Failure(f"{failure}. The old state is back") from None
    belongs("redis", "here")
    return {"to": to, "snapshot": snapshot["short_id"], "reached": snapshot["time"], "keys": keys}


def redis_loaded() -> int | None:
    """How many keys it read when it started, those that had expired included; None while it does not answer."""
    with contextlib.suppress(Failure):
        said = run("image-editor-redis-cli", "INFO", "persistence")
        found = re.findall(r"rdb_last_load_keys_(?:loaded|expired):(\d+)", said)
        return sum(map(int, found)) if "\nloading:0" in said and found else None
    return None


# --- proof ---------------------------------------------------------------------------------------------------------------


def verify(host: dict[str, Any]) -> None:
    """Restore the newest backup of everything into scratch places and compare. All are tried; one failure fails the run."""
    failed = []
    with locked("verify"):
        proofs = {"postgresql": verify_postgresql, "redis": verify_redis, "media": verify_media}
        for kind, proof in ((kind, proofs[kind]) for kind in host["kinds"]):
            began = time.time()
            try:
                proved = proof()
                record("verify", **{f"verified_timestamp_seconds__{kind}": time.time()})
                say(f"ok {kind}: {proved}, {time.time() - began:.1f} s")
            except Failure as failure:
                failed.append(kind)
                say(f"FAILED {kind}: {failure}")
    if failed:
        raise Failure(f"not verified: {', '.join(failed)}")


def verify_postgresql() -> str:
    into = STATE / "verify" / "postgresql"
    result = recover(into, "latest", "latest", keep=False)
    host = described()
    Instance(into, host["binaries"], host["database"]).discard()
    total = sum(count for count, _ in result["tables"].values())
    return f"{result['backup']} is what was recorded, and the archive goes on to {result['reached']} with {total} rows"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=STATE / "verify") as work:
        yield Path(work)


def verify_redis() -> str:
    with scratch() as work:
        snapshot, _, keys = fetch_rdb("latest", work)
    return f"{snapshot['short_id']} holds {keys} keys, as recorded"


def verify_media() -> str:
    """A seventh of all stored bytes is read back every day, and the newest backup restored where there is room for it."""
    restic("media", "check", "--quiet", "--read-data-subset", f"{datetime.now(UTC).isoweekday()}/7")
    newest = snapshot_for("media", "latest")
    files, size = newest["summary"]["total_files_processed"], newest["summary"]["total_bytes_processed"]
    if shutil.disk_usage(STATE / "verify").free < 2 * size:
        return f"{newest['short_id']}: {files} files, complete; too large to be restored here, a seventh of the store was read"
    with scratch() as work:
        fetch("media", "latest", work)
        there = sum(path.is_file() for path in work.rglob("*"))
        if there != files:
            raise Failure(f"{there} of {files} files came back")
    return f"{files} files came back as they were"


# --- for operators -------------------------------------------------------------------------------------------------------


def status(host: dict[str, Any], as_json: bool) -> None:
    """What is there, how old, last verified. The store's host knows of everything, the others of what they made."""
    samples: dict[str, dict[str, float]] = {}
    for path in STATE.glob("*/metrics.prom"):
        for metric, kind, value in re.findall(
            r'^image_editor_backup_(\w+)\{kind="(\w+)"\} (\S+)$', path.read_text(), re.MULTILINE
        ):
            samples.setdefault(kind, {})[metric] = float(value)
    there: dict[str, Any] = {}
    if host["repository"]:
        made, _ = backups()
        there["postgresql"] = [{"name": one.label, "at": one.at.isoformat(), "bytes": one.stored} for one in made]
        for kind in ("redis", "media", "dumps"):
            there[kind] = [
                {
                    "name": next(iter(one.get("tags", [])), "") if kind == "dumps" else one["short_id"],
                    "at": one["time"],
                    "bytes": one["summary"]["total_bytes_processed"],
                }
                for one in snapshots(kind)
            ]
    if as_json:
        say(json.dumps({"metrics": samples, "backups": there}))
        return
    now = time.time()
    for kind in KINDS:
        known = samples.get(kind, {})
        if at := known.get("last_success_timestamp_seconds"):
            took, size = known["duration_seconds"], known["size_bytes"]
            say(f"{kind:10} backed up {age(now - at)} ago, took {took:.1f} s, {size / 2**20:.1f} MiB")
        if at := known.get("verified_timestamp_seconds"):
            say(f"{kind:10} verified {age(now - at)} ago")
    for kind, entries in there.items():
        for entry in entries:
            old = now - datetime.fromisoformat(entry["at"]).timestamp()
            say(f"{kind:10} {entry['name']:34} {entry['at'][:19]}Z {age(old):>8} old {entry['bytes'] / 2**20:9.1f} MiB")
    if not there and not samples:
        say("nothing was backed up on this host yet")


def age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="image-editor-backup", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    add["status"].add_argument("--json", action="store_true")
    add["postgresql"].add_argument("--type", choices=("full", "diff"), default="")
    add["dump"].add_argument("--reason", default="manual")
    add["stanza"].add_argument("--adopt", action="store_true")
    add["run"].add_argument("kind", choices=(*KINDS, "verify"))
    add["new"].add_argument("kind", choices=KINDS)
    add["adopt"].add_argument("kind", choices=("redis", "media"))
    add["recover"].add_argument("--into", type=Path, required=True)
    add["recover"].add_argument("--keep", action="store_true", help="leave the instance running")
    for name in ("recover", "restore-postgresql", "restore-redis", "restore-media", "load-dump"):
        add[name].add_argument("--to", default="latest", help="latest, a time with its zone, or the name of a backup")
    for name in ("recover", "restore-postgresql"):
        add[name].add_argument("--timeline", default="latest", help="of PostgreSQL; of use after an earlier restore")
    add["restore-postgresql"].add_argument("--migrate", action="store_true")
    return parser.parse_args()


COMMANDS = {
    "status": "what is there, how old, last verified",
    "run": "back one kind up, or verify, now: what its timer does",
    "adopt": "back this host's up although the store has those of a host before it",
    "stanza": "for the role: make PostgreSQL's repository",
    "new": "for the role: the first backup of a kind, unless the store has those of a host before this one",
    "postgresql": "back the database up (its unit does; on the store's host)",
    "redis": "back Redis up (its unit does; on the primary's host)",
    "media": "back the pictures up (its unit does; on their host)",
    "dump": "a logical copy of the database (on its host, as postgres)",
    "verify": "restore the newest backups into scratch places and compare (its unit does; on the store's host)",
    "recover": "restore the database into a directory, beside whatever runs (as postgres)",
    "discard": "remove the instance that was restored beside (on the store's host, as postgres)",
    "load-dump": "load a dump into a database of its own, beside the live one (on the database's host)",
    "restore-postgresql": "for playbooks/restore.yml: into place",
    "restore-redis": "for playbooks/restore.yml: into place",
    "restore-media": "for playbooks/restore.yml: into place",
}


def main() -> None:
    asked, host = arguments(), described()
    os.umask(0o077)
    if asked.command == "status":
        status(host, asked.json)
    elif asked.command == "run":
        run_unit(asked.kind)
    elif asked.command == "new":
        new(asked.kind)
    elif asked.command == "adopt":
        belongs(asked.kind, "here")
    elif asked.command == "stanza":
        say(stanza(host, asked.adopt))
    elif asked.command == "postgresql":
        back_up_postgresql(host, asked.type)
    elif asked.command == "redis":
        back_up_redis()
    elif asked.command == "media":
        back_up_media(host)
    elif asked.command == "verify":
        verify(host)
    elif asked.command == "discard":
        Instance(STATE / "inspect" / "postgresql", host["binaries"], host["database"]).discard()
    else:
        results = {
            "dump": lambda: dump(asked.reason),
            "recover": lambda: recover(asked.into, asked.to, asked.timeline, asked.keep),
            "load-dump": lambda: restore_dump(host, asked.to, migrate=True, beside=True),
            "restore-postgresql": lambda: restore_postgresql(asked.to, asked.timeline, asked.migrate),
            "restore-redis": lambda: restore_redis(asked.to),
            "restore-media": lambda: restore_media(asked.to),
        }
        if result := results[asked.command]():
            say(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except PermissionError as error:
        sys.exit(f"failed: {error}; run it as root, or as the user that the help names")
    except (Failure, OSError, DatabaseError) as failure:
        sys.exit(f"failed: {' '.join(str(failure).split())}")
