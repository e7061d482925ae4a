"""Send requests, and a fifth as many edits, through the edge until killed. A slow answer delays no other request.

load.py URL CA PICTURE RATE < token     prints a JSON line for each answer: at, seconds, kind, status, release, id

RATE: requests a second, without the edits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import requests
from traffic import Send, Traffic, log

URL, CA, PICTURE, RATE = sys.argv[1:]
CONTENT = Path(PICTURE).read_bytes()
GETS = ("/api/v1/edits?limit=1", "/api/v1/openapi.json", "/", "/login/")


def request(path: str) -> Send:
    """A GET of the path; of an empty path, an edit."""

    def send(session: requests.Session, at: float) -> None:
        entry = {"at": at, "kind": "get" if path else "edit", "status": 0, "release": "", "id": "", "path": path}
        try:
            if path:
                answer = session.get(URL + path, timeout=60)
            else:
                files = {"image": ("small.jpg", CONTENT)}
                answer = session.post(f"{URL}/api/v1/edits", files=files, data={"prompt": "resize to 16"}, timeout=60)
                entry["id"] = answer.json().get("id", "")
            entry |= {"status": answer.status_code, "release": answer.headers.get("X-Release", "")}
        except (requests.RequestException, ValueError) as error:
            entry["error"] = repr(error)
        log(**entry, seconds=round(time.time() - at, 3))

    return send


def step(number: int) -> list[Send]:
    """One of the pages and, each fifth time, an edit."""
    return [request(GETS[number % len(GETS)])] + ([request("")] if number % 5 == 0 else [])


Traffic(CA, sys.stdin.readline().strip()).run(step, rate=int(RATE))
