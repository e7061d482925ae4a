"""How many edits a user may submit: a minute's rate and a day's quota, counted in Redis.

A Redis that is down limits nobody: it must not take the API down with it.
"""

import hashlib
import time

import redis
from django.conf import settings

from image_editor.pipeline.redis_connection import Line
from image_editor.pipeline.state_cache import OPTIONS, states

# Counts in every window, or in none if one of them would be over its limit: then the number of the last such window.
# One round trip, and nobody sees a count that is taken back.
_TAKE = """
local over = 0
for i, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or 0) + ARGV[1] > tonumber(ARGV[2 * i]) then over = i end
end
if over == 0 then
  for i, key in ipairs(KEYS) do
    if redis.call('INCRBY', key, ARGV[1]) == tonumber(ARGV[1]) then redis.call('EXPIRE', key, ARGV[2 * i + 1]) end
  end
end
return over
"""
_SHA1 = hashlib.sha1(_TAKE.encode(), usedforsecurity=False).hexdigest()  # by which Redis remembers a script
_line = Line(settings.CACHE_URL, **OPTIONS)


class Exceeded(Exception):
    """`seconds` from now the same request may be accepted."""

    def __init__(self, what: str, limit: int, seconds: int) -> None:
        super().__init__(f"at most {limit} edits a {what}: try again in {seconds} s")
        self.seconds = seconds


def take(user_id: int, edits: int = 1) -> None:
    """Count edits of a user. Raises Exceeded, and counts nothing, beyond a limit. A limit of 0 is none."""
    now = time.time()
    windows = [("minute", 60, settings.RATE_PER_MINUTE), ("day", 86400, settings.QUOTA_PER_DAY)]
    counted = [window for window in windows if window[2]]
    if not counted:
        return
    keys = [f"limit:{what}:{user_id}:{int(now // length)}" for what, length, _ in counted]
    arguments = [edits, *(value for _, length, limit in counted for value in (limit, length))]
    over = states.attempt(lambda: _count(keys, arguments), 0)
    if over:
        what, length, limit = counted[over - 1]
        raise Exceeded(what, limit, int(length - now % length) + 1)


def _count(keys: list[str], arguments: list[int]) -> int:
    try:
        return _line("EVALSHA", _SHA1, len(keys), *keys, *arguments)
    except redis.exceptions.NoScriptError:  # a Redis that has restarted
        return _line("EVAL", _TAKE, len(keys), *keys, *arguments)
