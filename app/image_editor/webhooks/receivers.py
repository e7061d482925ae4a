"""Receivers that hang must not hold the processes that call other receivers.

A receiver is a host and port, as one user names it: nobody can slow down the callbacks of others to the same host. At
most WEBHOOK_CALLS_MAX calls to a receiver run at a time, and WEBHOOK_CALLS_MAX_USER to all receivers of a user,
counted over all worker processes. What comes meanwhile waits in Redis, and each call that ends publishes the next.
The reconciler may publish a callback that waits. So a callback that is called does not wait any more: otherwise it
would be published once more, be dropped, and publish no next one.

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

# KEYS: calls to the receiver and of the user (sorted sets by their end at the latest), breaker, timeouts (in a row),
# and what waits for the receiver and for the user (sorted by time).
_enter = client.register_script("""
local time = redis.call('TIME')
for calls = 1, 2 do redis.call('ZREMRANGEBYSCORE', KEYS[calls], '-inf', time[1]) end
if redis.call('EXISTS', KEYS[3]) == 1 then return 'broken' end
local most = {tonumber(ARGV[1]), tonumber(ARGV[2])}
if redis.call('EXISTS', KEYS[4]) == 1 then most[1] = 1 end
for calls = 1, 2 do
  if redis.call('ZCARD', KEYS[calls]) >= most[calls] then
    redis.call('ZADD', KEYS[calls + 4], 'NX', time[1] * 1000000 + time[2], ARGV[5])
    redis.call('EXPIRE', KEYS[calls + 4], ARGV[6])
    return 'busy'
  end
end
for calls = 1, 2 do
  redis.call('ZADD', KEYS[calls], time[1] + ARGV[4], ARGV[3])
  redis.call('EXPIRE', KEYS[calls], ARGV[4])
  redis.call('ZREM', KEYS[calls + 4], ARGV[5])
end
return 'free'
""")
# Returns what has waited longest.
_leave = client.register_script("""
for calls = 1, 2 do redis.call('ZREM', KEYS[calls], ARGV[1]) end
if ARGV[2] == 'timed out' then
  local times = redis.call('INCR', KEYS[4])
  redis.call('EXPIRE', KEYS[4], ARGV[5])
  redis.call('SET', KEYS[3], times, 'EX', math.min(ARGV[3] * 2 ^ (times - 1), tonumber(ARGV[4])))
  redis.call('DEL', KEYS[5])
end
if ARGV[2] == 'answered' then redis.call('DEL', KEYS[4]) end
local first = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
local second = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]
local oldest = 5
if not first or second and tonumber(second) < tonumber(first) then oldest = 6 end
return redis.call('ZPOPMIN', KEYS[oldest])[1]
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
    user = f"webhook:{user_id}"
    receiver = f"{user}:{urlsplit(url).netloc.lower()}"
    keys = [f"{receiver}:calls", f"{user}:calls", f"{receiver}:breaker", f"{receiver}:timeouts"]
    keys += [f"{receiver}:waiting", f"{user}:waiting"]
    token = str(uuid4())
    most = [settings.WEBHOOK_CALLS_MAX, settings.WEBHOOK_CALLS_MAX_USER]
    arguments = [*most, token, CALL_MAX, f"{callback_id} {tries}", REMEMBERED]
    taken = Turn(states.attempt(lambda: _enter(keys, arguments).decode(), "free"))
    try:
        yield taken
    finally:
        if taken.state == "free":
            left = [token, taken.outcome, OPEN, OPEN_MAX, REMEMBERED]
            if waiting := states.attempt(lambda: _leave(keys, left), None):
                next_id, _, next_tries = waiting.decode().partition(" ")
                publisher.publish_callbacks([(next_id, int(next_tries))])
