"""Samples, once a second, of the database's connections and of Redis's memory. As root, on their hosts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from image_editor_tools.database import session, value
from image_editor_tools.errors import Failure
from image_editor_tools.shell import run

REDIS_CLI = Path("/usr/local/sbin/image-editor-redis-cli")
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = %s"


def sample(seconds: int, database: str = "", redis: bool = False) -> dict[str, list[int]]:
    """Sample the database's connections, Redis's memory, or both at the same time."""
    with ThreadPoolExecutor() as pool:
        asked = {}
        if database:
            asked["connections"] = pool.submit(connections, seconds, database)
        if redis:
            asked["redis_memory"] = pool.submit(redis_memory, seconds)
        return {name: future.result() for name, future in asked.items()}


def connections(seconds: int, database: str) -> list[int]:
    """The number of client sessions of a database. Our own session is in another database and is not counted."""
    found = []
    with session("dbname=postgres user=postgres", autocommit=True) as connection:
        started = time.monotonic()
        for number in range(seconds):
            time.sleep(max(0.0, started + number - time.monotonic()))
            found.append(value(connection, CONNECTIONS, database))
    return found


def redis_memory(seconds: int) -> list[int]:
    """The memory of this host's Redis node, in bytes, while it is primary. Empty if the node does not run."""
    if not REDIS_CLI.exists():
        return []
    try:
        return primary_memory(run(REDIS_CLI, "-r", str(seconds), "-i", "1", "INFO", "memory", "replication"))
    except Failure:
        return []


def primary_memory(info: str) -> list[int]:
    """The memory that was used while the node was primary, from the answers to INFO. A replica holds the same data once more.

    The replication backlog is left out. It fills up to its size with whatever is written, so it tells how long a set has run.
    """
    found: list[int] = []
    fields = {"used_memory": 0, "mem_replication_backlog": 0}
    for line in info.split():
        name, _, text = line.partition(":")
        if name in fields:
            fields[name] = int(text)
        elif line == "role:master":
            found.append(fields["used_memory"] - fields["mem_replication_backlog"])
    return found
