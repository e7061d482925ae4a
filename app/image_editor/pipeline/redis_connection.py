"""One command to Redis and its answer, for the two that every request needs."""

import os
import threading
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class Line:
    """A connection for each thread: what a pool comes to where threads stay, at half of its price for a command.

    A command is tried once more on a new connection if the old one was lost, but not after a time-out: whoever waits
    has waited long enough, and the command may have arrived. Raises redis.RedisError.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._pool = redis.ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        self._mine = threading.local()

    def __call__(self, *command: str | int) -> Any:
        if getattr(self._mine, "process", None) != os.getpid():  # a connection must not be shared across a fork
            self._mine.connection = self._pool.connection_class(**self._pool.connection_kwargs)
            self._mine.process = os.getpid()
        connection = self._mine.connection
        packed = connection.pack_command(*command)
        try:
            return self._once(connection, packed)
        except redis.ConnectionError:
            return self._once(connection, packed)

    @staticmethod
    def _once(connection: Any, packed: Any) -> Any:
        try:
            connection.send_packed_command(packed)
            return connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:  # a soft time limit may come between the two: never take the answer for the next one's
            connection.disconnect()
            raise
