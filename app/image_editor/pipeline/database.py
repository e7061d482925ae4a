"""Statements that survive a lost connection without asking first whether it is there, and those that run all day."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any
from weakref import WeakSet

import psycopg
from django.db import InterfaceError, OperationalError, connection
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus


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


class Insert:
    """One statement without a result, handed to libpq as it is: what every POST waits for.

    A cursor of psycopg costs more processor time than PostgreSQL takes for the row. Raises Django's exceptions.
    """

    def __init__(self, name: str, statement: str) -> None:
        self._name, self._statement = name.encode(), statement.encode()
        self._prepared: WeakSet[psycopg.Connection[Any]] = WeakSet()

    def __call__(self, *values: str | int | None) -> None:
        connection.ensure_connection()
        with connection.wrap_database_errors:
            if not connection.connection.autocommit:
                connection.connection.execute("SELECT")  # psycopg begins a transaction with a statement of its own only
            self._run(connection.connection, [None if value is None else str(value).encode() for value in values])

    def _run(self, wire: psycopg.Connection[Any], values: Sequence[bytes | None]) -> None:
        if wire not in self._prepared:
            self._prepare(wire)
        result = wire.pgconn.exec_prepared(self._name, values)
        if result.error_field(DiagnosticField.SQLSTATE) == b"26000":  # psycopg forgets all statements after a rollback
            self._prepare(wire)
            result = wire.pgconn.exec_prepared(self._name, values)
        self._check(wire, result)

    def _prepare(self, wire: psycopg.Connection[Any]) -> None:
        self._check(wire, wire.pgconn.prepare(self._name, self._statement))
        self._prepared.add(wire)

    @staticmethod
    def _check(wire: psycopg.Connection[Any], result: psycopg.pq.abc.PGresult) -> None:
        if wire.pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError("the connection to PostgreSQL was lost")
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
