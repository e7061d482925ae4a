"""Django's PostgreSQL backend. While PostgreSQL hangs it refuses to connect; psycopg would wait two seconds at least.

A request that writes waits a little for PostgreSQL. The edge sends a GET that got 503 to another web host, but never a
POST, and a web host that was cut off needs about a second to find PostgreSQL after it is back.
"""

import threading
import time
from typing import Any

import psycopg
from django.conf import settings
from django.db.backends.postgresql import base

# Set while PostgreSQL answers nothing. Only a process of the API sets it (image_editor.web.deadline).
hangs = threading.Event()

PACE = 0.1  # seconds between two tries
# The other threads of a process answer requests that do not wait.
_waiting = threading.BoundedSemaphore(max(1, settings.WEB_THREADS // 2))


class Refusing:
    """For a class of connections."""

    probes = False  # true for the connection of the check that finds out whether PostgreSQL answers again
    patient_until = 0.0  # monotonic seconds; until then a connection that is refused is tried again

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        waits = False
        try:
            while True:
                try:
                    return self._connect(conn_params)
                except psycopg.OperationalError:
                    if time.monotonic() > self.patient_until - PACE:
                        raise
                    waits = waits or _waiting.acquire(blocking=False)
                    if not waits:
                        raise
                time.sleep(PACE)
        finally:
            if waits:
                _waiting.release()

    def _connect(self, conn_params: dict[str, Any]) -> Any:
        if hangs.is_set() and not self.probes:
            raise psycopg.OperationalError("PostgreSQL does not answer")
        return super().get_new_connection(conn_params)  # type: ignore[misc]


class DatabaseWrapper(Refusing, base.DatabaseWrapper):
    pass
