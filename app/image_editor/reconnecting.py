"""Statements that survive a lost connection without asking first whether it is there, and those that run all day."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import psycopg
from django.db import InterfaceError, OperationalError, connection


def reconnecting[**P, T](statement: Callable[P, T]) -> Callable[P, T]:
    """Try once more on a new connection if the old one was lost, instead of testing it with a ``SELECT 1`` first.

    For reads, and for guarded statements: a first try which did commit makes the second one change nothing.
    """

    @wraps(statement)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        connection.health_check_done = True
        try:
            return statement(*args, **kwargs)
        except (OperationalError, InterfaceError):
            if connection.in_atomic_block:
                raise
            connection.close()
            return statement(*args, **kwargs)

    return call


def prepared(statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
    """Run one of the few statements that every request or task needs, on Django's connection and in its transaction.

    The server parses and plans it once for each connection, and the layers of a Django cursor are left out: together
    half the price of a statement. Raises Django's exceptions.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return psycopg.Cursor(connection.connection).execute(statement, values, prepare=True)
