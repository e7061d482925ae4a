"""A filter that finds the ports of a host that another program has taken. Role preflight uses it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def ports_taken(listening: Iterable[str], listeners: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one sentence for each port that a program other than the platform's listens on.

    ``listening``: lines of ``ss --no-header --listening --tcp --numeric --processes``. ``listeners``: the ports that the host
    will serve, each with its ``process``. Each of these processes may listen on each port, because an earlier version of the
    platform may have given the port to another one. systemd may hold any port for its service.

    >>> ports_taken(['LISTEN 0 511 0.0.0.0:443 0.0.0.0:* users:(("apache2",pid=7,fd=4))'], [{"port": 443, "process": "nginx"}])
    ['Port 443 is needed for nginx but taken by apache2.']
    """
    lines, wanted = list(listening), list(listeners)
    ours = {"systemd", *(listener["process"] for listener in wanted)}
    sentences = []
    for listener in wanted:
        on_port = [line for line in lines if re.search(rf":{listener['port']}\s", line)]
        foreign = [line for line in on_port if ours.isdisjoint(re.findall(r'\("([^"]+)"', line))]
        if foreign:
            programs = {name for line in foreign for name in re.findall(r'\("([^"]+)"', line)} or {"an unknown program"}
            taken_by = ", ".join(sorted(programs))
            sentences.append(f"Port {listener['port']} is needed for {listener['process']} but taken by {taken_by}.")
    return sentences


class FilterModule:
    """What Ansible loads from this file."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by its name."""
        return {"ports_taken": ports_taken}
