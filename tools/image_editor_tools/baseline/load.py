"""A client that submits edits at a constant rate. On the controller, with the client code of scripts/smoke.py."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_editor_tools.errors import Failure

CONNECTIONS = 32


@dataclass(frozen=True)
class Load:
    """How many edits to submit, in what time, to which platform."""

    url: str
    ca: str  # certificate of a CA to trust besides the system's; empty for none
    photo: Path
    prompt: str
    edits: int
    seconds: int

    def due(self, number: int) -> float:
        """When an edit is submitted, in seconds from the start: evenly, however slow the answers are."""
        return number * self.seconds / self.edits


def submit(load: Load, token: str, client: Path) -> dict[str, Any]:
    """Submit the edits; without edits, only wait. ``client`` is the folder of smoke.py."""
    sys.path.insert(0, str(client))
    import requests
    import smoke

    session = smoke.client(token, load.ca, CONNECTIONS)
    content = load.photo.read_bytes()
    refused: list[str] = []

    def post(number: int) -> float | None:
        time.sleep(max(0.0, started + load.due(number) - time.monotonic()))
        begun = time.monotonic()
        upload = {"files": {"image": ("photo.jpg", content, "image/jpeg")}, "data": {"prompt": load.prompt}}
        try:
            smoke.post(session, f"{load.url}/api/v1/edits", **upload)
        except (smoke.SmokeFailed, requests.exceptions.RequestException) as error:
            refused.append(str(error))
            return None
        return time.monotonic() - begun

    try:
        smoke.check_edge(session, load.url)
        release = session.get(f"{load.url}/api/v1/edits?limit=1", timeout=10).headers.get("X-Release", "")
        started = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            took = list(pool.map(post, range(load.edits)))
    except smoke.SmokeFailed as error:
        raise Failure(f"baseline: failed {error}") from error
    time.sleep(max(0.0, started + load.seconds - time.monotonic()))
    if refused and len(refused) == load.edits:
        raise Failure(f"baseline: failed {refused[0]}")
    return {
        "release": release,
        "api_seconds": [seconds for seconds in took if seconds is not None],
        "refused": len(refused),
        "refusal": refused[0] if refused else "",
    }
