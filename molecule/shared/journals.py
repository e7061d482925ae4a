"""What the hosts of a scenario have logged that looks like a fault, and that no test expects."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable

# Python's traceback, and how programs write an error: in capitals, as JSON, or as logfmt.
FAULT = r'Traceback \(most recent call last\)|\b(ERROR|CRITICAL|PANIC)\b|"level": ?"(error|critical)"|\blevel=(error|fatal)\b'
# Faults that tests cause or that are harmless: program, text, and why.
KNOWN = (
    ("ansible-.*", "", "Ansible logs the arguments of its modules"),
    ("prometheus-node-exporter", "disabling udev device properties", "containers have no udev"),
    ("prometheus-(redis|postgres|nginx)-exporter", "", "a test has stopped what the exporter asks"),
    ("prometheus", "component=notifier.*Error sending alert", "a test has stopped an Alertmanager"),
    ("prometheus", "no space left on device", "a test has filled its disk"),
    ("prometheus-alertmanager", "Notify for alerts failed", "the receiver of a test has gone"),
    ("etcd", "Failed to (decode request|flush response|send request)", "a peer has stopped in the middle of a request"),
    (
        "patroni",
        r"machines|Request to server|watchprefix|KVCache.run|Traceback|refresh_lease|leader lock|working with leader|ERROR:$",
        "a test has stopped members of etcd, or the primary",
    ),
    ("patroni", "communicating with DCS|request failed|database space exceeded", "a test has stopped or filled etcd"),
    (
        "patroni",
        r"unable to find a valid repository|another pgBackRest|pg1-path|\[104\]: archive-push command encountered error",
        "the store is away or not yet there; WAL waits",
    ),
    ("patroni", "replication slot .* does not exist|starting point .* is not in this server's history", "a replica tries again"),
    # A thread of Patroni may have the number that is in postmaster.pid since before the loss. Patroni lets PostgreSQL ignore it.
    ("patroni", "replication slot .* is active for PID", "a node streams again while Patroni moves its slot"),
    ("patroni", "Crash recovery finished with code=1", "after a loss of power Patroni starts PostgreSQL without it"),
    ("patroni", 'prometheus@postgres .* database "rehearsal" does not exist', "a test has dropped the database"),
    ("patroni", "Can not fetch local timeline and lsn", "a test has stopped PostgreSQL while Patroni asks it"),
    # For Patroni, the node with the lock is the primary. PostgreSQL takes writes later, and the application repeats them.
    ("patroni", "cannot execute (INSERT|UPDATE) in a read-only", "a test has taken the primary away, or asks every node"),
    ("pgbackrest", r"\[101\]: TLS error", "a test has taken a client of the store away"),
    ("rclone", "refusing to overwrite in append-only mode", "a test tries to overwrite a backup"),
    ("image-editor-backup", "FAILED postgresql: pgbackrest: ERROR: .*raised from", "a test has taken the store away"),
    ("gunicorn", "Service Unavailable: /|PostgreSQL does not answer", "a test has stopped what the application needs"),
    ("gunicorn", "was sent SIGKILL", "a test has killed it"),
    ("celery", "Failed to capture events|Cannot connect to redis|Broker connection error", "a test has stopped Redis"),
    ("celery", "network:(Timeout|Connection)Error|Connection to Redis lost", "a test has taken the host of Redis away"),
    ("celery", "WorkerLostError", "a test has killed a process of the pool"),
)

# Releases that are broken in other ways: each answer is a 500, or no worker starts.
RELEASES_OF_THE_SOAK = (("gunicorn", "Error handling request", "a broken release"), ("celery", "Traceback", "a broken release"))
# The same, in one scenario.
KNOWN_IN = {
    "proxy": (("stand_in", "Traceback", "a client of a test has gone"),),
    "single_host": (("celery", 'relation ."edit." does not exist', "a test has dropped the table"),),
    "rolling_release": (
        ("gunicorn", "Exception in worker process|Traceback|failed to boot|exited with code 3|Shutting down", "a broken release"),
        *(RELEASES_OF_THE_SOAK if "SOAK" in os.environ else ()),
        (
            "celery",
            r"Received unregistered task of type 'image_editor\.tasks\.(heal|sweep)'",
            "an earlier release lacks it",
        ),
    ),
}


def unknown(lines: Iterable[str], scenario: str = "") -> list[str]:
    """The lines that are faults, and not known. A line is `program[pid]: text`, or `program: text`."""
    found = []
    all_known = (*KNOWN, *KNOWN_IN.get(scenario, ()))
    for line in lines:
        program, _, text = line.partition(": ")
        name = program.partition("[")[0]
        if re.search(FAULT, text) and not any(
            re.fullmatch(known, name) and re.search(what, text) for known, what, _ in all_known
        ):
            found.append(line)
    return found


def faults() -> list[str]:
    """The unknown faults of all hosts of the scenario that runs now, each with its host and its time."""
    lab = os.environ["LAB_NAME"]
    ask = ["docker", "ps", "--format", "{{.Names}}", "--filter", f"label=image-editor-lab={lab}"]
    found = []
    for name in subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split():
        read = f"journalctl -q -o short-iso --no-hostname | grep -E '{FAULT}'"
        lines = subprocess.run(["docker", "exec", name, "sh", "-c", read], capture_output=True, text=True, check=False).stdout
        told = dict(line.split(" ", 1)[::-1] for line in lines.splitlines() if " " in line)  # the last time of each line
        found += [
            f"{name.removeprefix(f'{lab}-')} {told[line]} {line}" for line in unknown(told, os.environ["MOLECULE_SCENARIO_NAME"])
        ]
    return found
