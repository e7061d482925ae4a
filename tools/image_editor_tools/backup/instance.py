"""A PostgreSQL server on a restored directory, beside whatever else runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from image_editor_tools.backup.database import contents_of
from image_editor_tools.backup.host import Host
from image_editor_tools.database import session, value
from image_editor_tools.errors import Failure
from image_editor_tools.shell import run

# Settings that must not be lower than on the server that was backed up. pg_controldata has the values.
CONTROLLED = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}
REPLAY_PATIENCE = 24 * 3600  # seconds
STOP_PATIENCE = 600  # seconds


def controlled_settings(control: str) -> dict[str, str]:
    """The settings that the output of pg_controldata demands."""
    return {
        setting: found[1]
        for name, setting in CONTROLLED.items()
        if (found := re.search(rf"^{name} setting:\s+(\d+)$", control, re.MULTILINE))
    }


def reason_of_death(log: str) -> str:
    """Why a server ended, from its log."""
    # A client that connects too early is refused with "the database system is starting up" or "… in recovery mode".
    found = re.findall(r"(?:FATAL|PANIC):\s+(?!the database system is )(\S.*)", log)
    reason = found[-1] if found else (log.strip().splitlines() or ["its log is empty"])[-1]
    if "before configured recovery target" in reason:
        reached = re.findall(r"last completed transaction was at log time (.*)", log)
        last = reached[-1] if reached else "none"
        reason = f"the archive ends before that moment (last transaction: {last}); WAL is missing, or try latest"
    return f"PostgreSQL could not replay the archive: {reason}"


class Instance:
    """PostgreSQL on a restored data directory. Only its own system user can connect, and it archives nothing."""

    def __init__(self, directory: Path, host: Host) -> None:
        self.directory, self.binaries = directory, host.postgresql_binaries
        self.conninfo = f"host={directory} port=5432 user=postgres dbname={host.database}"
        self.files = {end: directory.with_name(f"{directory.name}.{end}") for end in ("conf", "hba", "log")}

    def start(self, **recovery: str) -> None:
        """Start the server with these recovery settings, and wait until it takes connections."""
        settings = {
            "data_directory": self.directory,
            "hba_file": self.files["hba"],
            "listen_addresses": "",
            "unix_socket_directories": self.directory,
            "shared_buffers": "64MB",
            # New WAL is kept as "not archived yet". The archive gets it when the directory is in the live server's place.
            "archive_mode": "on",
            "archive_command": "",
            "hot_standby": "on",
            "lc_messages": "C",
            **controlled_settings(run(f"{self.binaries}/pg_controldata", self.directory)),
            **recovery,
        }
        self.files["hba"].write_text("local all postgres peer\n")
        self.files["conf"].write_text("".join(f"{name} = '{setting}'\n" for name, setting in settings.items()))
        self.files["log"].write_text("")
        try:
            self._pg_ctl(
                *("start", "-o", f"-c config_file={self.files['conf']}", "-l", str(self.files["log"]), "-t", str(REPLAY_PATIENCE))
            )
        except Failure:
            raise Failure(reason_of_death(self.files["log"].read_text())) from None

    def _pg_ctl(self, *arguments: str) -> None:
        # Output goes to a file, not to a pipe: the server would inherit the pipe and hold it open.
        with tempfile.TemporaryFile("w+") as output:
            command = [f"{self.binaries}/pg_ctl", "-D", str(self.directory), "-w", *arguments]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False)
            if done.returncode:
                output.seek(0)
                raise Failure(f"pg_ctl: {output.read().strip()}")

    @property
    def _runs(self) -> bool:
        return (self.directory / "postmaster.pid").exists()

    def wait(self, query: str) -> None:
        """Wait until a query answers true. Fails if the server ends. There is no deadline: a replay may take hours."""
        while True:
            try:
                if self.ask(query):
                    return
            except Failure:
                pass  # it does not take connections yet, or no more
            if not self._runs:
                raise Failure(reason_of_death(self.files["log"].read_text()))
            time.sleep(0.2)

    def ask(self, query: str) -> Any:
        """The one value that a query returns."""
        with session(self.conninfo, autocommit=True) as connection:
            return value(connection, query)

    def contents(self) -> dict[str, Any]:
        """What the database holds."""
        return contents_of(self.conninfo)

    def stop(self) -> None:
        """Stop the server if it runs."""
        if self._runs:
            self._pg_ctl("stop", "-m", "fast", "-t", str(STOP_PATIENCE))

    def remove_files(self) -> None:
        """Remove the files beside the data directory."""
        for path in self.files.values():
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.remove_files()
