"""Statements that every request or task needs: prepared, and without a health check of the connection.

Django asks ``SELECT 1`` before the first statement of each request and task (``CONN_HEALTH_CHECKS``). For a POST that
is one of four round trips, and for a worker one of three statements. The functions decorated here are repeated on a new
connection instead. A prepared statement through psycopg costs half of what Django's cursor and its parsing cost.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import psycopg
from django.db import Error, connection

from image_editor.postgresql import away


def repeat_if_connection_lost[**P, T](statement: Callable[P, T]) -> Callable[P, T]:
    """Skip the health check, and try once more on a new connection if the old one was lost.

    Only for reads and guarded statements: if the first try did commit, the second one must change nothing.
    """

    @wraps(statement)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        connection.health_check_done = True
        kept = connection.connection is not None  # a new one is not tried twice: a client waits for the answer
        try:
            return statement(*args, **kwargs)
        except Error as error:
            if not kept or connection.in_atomic_block or not away(error):
                raise
            connection.close()
            return statement(*args, **kwargs)

    return call


def prepared(statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
    """Run a prepared statement on Django's connection and in its transaction. Raises Django's database exceptions."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return psycopg.Cursor(connection.connection).execute(statement, values, prepare=True)
