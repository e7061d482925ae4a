"""A receiver that hangs must not hold the processes that call other receivers.

A receiver is a host and port, as one user names it: nobody can slow down the callbacks of others to the same host. At
most WEBHOOK_CALLS_MAX calls to a receiver run at a time, counted over all worker processes. What comes meanwhile waits
in Redis, and each call that ends publishes the next. The reconciler may publish a callback that waits. So a callback
that is called does not wait any more: otherwise it would be published once more, be dropped, and publish no next one.

A call that times out opens the breaker: for a while the receiver is not called. The first call after that is alone, and
closes the breaker or opens it for twice as long.

All of this is in the cache. PostgreSQL has the pending rows, so nothing is lost with the cache: the reconciler
publishes them. While Redis is down, every receiver is called.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

from django.conf import settings

from image_editor.pipeline import publisher
from image_editor.pipeline.state_cache import client, states

OPEN, OPEN_MAX = 60, 600  # seconds that the breaker stays open after the first time-out, and at most
CALL_MAX = 30  # seconds; the slot of a call whose process died is free again after that
REMEMBERED = 3600  # seconds that time-outs, and what waits, are remembered

# KEYS: calls (a sorted set by their end at the latest), breaker, timeouts (in a row), waiting (sorted by time).
_enter = client.register_script("""
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1])
if redis.call('EXISTS', KEYS[2]) == 1 then return 'broken' end
local most = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 1 then most = 1 end
if redis.call('ZCARD', KEYS[1]) >= most then
  redis.call('ZADD', KEYS[4], 'NX', time[1] * 1000000 + time[2], ARGV[4])
  redis.call('EXPIRE', KEYS[4], ARGV[5])
  return 'busy'
end
redis.call('ZADD', KEYS[1], time[1] + ARGV[3], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZREM', KEYS[4], ARGV[4])
return 'free'
""")
_leave = client.register_script("""
redis.call('ZREM', KEYS[1], ARGV[1])
if ARGV[2] == 'timed out' then
  local times = redis.call('INCR', KEYS[3])
  redis.call('EXPIRE', KEYS[3], ARGV[5])
  redis.call('SET', KEYS[2], times, 'EX', math.min(ARGV[3] * 2 ^ (times - 1), tonumber(ARGV[4])))
  redis.call('DEL', KEYS[4])
  return false
end
if ARGV[2] == 'answered' then redis.call('DEL', KEYS[3]) end
return redis.call('ZPOPMIN', KEYS[4])[1]
""")


@dataclass
class Turn:
    """What a process may do for a receiver. It sets ``outcome`` when it calls: any quick end is an answer."""

    state: Literal["free", "busy", "broken"]
    outcome: Literal["not called", "answered", "timed out"] = "not called"


@contextmanager
def turn(user_id: int, url: str, callback_id: str, tries: int) -> Iterator[Turn]:
    """Take a place among the calls to the receiver, until the end of the block.

    If it is ``busy``, the callback waits and is published again after another call. If it is ``broken``, the breaker
    is open.
    """
    receiver = f"webhook:{user_id}:{urlsplit(url).netloc.lower()}"
    keys = [f"{receiver}:{name}" for name in ("calls", "breaker", "timeouts", "waiting")]
    token = str(uuid4())
    arguments = [settings.WEBHOOK_CALLS_MAX, token, CALL_MAX, f"{callback_id} {tries}", REMEMBERED]
    taken = Turn(states.attempt(lambda: _enter(keys, arguments).decode(), "free"))
    try:
        yield taken
    finally:
        if taken.state == "free":
            left = [token, taken.outcome, OPEN, OPEN_MAX, REMEMBERED]
            if waiting := states.attempt(lambda: _leave(keys, left), None):
                next_id, _, next_tries = waiting.decode().partition(" ")
                publisher.publish_callbacks([(next_id, int(next_tries))])
