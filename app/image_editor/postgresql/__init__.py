"""PostgreSQL: which errors mean that it is away, and a DATABASES ENGINE that does not wait for a server that hangs."""

import psycopg
from django.db import Error, InterfaceError, OperationalError


def away(error: BaseException | None) -> bool:
    """Whether the error means that PostgreSQL is away for now, so that the same statement may succeed later.

    It cannot be reached, it ended the session, or the session leads to a server that is not the primary any more.
    """
    replica = isinstance(error, Error) and isinstance(error.__cause__, psycopg.errors.ReadOnlySqlTransaction)
    return replica or isinstance(error, (OperationalError, InterfaceError))
