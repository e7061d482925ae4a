"""The report for operators: which backups there are, how old they are, and when they were last verified."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from image_editor_tools.backup import metrics, restic
from image_editor_tools.backup.host import KINDS, Host
from image_editor_tools.backup.moments import age
from image_editor_tools.backup.pgbackrest import Backup, backups

Entry = dict[str, Any]  # name, at, bytes


def entry_of_backup(backup: Backup) -> Entry:
    """A backup of the database as the report shows it."""
    return {"name": backup.label, "at": backup.at.isoformat(), "bytes": backup.stored}


def entry_of_snapshot(kind: str, snapshot: restic.Snapshot) -> Entry:
    """A snapshot as the report shows it. A dump has a name of its own."""
    name = next(iter(snapshot.get("tags", [])), "") if kind == "dumps" else snapshot["short_id"]
    return {"name": name, "at": snapshot["time"], "bytes": snapshot["summary"]["total_bytes_processed"]}


def stored(host: Host) -> dict[str, list[Entry]]:
    """All backups, on the host that keeps them. Other hosts cannot list them."""
    if not host.repository:
        return {}
    found = {"postgresql": [entry_of_backup(backup) for backup in backups()]}
    for kind in ("redis", "media", "dumps"):
        found[kind] = [entry_of_snapshot(kind, snapshot) for snapshot in restic.snapshots(host, kind)]
    return found


def status(host: Host) -> dict[str, Any]:
    """The report: this host's metrics, and the backups in the store."""
    return {"metrics": metrics.by_kind(), "backups": stored(host)}


def lines(report: Mapping[str, Any], now: float | None = None) -> list[str]:
    """The report as text."""
    now = time.time() if now is None else now
    text = []
    for kind in KINDS:
        samples = report["metrics"].get(kind, {})
        if at := samples.get("last_success_timestamp_seconds"):
            took, size = samples["duration_seconds"], samples["size_bytes"] / 2**20
            text.append(f"{kind:10} backed up {age(now - at)} ago, took {took:.1f} s, {size:.1f} MiB")
        if at := samples.get("verified_timestamp_seconds"):
            text.append(f"{kind:10} verified {age(now - at)} ago")
    for kind, entries in report["backups"].items():
        for entry in entries:
            old = age(now - datetime.fromisoformat(entry["at"]).timestamp())
            text.append(f"{kind:10} {entry['name']:34} {entry['at'][:19]}Z {old:>8} old {entry['bytes'] / 2**20:9.1f} MiB")
    return text or ["nothing was backed up on this host yet"]
