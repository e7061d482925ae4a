"""Send requests, and a fifth as many edits, through the edge until killed. A slow answer delays no other request.

load.py URL CA PICTURE RATE < token     prints a JSON line for each answer: at, seconds, kind, status, release, id

RATE: requests a second, without the edits.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path

import requests

URL, CA, PICTURE, RATE = sys.argv[1:]
TOKEN = sys.stdin.readline().strip()
CONTENT = Path(PICTURE).read_bytes()
GETS = ("/api/v1/edits?limit=1", "/api/v1/openapi.json", "/", "/login/")
due: queue.Queue[tuple[float, str]] = queue.Queue()


def work() -> None:
    """Send the requests of the queue ``due``; print a line for each answer."""
    session = requests.Session()
    session.trust_env, session.verify = False, CA
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    while True:
        at, path = due.get()
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
        line = json.dumps(entry | {"seconds": round(time.time() - at, 3)}) + "\n"
        os.write(1, line.encode())  # one system call, so that the lines of two threads do not mix


for _ in range(48):
    threading.Thread(target=work, daemon=True).start()
began = time.time()
for number in itertools.count():
    time.sleep(max(0.0, began + number / int(RATE) - time.time()))
    due.put((time.time(), GETS[number % len(GETS)]))
    if number % 5 == 0:
        due.put((time.time(), ""))
