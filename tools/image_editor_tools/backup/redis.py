"""Backups and restores of Redis: the primary's RDB dump."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from image_editor_tools.backup import ownership, restic
from image_editor_tools.backup.guards import locked, require_room
from image_editor_tools.backup.host import STATE, Host
from image_editor_tools.backup.metrics import record_success
from image_editor_tools.errors import Failure
from image_editor_tools.shell import run
from image_editor_tools.waiting import wait_for

DESCRIPTION = Path("/etc/redis/image-editor.json")  # role redis removes it from a host that leaves the set
DATA = Path("/var/lib/redis")
DUMP = DATA / "dump.rdb"
UNIT = "redis-server.service"
MANIFEST = "file appendonly.aof.1.base.rdb seq 1 type b\n"


def elsewhere() -> str:
    """Why this host has nothing to do: another host is the primary, or this host has left the set. Empty on the primary."""
    if not DESCRIPTION.exists():
        return "nothing to do: this host is not a member of the Redis set"
    status = json.loads(run("/bin/sh", "-c", "image-editor-redis status --json || :"))
    me, primary = json.loads(DESCRIPTION.read_text())["me"], status.get("primary")
    if not primary:
        raise Failure(status.get("error") or "no node of Redis is primary: look at image-editor-redis status")
    return "" if primary == me else f"nothing to do: {primary} is primary, not {me}"


def back_up(host: Host) -> dict[str, Any]:
    """Have the primary save its data, check the dump, and store a copy. ``skipped``: this host is not the primary."""
    began = time.time()
    with locked("redis"):
        if reason := elsewhere():
            return {"skipped": reason}
        ownership.require_own(host, "redis")
        require_room(STATE / "redis", 2 * (DUMP.stat().st_size if DUMP.exists() else 0), "a copy of Redis's dump")
        run("image-editor-redis", "save")
        copy = STATE / "redis" / "dump.rdb"
        shutil.copyfile(DUMP, copy)
        keys, digest = check(copy)
        size = copy.stat().st_size
        restic.prepare(host, "redis")
        tags = f"keys={keys},sha256={digest},set={ownership.replication_ids()[0]}"
        restic.restic(host, "redis", "backup", "--quiet", "--tag", tags, copy)
        record_success("redis", began, size)
        copy.unlink()
    return {"keys": keys, "size_bytes": size, "seconds": time.time() - began}


def parse_check(output: str) -> int | None:
    """The number of keys that redis-check-rdb read; None if the dump is damaged."""
    found = re.search(r"(\d+) keys read", output)
    return int(found[1]) if found and "RDB looks OK" in output else None


def check(path: Path) -> tuple[int, str]:
    """The number of keys in a dump, and its SHA-256. Fails if the dump is damaged."""
    keys = parse_check(run("redis-check-rdb", path))
    if keys is None:
        raise Failure(f"redis-check-rdb: {path} is damaged")
    with path.open("rb") as stream:
        return keys, hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(host: Host, to: str, into: Path) -> tuple[restic.Snapshot, Path, int]:
    """Restore a dump below a directory: its snapshot, the file, its number of keys. Fails if it is not what was backed up."""
    snapshot = restic.fetch(host, "redis", to, into)
    copy = next(into.rglob("dump.rdb"))
    keys, digest = check(copy)
    if (str(keys), digest) != (restic.tag(snapshot, "keys"), restic.tag(snapshot, "sha256")):
        raise Failure("the dump of Redis is not the one that was backed up")
    return snapshot, copy, keys


def restore(host: Host, to: str) -> dict[str, Any]:
    """Let the primary start from a backup; its replicas copy it. Sentinels must be stopped, and nobody may write. As root.

    ``skipped``: this host is not the primary.
    """
    if reason := elsewhere():
        return {"skipped": reason}
    with locked("redis"), tempfile.TemporaryDirectory(dir=DATA) as work:
        snapshot, copy, keys = fetch(host, to, Path(work))
        with _exchanged():
            place = DATA / "appendonlydir"
            place.mkdir(mode=0o750)
            shutil.copyfile(copy, place / "appendonly.aof.1.base.rdb")
            (place / "appendonly.aof.1.base.rdb").chmod(0o640)
            (place / "appendonly.aof.manifest").write_text(MANIFEST)
            run("chown", "-R", "redis:redis", place)
            run("systemctl", "start", UNIT)
            loaded = wait_for(_loaded_keys, "the restored Redis does not answer", 60, retry=(Failure,), error=Failure)
            if loaded != keys:
                raise Failure(f"Redis loaded {loaded} of {keys} keys")
    ownership.adopt_stored("redis")
    return {"to": to, "snapshot": snapshot["short_id"], "reached": snapshot["time"], "keys": keys}


@contextlib.contextmanager
def _exchanged() -> Iterator[None]:
    """Stop Redis and move its data aside; put both back if what follows fails."""
    place, before = DATA / "appendonlydir", DATA / "appendonlydir.before-restore"
    if before.exists():
        shutil.rmtree(before)
    run("systemctl", "stop", UNIT)
    if place.exists():
        place.rename(before)
    try:
        yield
    except (Failure, OSError) as failure:
        run("systemctl", "stop", UNIT)
        shutil.rmtree(place, ignore_errors=True)
        if before.exists():
            before.rename(place)
        run("systemctl", "start", UNIT)
        raise Failure(f"{failure}. The old state is back") from None


def parse_loaded_keys(info: str) -> int | None:
    """How many keys Redis read when it started, those that had expired included; None while it loads."""
    found = re.findall(r"rdb_last_load_keys_(?:loaded|expired):(\d+)", info)
    return sum(map(int, found)) if "\nloading:0" in info and found else None


def _loaded_keys() -> int | None:
    return parse_loaded_keys(run("image-editor-redis-cli", "INFO", "persistence"))


def verify(host: Host, work: Path) -> str:
    """Restore the newest dump into a scratch directory and compare."""
    snapshot, _, keys = fetch(host, "latest", work)
    return f"{snapshot['short_id']} holds {keys} keys, as recorded"
