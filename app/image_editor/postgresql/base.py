"""Django's PostgreSQL backend, which refuses to connect while PostgreSQL hangs. psycopg waits two seconds at least."""

import threading
from typing import Any

import psycopg
from django.db.backends.postgresql import base

# Set while PostgreSQL answers nothing. Only a process of the API sets it (image_editor.web.deadline).
hangs = threading.Event()


class Refusing:
    """For a class of connections."""

    probes = False  # true for the connection of the check that finds out whether PostgreSQL answers again

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        if hangs.is_set() and not self.probes:
            raise psycopg.OperationalError("PostgreSQL does not answer")
        return super().get_new_connection(conn_params)  # type: ignore[misc]


class DatabaseWrapper(Refusing, base.DatabaseWrapper):
    pass
