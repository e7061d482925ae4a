"""Sessions with PostgreSQL, for the commands that read the platform's database."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection, sql

from image_editor_tools.errors import Failure

SUPERUSER = "postgres"
CONNECT_TIMEOUT = 10  # seconds
# Hashes of rows are sums over their text, so the text must not depend on a server's settings.
OPTIONS = "-c TimeZone=UTC -c DateStyle=ISO -c search_path=public"


@contextmanager
def session(conninfo: str, *, autocommit: bool = False, snapshot: bool = False) -> Iterator[Connection]:
    """Open a session and close it at the end. An open transaction is rolled back.

    ``snapshot``: a transaction that sees one moment (REPEATABLE READ). Raises Failure with PostgreSQL's first line.
    """
    try:
        with _superuser_if_local(conninfo):
            connection = psycopg.connect(conninfo, connect_timeout=CONNECT_TIMEOUT, options=OPTIONS, autocommit=autocommit)
        try:
            if snapshot:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            yield connection
        finally:
            connection.close()
    except psycopg.Error as error:
        raise Failure(f"PostgreSQL: {(str(error).strip().splitlines() or ['no answer'])[0]}") from error


@contextmanager
def _superuser_if_local(conninfo: str) -> Iterator[None]:
    """Connect as the system user postgres: PostgreSQL's local socket takes its superuser from that user only."""
    if os.geteuid() != 0 or f"user={SUPERUSER}" not in conninfo.split():
        yield
        return
    os.seteuid(pwd.getpwnam(SUPERUSER).pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def rows(connection: Connection, query: str, *values: Any) -> list[tuple]:
    """Run a statement; return its rows, or an empty list if it has none."""
    cursor = connection.execute(query, values or None)
    return cursor.fetchall() if cursor.description else []


def value(connection: Connection, query: str, *values: Any) -> Any:
    """Run a query that has one row of one column; return it."""
    ((result,),) = rows(connection, query, *values)
    return result


def change(connection: Connection, statement: str, *names: str) -> None:
    """Run a statement in which each ``{}`` stands for a name, quoted as an identifier."""
    connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
