"""How many edits a user may submit: a rate for each minute and a quota for each day, counted in Redis.

A request counts as one edit before its body is read, whatever becomes of it: reading garbage costs time, too.
A form also counts its bytes, so that no user can fill the media store. The bytes, too, count before they are read.

While Redis is down nobody is limited: the API must not go down with it. A request that is answered with 503 gives back
what it has counted: it is sent again.

Dry runs have a rate of their own. A page that tries a prompt while it is typed uses up no edits. So have new tokens,
each of which leaves a row for longer than a year.

Answers to counted requests have the fields ``RateLimit-Policy`` and ``RateLimit`` of
draft-ietf-httpapi-ratelimit-headers-10.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseFailure
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja.throttling import BaseThrottle

from image_editor.auth import user_of
from image_editor.pipeline.state_cache import client, states


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit. ``setting`` has its value; 0: no limit."""

    name: str  # in keys of Redis and in header fields
    counts: str  # what is counted
    window: str
    seconds: int  # that the window lasts
    setting: str


EDITS = (
    Rule("minute", "edits", "minute", 60, "RATE_PER_MINUTE"),
    Rule("day", "edits", "day", 86400, "QUOTA_PER_DAY"),
)
UPLOADED = (Rule("bytes", "bytes of uploads", "day", 86400, "UPLOAD_BYTES_PER_DAY"),)
DRY_RUNS = (Rule("dry_runs", "dry runs", "minute", 60, "DRY_RUNS_PER_MINUTE"),)
TOKENS = (Rule("tokens", "tokens", "minute", 60, "TOKENS_PER_MINUTE"),)

# Counts in every window. If the limit of a window would be exceeded, it counts in none. Returns the number of that
# window, or of the last of them, and 0 if it has counted; then the counts. It takes one round trip.
_count = client.register_script("""
local found = {0}
for i, key in ipairs(KEYS) do
  found[i + 1] = tonumber(redis.call('GET', key) or 0)
  if found[i + 1] + ARGV[1] > tonumber(ARGV[2 * i]) then found[1] = i end
end
if found[1] == 0 then
  for i, key in ipairs(KEYS) do
    found[i + 1] = redis.call('INCRBY', key, ARGV[1])
    if found[i + 1] == tonumber(ARGV[1]) then redis.call('EXPIRE', key, ARGV[2 * i + 1]) end
  end
end
return found
""")


# Takes a number from every window that has not ended. Returns the counts.
_give_back = client.register_script("""
local found = {}
for i, key in ipairs(KEYS) do
  found[i] = redis.call('EXISTS', key) == 1 and redis.call('DECRBY', key, ARGV[1]) or 0
end
return found
""")


@dataclass(frozen=True, slots=True)
class Window:
    """A window of time with a limit, and what a user has used of it."""

    rule: Rule
    limit: int
    used: int
    ends_at: int  # unix time

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def seconds(self) -> int:
        return self.rule.seconds

    @property
    def remaining(self) -> int:
        return max(self.limit - self.used, 0)

    def wait(self, now: float) -> int:
        """Seconds until the window has ended."""
        return max(self.ends_at - int(now), 1)


class Exceeded(Exception):
    """A limit is reached. The same request may be accepted in ``seconds``."""

    def __init__(self, window: Window, windows: Sequence[Window]) -> None:
        self.seconds, self.windows = window.wait(time.time()), windows
        super().__init__(
            f"at most {window.limit:,} {window.rule.counts} a {window.rule.window}: try again in {self.seconds} s"
        )


