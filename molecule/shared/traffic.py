"""Requests at a fixed rate, for the loads of scenarios. A slow answer delays no other request."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable

import requests

# Sends a request. It gets a session, and the time at which the request was due.
Send = Callable[[requests.Session, float], None]


def log(**entry: object) -> None:
    """Print a JSON line with one system call, so that the lines of two threads do not mix."""
    os.write(1, (json.dumps(entry) + "\n").encode())


class Traffic:
    """Threads that send requests, each with a session of its own."""

    def __init__(self, ca: str, token: str, threads: int = 48) -> None:
        self._ca, self._token = ca, token
        self._due: queue.Queue[tuple[float, Send]] = queue.Queue()
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        session = requests.Session()
        session.trust_env, session.verify = False, self._ca
        session.headers["Authorization"] = f"Bearer {self._token}"
        while True:
            due, send = self._due.get()
            send(session, due)

    def soon(self, send: Send) -> None:
        """Have a request sent by the next thread that is free."""
        self._due.put((time.time(), send))

    def later(self, seconds: float, send: Send) -> None:
        """Have a request sent after some time. No thread waits for it."""
        timer = threading.Timer(seconds, self.soon, [send])
        timer.daemon = True
        timer.start()

    def run(self, step: Callable[[int], Iterable[Send]], stop: threading.Event | None = None, rate: float = 20) -> None:
        """Send the requests of step 0, 1, 2 …, so many steps a second, until ``stop`` is set."""
        stop, began, number = stop or threading.Event(), time.time(), 0
        while not stop.wait(max(0.0, began + number / rate - time.time())):
            for send in step(number):
                self.soon(send)
            number += 1
