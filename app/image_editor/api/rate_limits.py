"""How many edits a user may submit: a rate for each minute and a quota for each day, counted in Redis.

A request counts as one edit before its body is read, whatever becomes of it: reading garbage costs time, too.
While Redis is down nobody is limited: the API must not go down with it.
"""

import time

from django.conf import settings
from django.http import HttpRequest
from ninja.throttling import BaseThrottle

from image_editor.auth import user_of
from image_editor.pipeline.state_cache import client, states

# Counts in every window and returns 0. If the limit of a window would be exceeded, it counts in none, and returns the
# number of that window, or of the last of them. It takes one round trip, and no count is ever taken back.
_count = client.register_script("""
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
""")


class Exceeded(Exception):
    """A limit is reached. The same request may be accepted in ``seconds``."""

    def __init__(self, window: str, limit: int, seconds: int) -> None:
        super().__init__(f"at most {limit} edits a {window}: try again in {seconds} s")
        self.seconds = seconds


def count(user_id: int, edits: int = 1) -> None:
    """Count edits of a user. Beyond a limit it counts nothing and raises Exceeded. A limit of 0 means no limit."""
    now = time.time()
    windows = [("minute", 60, settings.RATE_PER_MINUTE), ("day", 86400, settings.QUOTA_PER_DAY)]
    limited = [window for window in windows if window[2]]
    if not limited:
        return
    keys = [f"limit:{name}:{user_id}:{int(now // seconds)}" for name, seconds, _ in limited]
    arguments = [edits, *(value for _, seconds, limit in limited for value in (limit, seconds))]
    exceeded = states.attempt(lambda: _count(keys, arguments), 0)
    if exceeded:
        name, seconds, limit = limited[exceeded - 1]
        raise Exceeded(name, limit, int(seconds - now % seconds) + 1)


class OneEdit(BaseThrottle):
    """Counts one edit of the user. ninja asks it after the authentication and before it reads the body."""

    def allow_request(self, request: HttpRequest) -> bool:
        """False beyond a limit. ``request.exceeded`` says which one."""
        try:
            count(user_of(request).pk)
        except Exceeded as error:
            request.exceeded = error  # type: ignore[attr-defined]
            return False
        return True
