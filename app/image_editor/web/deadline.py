"""A request does not wait for a PostgreSQL that hangs: it ends with 503 within two seconds.

A server that is stopped refuses connections, and the request fails at once. A frozen host or a broken network answers
nothing, and psycopg waits. So a thread looks at the requests of this process. If one takes long, and the check behind
/readyz hears nothing from PostgreSQL either, the thread cuts the connections of all requests. Until PostgreSQL answers
again, no new connection is tried. A request that writes waits a little for that (image_editor.postgresql.base).
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse

from image_editor.postgresql.base import hangs
from image_editor.web import health

log = logging.getLogger(__name__)

PACE = 0.2  # seconds between two looks
SLOW = 0.4  # seconds; a request that takes longer is a reason to ask PostgreSQL
SILENCE = 1.0  # seconds without an answer; then PostgreSQL hangs
PATIENCE = 1.5  # seconds from the beginning of a request that writes; until then it tries again to connect

_requests: dict[int, tuple[float, BaseDatabaseWrapper]] = {}  # by thread: since when a request runs, and its connection
_lock = threading.Lock()
_thread: threading.Thread | None = None


class Deadline:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        _start()
        began, reads = time.monotonic(), request.method in ("GET", "HEAD", "OPTIONS")
        connections["default"].patient_until = 0.0 if reads else began + PATIENCE
        with watched(began):
            return self.get_response(request)


@contextlib.contextmanager
def watched(since: float) -> Iterator[None]:
    """The block may wait for PostgreSQL, since a moment in monotonic seconds. It is treated as a request is.

    A stream of events needs it: it asks PostgreSQL after its request has returned.
    """
    thread = threading.get_ident()
    around = _requests.get(thread)
    _requests[thread] = since, connections["default"]
    try:
        yield
    finally:
        if around:
            _requests[thread] = around
        else:
            del _requests[thread]


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """The request of this thread waits on purpose during the block, and not for PostgreSQL."""
    thread = threading.get_ident()
    request = _requests.pop(thread, None)
    try:
        yield
    finally:
        if request:
            _requests[thread] = time.monotonic(), request[1]


def _start() -> None:
    global _thread
    with _lock:
        if not (_thread and _thread.is_alive()):  # a thread does not survive a fork
            _thread = threading.Thread(target=_run, name="deadline", daemon=True)
            _thread.start()


def _run() -> None:
    while True:
        time.sleep(PACE)
        _look()


def _look() -> None:
    """Ask PostgreSQL if there is a reason. If it hangs, cut the connections of the requests."""
    began = [began for began, _ in list(_requests.values())]
    if not hangs.is_set() and time.monotonic() - min(began, default=time.monotonic()) < SLOW:
        return
    if health.postgresql_answers(SILENCE):
        hangs.clear()
        return
    if not hangs.is_set():
        log.error("PostgreSQL does not answer: requests that need it end with 503")
        hangs.set()
    for _, connection in list(_requests.values()):
        _cut(connection)


def _cut(connection: BaseDatabaseWrapper) -> None:
    """End the connection under the thread that waits for it. The thread gets an OperationalError."""
    session = connection.connection
    with contextlib.suppress(OSError, psycopg.Error):  # it has ended meanwhile
        if session and not session.closed:
            with socket.socket(fileno=os.dup(session.fileno())) as shared:
                shared.shutdown(socket.SHUT_RDWR)
