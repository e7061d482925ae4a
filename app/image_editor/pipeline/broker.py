"""What is on the broker: messages that wait in a queue, and messages that a worker has taken and not acknowledged.

Celery offers no way to look into a queue without taking messages out of it, so this module reads what kombu's Redis
transport stores. It is the only module that knows the format; tests/pipeline/test_broker.py compares it with messages
that Celery publishes.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings

# kombu's keys: a hash of the messages that workers hold, by delivery tag, and a sorted set of the same tags by time.
UNACKNOWLEDGED = "unacked"
UNACKNOWLEDGED_INDEX = "unacked_index"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it lies on the broker."""

    raw: bytes | str
    queue: str
    task_id: str
    task: str
    argument: Any  # the first argument of the task

    @classmethod
    def read(cls, raw: bytes | str, queue: str) -> "StoredMessage":
        """Parse a message. Raises ValueError, KeyError or TypeError for one that Celery did not write."""
        document = json.loads(raw)
        arguments, *_ = json.loads(base64.b64decode(document["body"]))
        headers = document["headers"]
        return cls(raw, queue, headers["id"], headers["task"], arguments[0] if arguments else None)


def client(seconds: float = 5) -> redis.Redis:
    """A client of the broker that waits at most ``seconds`` for a connection or an answer, and tries once."""
    return redis.Redis.from_url(
        settings.BROKER_URL,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        socket_keepalive=True,
        retry=None,
    )


def oldest_waiting(broker: redis.Redis, queue: str, at_most: int) -> list[str]:
    """Ids of the ``at_most`` tasks of the queue that workers take next; the last one is taken first.

    Raises redis.RedisError.
    """
    return [json.loads(raw)["headers"]["id"] for raw in broker.lrange(queue, -at_most, -1)]


def unacknowledged(broker: redis.Redis, tasks: frozenset[str]) -> list[str]:
    """Ids of those of the tasks whose messages workers hold. Raises redis.RedisError."""
    held = [json.loads(entry)[0]["headers"] for entry in broker.hvals(UNACKNOWLEDGED)]
    return [headers["id"] for headers in held if headers.get("task") in tasks]


def return_unacknowledged(broker: redis.Redis) -> None:
    """Put the messages that workers held back into their queues, marked as redelivered. All workers must be stopped."""
    for tag, entry in broker.hgetall(UNACKNOWLEDGED).items():
        document, _exchange, queue = json.loads(entry)
        document["headers"]["redelivered"] = document["properties"]["delivery_info"]["redelivered"] = True
        with broker.pipeline() as pipe:
            pipe.rpush(queue, json.dumps(document)).hdel(UNACKNOWLEDGED, tag).zrem(UNACKNOWLEDGED_INDEX, tag).execute()


def waiting(broker: redis.Redis, queue: str) -> Iterator[StoredMessage]:
    """Every message that waits in the queue."""
    for raw in broker.lrange(queue, 0, -1):
        yield StoredMessage.read(raw, queue)


def remove(broker: redis.Redis, message: StoredMessage) -> None:
    """Take a message out of its queue."""
    broker.lrem(message.queue, 0, message.raw)
