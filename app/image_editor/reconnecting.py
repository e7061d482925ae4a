"""Statements that survive a lost connection without asking first whether it is there."""

from collections.abc import Callable
from functools import wraps

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
