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
    ("prometheus-alertmanager", "Notify for alerts failed", "the receiver of a test has gone"),
    ("celery", "Failed to capture events", "Flower's connection to Redis was lost with the primary"),
    ("etcd", "Failed to decode request: http: invalid Read on closed Body", "a peer has stopped in the middle of a request"),
    ("patroni", r"machines|Request to server|watchprefix|Traceback|ERROR:$", "a test has stopped members of etcd"),
    ("patroni", "unable to find a valid repository|another pgBackRest process running", "the store is away, and WAL waits"),
)


def unknown(lines: Iterable[str]) -> list[str]:
    """The lines that are faults, and not known. A line is `program[pid]: text`, or `program: text`."""
    found = []
    for line in lines:
        program, _, text = line.partition(": ")
        name = program.partition("[")[0]
        if re.search(FAULT, text) and not any(re.fullmatch(known, name) and re.search(what, text) for known, what, _ in KNOWN):
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
        found += [f"{name.removeprefix(f'{lab}-')} {told[line]} {line}" for line in unknown(told)]
    return found
