"""Decisions of roles release and rolling_release that depend on the releases of the hosts.

A status is what ``image-editor-release status --json`` prints on one host; it is empty where nothing is installed yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MIB = 1024 * 1024
UNPACKED = 1.4  # the archive and what is unpacked from it, as a multiple of the release's size


def release_left(status: Mapping[str, Any], target: str) -> str:
    """The release that this run leaves on a host; empty on a fresh host.

    An interrupted run may have switched the host to ``target`` already. Then this run leaves the host's previous release.
    If ``target`` is proven, a release to ``target`` has ended well, and nothing is left to do.
    """
    if not status:
        return ""
    if status["current"] != target or status["proven"] == target:
        return status["current"]
    return status["previous"]


def release_currents(statuses: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every release that is current on some host."""
    return sorted({status["current"] for status in statuses if status and status["current"]})


def release_rollback_target(statuses: Iterable[Mapping[str, Any]]) -> str:
    """The release that a rollback goes to if the operator names none; empty if no host has a previous one.

    Hosts that an interrupted release left with two current releases go to the older one, which is the previous release
    of the others. If there are several such releases, they are joined by ``or``. The rollback then refuses: no host
    has a release of that name.
    """
    statuses = [status for status in statuses if status]
    currents = set(release_currents(statuses))
    previous = {status["previous"] for status in statuses if status["previous"]}
    found = previous & currents if len(currents) > 1 else (previous - currents or currents)
    return " or ".join(sorted(found))


def release_rolled_back(statuses: Iterable[Mapping[str, Any]], target: str) -> list[str]:
    """The releases that a rollback to ``target`` leaves: current or proven on some host."""
    return sorted({status[name] for status in statuses if status for name in ("current", "proven")} - {target, ""})


def release_turns(hosts: Iterable[str], serial: object, first: int | str = 0) -> list[list[str]]:
    """The hosts that switch together, turn after turn, as Ansible's ``serial`` forms batches.

    ``serial`` is a number of hosts, a percentage of them, or a list of these, whose last entry repeats. ``first``: only so
    many of the hosts, or 0 for all.
    """
    left = list(hosts)[: int(first) or None]
    total, turns = len(left), []
    sizes = [str(size) for size in (serial if isinstance(serial, list) else [serial])]
    while left:
        size = sizes[min(len(turns), len(sizes) - 1)]
        number = max(total * int(size[:-1]) // 100 if size.endswith("%") else int(size), 1)
        turns.append(left[:number])
        left = left[number:]
    return turns


def release_bytes_needed(manifest: Mapping[str, Any], reserve_mib: int | str, expected_mib: int | str) -> int:
    """Bytes that a host must have free for a release. ``expected_mib`` is the size of a release that is not built yet."""
    size = int(manifest["bytes"] * UNPACKED) if manifest else int(expected_mib) * MIB
    return size + int(reserve_mib) * MIB


def release_unconfirmed(pending: Mapping[str, list[str]], confirmed: str | list[str]) -> list[str]:
    """Pending migrations that the previous release cannot work with, without those that the operator has confirmed."""
    given = ",".join(confirmed if isinstance(confirmed, list) else [confirmed]).split(",")
    return [name for name, reasons in pending.items() if reasons and name not in {text.strip() for text in given}]


def release_failure_reason(result: Mapping[str, Any]) -> str:
    """The error text of a failed task. For a loop, the error text of the first item that failed."""
    failed = next((item for item in result.get("results", []) if item.get("failed")), result)
    return (failed.get("stderr") or "").strip() or failed.get("msg") or "no reason given"


def environment_value(value: object) -> str:
    """A setting as systemd reads it between double quotes: lists joined by commas, booleans in lower case."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, (list, tuple)):
        text = ",".join(str(item) for item in value)
    else:
        text = str(value)
    return text.replace("\\", "\\\\").replace('"', '\\"')


class FilterModule:
    """Filters of roles release and rolling_release."""

    def filters(self) -> dict[str, object]:
        """Return each filter under its name."""
        return {
            "environment_value": environment_value,
            "release_bytes_needed": release_bytes_needed,
            "release_currents": release_currents,
            "release_failure_reason": release_failure_reason,
            "release_left": release_left,
            "release_rollback_target": release_rollback_target,
            "release_rolled_back": release_rolled_back,
            "release_turns": release_turns,
            "release_unconfirmed": release_unconfirmed,
        }
