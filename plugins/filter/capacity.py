"""Filters that compute what the services of the inventory need together: database connections and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Connections of the scheduler, the collector, the exporter, backups and operators' commands, and three for the superuser.
OTHER_CONNECTIONS = 20
EDIT_MIB = 400  # of an edit at most: role celery computes the limits of its units from the same number
QUEUES_WITHOUT_IMAGES = {"callback", "maintenance"}


def host_connections(
    groups: Iterable[str],
    processors: int,
    workers: Iterable[Mapping[str, Any]],
    concurrency: Mapping[str, Any],
    web_workers: int | None = None,
    web_threads: int | None = None,
) -> int:
    """Return how many database connections the web and worker processes of a host may hold.

    A process of the API holds one for each thread and one for the checks behind ``/readyz``. A process of a worker holds one.
    ``concurrency``: processes of a worker by its name, instead of the number in ``workers``. Without ``web_workers`` and
    ``web_threads``, they are the defaults of role ``web``.

    >>> host_connections(["web", "worker"], 4, [{"name": "edit", "concurrency": 4}, {"name": "batch", "concurrency": 1}], {})
    29
    """
    groups = set(groups)
    web = int(web_workers or 2 * processors) * (int(web_threads or 2) + 1)
    return ("web" in groups) * web + ("worker" in groups) * _processes(workers, concurrency)


def workers_mib(workers: Iterable[Mapping[str, Any]], concurrency: Mapping[str, Any]) -> int:
    """Return how many MiB the processes of the workers take if all of them edit at once. Some workers open no images.

    ``concurrency``: as above.

    >>> workers_mib([{"name": "edit", "queues": ["edit"], "concurrency": 4}], {"edit": 2})
    800
    """
    editing = [entry for entry in workers if not QUEUES_WITHOUT_IMAGES.issuperset(entry["queues"])]
    return EDIT_MIB * _processes(editing, concurrency)


def _processes(workers: Iterable[Mapping[str, Any]], concurrency: Mapping[str, Any]) -> int:
    return sum(int(concurrency.get(entry["name"], entry["concurrency"])) for entry in workers)


def connections_needed(hosts: Iterable[int | None]) -> int:
    """Return how many connections PostgreSQL must accept. ``hosts``: those of each host; None if a host's facts are not known.

    A host without facts counts as much as the largest host, so the number stays the same while a host is away. The largest host
    counts twice, because a restart starts new processes beside the old ones.

    >>> connections_needed([10, 30, None])
    120
    """
    numbers = list(hosts)
    largest = max((number for number in numbers if number is not None), default=0)
    return sum(largest if number is None else number for number in numbers) + largest + OTHER_CONNECTIONS


def memory_exceeded(services: Mapping[str, Any], total: int) -> str:
    """Return the MiB that each service of a host takes, as a text, if that is more than the host has; else an empty string.

    >>> memory_exceeded({"PostgreSQL": 4096, "Redis": 2048, "Prometheus": 0}, 4096)
    'PostgreSQL 4096, Redis 2048'
    """
    taken = {name: int(mib) for name, mib in services.items() if int(mib)}
    return ", ".join(f"{name} {mib}" for name, mib in taken.items()) if sum(taken.values()) > int(total) else ""


class FilterModule:
    """What Ansible loads from this file."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "connections_needed": connections_needed,
            "host_connections": host_connections,
            "memory_exceeded": memory_exceeded,
            "workers_mib": workers_mib,
        }