def _windows(rules: Sequence[Rule], now: float) -> list[Window]:
    """The windows of the rules that hold, at this unix time, before anything is known of their use."""
    return [
        Window(rule, limit, 0, (int(now) // rule.seconds + 1) * rule.seconds)
        for rule in rules
        if (limit := getattr(settings, rule.setting))
    ]


def _keys(user_id: int, windows: Sequence[Window]) -> list[str]:
    return [f"limit:{window.name}:{user_id}:{window.ends_at // window.seconds - 1}" for window in windows]


def _with(windows: Sequence[Window], counts: Sequence[Any]) -> list[Window]:
    """The windows with these counts."""
    return [replace(window, used=int(count or 0)) for window, count in zip(windows, counts, strict=True)]


def count(user_id: int, number: int = 1, rules: Sequence[Rule] = EDITS) -> list[Window]:
    """Count edits, or what the rules are about, of a user. Beyond a limit it counts nothing and raises Exceeded.

    Returns the windows with what is used now; none while Redis is down.
    """
    windows = _windows(rules, time.time())
    if not windows:
        return []
    arguments = [number, *(value for window in windows for value in (window.limit, window.seconds))]
    found = states.attempt(lambda: _count(_keys(user_id, windows), arguments), None)
    if found is None:
        return []
    exceeded, *counts = found
    known = _with(windows, counts)
    if exceeded:
        raise Exceeded(known[exceeded - 1], known)
    return known


def counted(request: HttpRequest, number: int, rules: Sequence[Rule] = EDITS) -> None:
    """Count for the user of a request, which knows the windows and what it has counted from now on. Raises Exceeded."""
    counts: dict[Sequence[Rule], int] = getattr(request, "counted", {})
    request.counted = counts  # type: ignore[attr-defined]
    try:
        _know(request, count(user_of(request).pk, number, rules))
    except Exceeded as error:
        _know(request, error.windows)
        raise
    counts[rules] = counts.get(rules, 0) + number


def known(request: HttpRequest, rules: Sequence[Rule]) -> list[Window]:
    """What the request knows of these rules' windows: as they were when it was last counted."""
    return [window for window in getattr(request, "limits", []) if window.rule in rules]


def _know(request: HttpRequest, windows: Sequence[Window]) -> None:
    """Keep these windows at the request, in the place of what it knew of their rules."""
    limits: list[Window] = getattr(request, "limits", [])
    rules = [window.rule for window in windows]
    request.limits = [*(each for each in limits if each.rule not in rules), *windows]  # type: ignore[attr-defined]


def give_back(request: HttpRequest) -> None:
    """Take back what a request has counted."""
    for rules, number in getattr(request, "counted", {}).items():
        if windows := known(request, rules):
            keys = _keys(user_of(request).pk, windows)
            counts = states.attempt(lambda keys=keys, number=number: _give_back(keys, [number]), None)
            _know(request, windows if counts is None else _with(windows, counts))
    request.counted = {}  # type: ignore[attr-defined]


def usage(user_id: int) -> list[Window] | None:
    """The windows with what is used now, without counting; None while Redis is down."""
    windows = _windows(EDITS + DRY_RUNS, time.time())
    if not windows:
        return []
    counts = states.attempt(lambda: client.mget(_keys(user_id, windows)), None)
    return None if counts is None else _with(windows, counts)


def headers(windows: Sequence[Window]) -> dict[str, str]:
    """The fields of an answer; none if nothing is known."""
    if not windows:
        return {}
    now = time.time()
    return {
        "RateLimit-Policy": ", ".join(f'"{each.name}";q={each.limit};w={each.seconds}' for each in windows),
        "RateLimit": ", ".join(f'"{each.name}";r={each.remaining};t={each.wait(now)}' for each in windows),
    }


def shown[Answer: HttpResponseBase](view: Callable[..., Answer]) -> Callable[..., Answer]:
    """A decorator: the answer to a counted request tells what is left. One of 503 counts nothing."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Answer:
        try:
            answer = view(request, *args, **kwargs)
        except DatabaseFailure:
            give_back(request)
            raise
        if answer.status_code == 503:
            give_back(request)
        for name, value in headers(getattr(request, "limits", [])).items():
            answer[name] = value
        return answer

    return wrapper


class OneEdit(BaseThrottle):
    """Counts one edit of the user, and the bytes of a form. ninja asks it after the authentication and before it reads
    the body.
    """

    rules: Sequence[Rule] = EDITS

    def allow_request(self, request: HttpRequest) -> bool:
        """False beyond a limit. ``request.exceeded`` says which one."""
        try:
            counted(request, 1, self.rules)
            if request.content_type == "multipart/form-data":
                counted(request, int(request.headers.get("Content-Length") or 0), UPLOADED)
        except Exceeded as error:
            request.exceeded = error  # type: ignore[attr-defined]
            return False
        return True


class OneDryRun(OneEdit):
    """Counts one dry run of the user."""

    rules = DRY_RUNS


class OneToken(OneEdit):
    """Counts one new token of the user."""

    rules = TOKENS
