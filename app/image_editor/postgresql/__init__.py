"""PostgreSQL: which errors mean that it is away, and a DATABASES ENGINE that does not wait for a server that hangs."""

import psycopg
from django.db import Error, InterfaceError, OperationalError

# SQLSTATEs of a server that is well: a statement was cancelled, waited for a lock for too long, or met another one.
_STATEMENT = {"57014", "55P03", "40001", "40P01"}


def away(error: BaseException | None) -> bool:
    """Whether the error means that PostgreSQL is away for now, so that the same statement may succeed later.

    It cannot be reached, it ended the session, or the session leads to a server that is not the primary any more.
    """
    cause = error.__cause__ if isinstance(error, Error) else None
    if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction):
        return True
    return isinstance(error, (OperationalError, InterfaceError)) and getattr(cause, "sqlstate", None) not in _STATEMENT
