"""The contract with Django and psycopg: no health check, one prepare, a repetition if the connection was lost."""

from collections.abc import Iterator
from typing import Any

import pytest
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def statements(clean: None, services: Services) -> Iterator[Any]:
    """Return a function: how often PostgreSQL ran each statement since the fixture began."""
    from django.db import connection

    connection.close()
    connection.ensure_connection()

    def seen() -> dict[str, int]:
        query = "SELECT query, calls FROM pg_stat_statements WHERE userid = 'app'::regrole"
        return dict(services.psql(query, database="app"))

    services.psql("SELECT pg_stat_statements_reset()", database="app")
    return seen


def test_a_statement_is_sent_without_any_further_statement(statements: Any) -> None:
    from django.db import close_old_connections, connection

    from image_editor.shortcuts.database import prepared, repeat_if_connection_lost

    @repeat_if_connection_lost
    def ask() -> Any:
        return prepared("SELECT 1 + %(one)s::int", {"one": 1}).fetchone()

    for _ in range(3):
        close_old_connections()  # begins each request and task: Django would check the connection
        assert ask() == (2,)
    assert statements() == {"SELECT $2 + $1::int": 3}
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        assert cursor.fetchone() == (1,)


def test_a_statement_is_repeated_on_a_new_connection(statements: Any, services: Services) -> None:
    from image_editor.shortcuts.database import prepared, repeat_if_connection_lost

    @repeat_if_connection_lost
    def ask() -> Any:
        return prepared("SELECT 2", {}).fetchone()

    services.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    assert ask() == (2,)
