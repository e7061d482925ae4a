"""Use the platform as clients do: 20 requests a second through the address of the edges. 4 of them are edits with callbacks.

load.py URL CA PICTURE HOST:PORT    reads a token from standard input

Prints a JSON line for each answer, and for each callback that arrives at HOST:PORT (molecule/shared/history.py). A request that
fails is sent once more, as a client does: an idempotency key keeps the edit from being accepted twice. When standard input is
closed, no further request is sent, and callbacks still arrive.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from urllib.parse import urlsplit

import requests
from traffic import Send, Traffic, log

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import smoke

URL, CA, PICTURE, LISTEN = sys.argv[1:]
CONTENT = Path(PICTURE).read_bytes()
ENDED = ("succeeded", "failed", "cancelled")
PATIENCE = 20  # seconds for which a client waits for an answer

known: dict[str, tuple[str, str]] = {}  # the state and the result of each edit, as the last answer had them
waiting: deque[str] = deque()  # edits that have not ended
results: deque[tuple[str, str]] = deque(maxlen=100)  # edits with the URLs of their results, which expire after an hour

Ask = Callable[[requests.Session], requests.Response]
Read = Callable[[requests.Response], list[list[str]]]  # returns what the answer says of edits and was not known


def end(document: dict) -> tuple[str, str]:
    """The state of an edit and the name of its result."""
    return document["status"], urlsplit(document["result_url"] or "").path


def learn(*documents: dict) -> list[list[str]]:
    """Remember what documents say of edits; return what is new."""
    news = []
    for document in documents:
        edit, found = document["id"], end(document)
        if known.get(edit) != found:
            known[edit] = found
            news.append([edit, *found])
            if found[0] == "succeeded":
                results.append((edit, document["result_url"]))
    return news


def request(kind: str, ask: Ask, read: Read, edit: str = "", again: bool = False) -> Send:
    """A request whose answer is logged. If it fails, it is sent again after the time that the answer names, or after a second."""

    def send(session: requests.Session, at: float) -> None:
        entry = {"kind": kind, "at": at, "again": again, "status": 0, "edit": edit, "seen": []}
        pause = 1.0
        try:
            answer = ask(session)
            pause = float(answer.headers.get("Retry-After", pause))
            entry["status"] = answer.status_code
            problem = answer.headers.get("Content-Type", "").startswith("application/problem+json")
            if answer.status_code == 503 and problem and "Retry-After" in answer.headers:
                entry["unavailable"] = answer.json()["code"]
            if answer.ok:
                entry["seen"] = read(answer)
                if kind == "edit":
                    entry["edit"] = answer.json()["id"]
            elif edit and answer.status_code in (404, 410):
                entry["seen"] = [[edit, "gone", ""]]
        except (requests.RequestException, ValueError) as error:
            entry["error"] = repr(error)
        log(**entry, seconds=round(time.time() - at, 3))
        if not again and not 200 <= entry["status"] < 300:
            traffic.later(pause, request(kind, ask, read, edit, again=True))

    return send


def upload() -> Send:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    fields = {"prompt": "resize to 16", "callback_url": receiver.base + receiver.callback_path}

    def ask(session: requests.Session) -> requests.Response:
        files = {"image": ("small.jpg", CONTENT)}
        return session.post(f"{URL}/api/v1/edits", files=files, data=fields, headers=headers, timeout=PATIENCE)

    def read(answer: requests.Response) -> list[list[str]]:
        waiting.append(answer.json()["id"])
        return []

    return request("edit", ask, read)


def listing() -> Send:
    def ask(session: requests.Session) -> requests.Response:
        return session.get(f"{URL}/api/v1/edits?limit=30", timeout=PATIENCE)

    return request("list", ask, lambda answer: learn(*answer.json()["items"]))


def status() -> list[Send]:
    """The state of the edit that was asked for least recently."""
    while waiting and known.get(waiting[0], ("",))[0] in ENDED:
        waiting.popleft()
    if not waiting:
        return []
    edit = waiting.popleft()
    waiting.append(edit)
    url = f"{URL}/api/v1/edits/{edit}"
    return [request("status", lambda session: session.get(url, timeout=PATIENCE), lambda answer: learn(answer.json()), edit)]


def download() -> list[Send]:
    if not results:
        return []
    edit, url = random.choice(results)

    def ask(session: requests.Session) -> requests.Response:
        return session.get(url, headers=smoke.WITHOUT_TOKEN, timeout=PATIENCE)

    return [request("download", ask, lambda _: [], edit)]


def step(number: int) -> list[Send]:
    """Of five requests two are downloads. If no edit waits or has a result, a list replaces the read."""
    match number % 5:
        case 0:
            return [upload()]
        case 1:
            return [listing()]
        case 2:
            return status() or [listing()]
        case _:
            return download() or [listing()]


def hear(callbacks: Queue) -> None:
    """Log the callbacks as they arrive."""
    while True:
        headers, body = callbacks.get()
        document = json.loads(body)["edit"]
        name = {header.lower(): value for header, value in headers.items()}["webhook-id"]
        state, result = end(document)
        log(kind="callback", at=time.time(), webhook=name, edit=document["id"], state=state, result=result)


def stop_with_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


traffic = Traffic(CA, sys.stdin.readline().strip(), threads=64)
ending = threading.Event()
threading.Thread(target=stop_with_input, args=(ending,), daemon=True).start()
with smoke.listening(LISTEN, b"") as receiver:
    threading.Thread(target=hear, args=(receiver.callbacks,), daemon=True).start()
    traffic.run(step, ending)
    threading.Event().wait()
