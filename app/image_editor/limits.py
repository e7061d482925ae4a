"""How many edits a user may submit: a minute's rate and a day's quota, counted in Redis.

A Redis that is down limits nobody: it must not take the API down with it.
"""

import time

from django.conf import settings

from image_editor.cache import client, states


class Exceeded(Exception):
    """`seconds` from now the same request may be accepted."""

    def __init__(self, what: str, limit: int, seconds: int) -> None:
        super().__init__(f"at most {limit} edits a {what}: try again in {seconds} s")
        self.seconds = seconds


def take(user_id: int, edits: int = 1) -> None:
    """Count edits of a user. Raises Exceeded, and counts nothing, beyond a limit. A limit of 0 is none."""
    now = time.time()
    windows = [("minute", 60, settings.RATE_PER_MINUTE), ("day", 86400, settings.QUOTA_PER_DAY)]
    counted = [
        (f"limit:{what}:{user_id}:{int(now // length)}", what, length, limit)
        for what, length, limit in windows
        if limit
    ]
    if not counted:
        return

    def count() -> list[tuple[str, str, int, int]]:
        """Count, and take it back if that was too much. The windows that are full."""
        with client.pipeline(transaction=False) as pipe:
            for key, _, length, _ in counted:
                pipe.incrby(key, edits)
                pipe.expire(key, length)
            totals = pipe.execute()[::2]
            over = [window for window, total in zip(counted, totals, strict=True) if total > window[3]]
            if over:
                for key, *_ in counted:
                    pipe.decrby(key, edits)
                pipe.execute()
        return over

    over = states.attempt(count, [])
    if over:
        _, what, length, limit = over[-1]
        raise Exceeded(what, limit, int(length - now % length) + 1)
