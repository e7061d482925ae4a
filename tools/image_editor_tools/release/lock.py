"""The lock that keeps two operators from releasing at the same time. It is a file on the builder, which all controllers see."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

LOCK = Path("/run/image-editor-release.lock")  # gone after a reboot, like every run that held it


def take(owner: str, *, instead_of: str = "") -> dict[str, str]:
    """Take the lock if it is free, or held by ``instead_of``. Return who holds it now, since when, and for how long."""
    held = {"owner": owner, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    temporary = LOCK.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(held))
    try:
        if instead_of and LOCK.exists() and read()["owner"] == instead_of:
            temporary.rename(LOCK)
            return held
        os.link(temporary, LOCK)  # atomic: it fails if the lock is there, and the lock is never there without its content
        return held
    except FileExistsError:
        held = read()
        seconds = int((datetime.now(UTC) - datetime.fromisoformat(held["since"])).total_seconds())
        return held | {"age": f"{seconds // 3600} h {seconds // 60 % 60} min {seconds % 60} s"}
    finally:
        temporary.unlink(missing_ok=True)


def give_back(owner: str) -> bool:
    """Remove the lock if ``owner`` holds it; return whether it was removed."""
    if not LOCK.exists() or read()["owner"] != owner:
        return False
    LOCK.unlink()
    return True


def read() -> dict[str, str]:
    """Who holds the lock, and since when."""
    return json.loads(LOCK.read_text())
