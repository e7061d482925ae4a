"""HAProxy's sockets, and what its statistics say about the nodes of Redis and PostgreSQL."""

from __future__ import annotations

import csv
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from image_editor_tools.errors import Failure

SOCKET = Path("/run/haproxy/admin.sock")
MASTER = Path("/run/haproxy/master.sock")  # of the process that reads the configuration and starts those that serve
TIMEOUT = 5.0  # seconds for one answer
RELOAD = 60.0  # seconds for a reload
REDIS = "redis"
BACKENDS = (REDIS, "postgresql")  # each `listen` of roles/proxy/templates/haproxy.cfg.j2
NOT_NODES = ("FRONTEND", "BACKEND", "nobody")


@dataclass(frozen=True)
class Node:
    """A node as HAProxy's last health check found it."""

    name: str
    is_primary: bool
    check: str  # what the last health check found, in HAProxy's words


def ask(command: str, path: Path | None = None, seconds: float = TIMEOUT) -> str:
    """Return HAProxy's answer to a command. Raises Failure if HAProxy does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path or SOCKET))
            connection.sendall(f"{command}\n".encode())
            connection.shutdown(socket.SHUT_WR)  # otherwise the master waits for another command
            with connection.makefile() as answer:
                return answer.read().strip()
    except PermissionError:
        raise
    except OSError as error:
        raise Failure(f"HAProxy does not answer: {error}") from error


def reload() -> None:
    """Have HAProxy read its configuration, certificates and CA again. Raises Failure; the former process then goes on."""
    answer = ask("reload", MASTER, RELOAD)
    if not answer.startswith("Success=1"):
        raise Failure(f"HAProxy goes on with its former configuration: {answer}")


def statistics_of_new_process() -> str:
    """The answer to ``show stat`` of the process that serves new clients. For a moment, SOCKET may lead to the former one."""
    return ask("@1 show stat", MASTER)


def nodes(statistics: str, backend: str) -> list[Node]:
    """Read the nodes of a backend from the answer to ``show stat``. None if the proxy does not lead there."""
    rows = csv.DictReader(statistics.removeprefix("# ").splitlines())
    return [_node(row) for row in rows if row["pxname"] == backend and row["svname"] not in NOT_NODES]


def backends(statistics: str) -> dict[str, list[Node]]:
    """The nodes of every backend to which this proxy leads, from the answer to ``show stat``."""
    return {backend: found for backend in BACKENDS if (found := nodes(statistics, backend))}


def _node(row: dict[str, str]) -> Node:
    # While a check runs, HAProxy puts "* " before the result of the check before it. A node counts as up until its first check,
    # so "UP" alone says nothing. L4OK: the check of a single PostgreSQL node only connects.
    passed = row["check_status"].removeprefix("* ").startswith(("L7OK", "L4OK"))
    return Node(
        name=row["svname"],
        is_primary=row["status"].startswith("UP") and passed,
        check=f"{row['status']}, {row['check_status']}: {row['last_chk'] or row['check_desc']}",
    )


def primary(found: Iterable[Node]) -> str:
    """The node that clients are led to; empty if there is none, or more than one."""
    names = [node.name for node in found if node.is_primary]
    return names[0] if len(names) == 1 else ""
