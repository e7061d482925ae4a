"""Inserts numbers, each once, some 30 a second. Prints a line for each one that was acknowledged: TIME NUMBER."""

from __future__ import annotations

import itertools
import os
import signal
import time

import psycopg

ANSWER = 4.0  # seconds after which the client gives a session up, as the proxy does when a node is demoted


def give_up(*_: object) -> None:
    raise TimeoutError


signal.signal(signal.SIGALRM, give_up)
connection = None
for number in itertools.count(time.time_ns() // 1_000_000):
    try:
        signal.setitimer(signal.ITIMER_REAL, ANSWER)
        connection = connection or psycopg.connect(os.environ["TARGET"], autocommit=True)
        connection.execute("INSERT INTO written VALUES (%s)", [number])
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(f"{time.time():.3f}", number, flush=True)
    except (psycopg.Error, OSError):
        signal.setitimer(signal.ITIMER_REAL, 0)
        if connection:
            connection.close()
        connection = None
    time.sleep(0.03)
