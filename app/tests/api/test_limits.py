"""What is left of the limits: in the header fields of counted requests, and by a request of its own."""

import re
import time
from typing import Any

import pytest
from helpers import post, problem, upload

pytestmark = pytest.mark.django_db(transaction=True)
USAGE = "/api/v1/usage"
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}


@pytest.fixture(autouse=True)
def limits(settings: Any) -> None:
    settings.RATE_PER_MINUTE, settings.QUOTA_PER_DAY = 100, 3
    if time.time() % 60 > 50:
        time.sleep(60 - time.time() % 60)  # no minute ends during a test


def left(answer: Any) -> dict[str, tuple[int, int]]:
    """What is left, and for how many seconds, by window."""
    items = re.findall(r'"(\w+)";r=(\d+);t=(\d+)', answer["RateLimit"])
    return {name: (int(remaining), int(seconds)) for name, remaining, seconds in items}


def test_the_answer_to_an_edit_tells_what_is_left(api: Any, photo: bytes) -> None:
    answer = post(api, BODY)
    assert answer["RateLimit-Policy"] == '"minute";q=100;w=60, "day";q=3;w=86400'
    assert {name: remaining for name, (remaining, _) in left(answer).items()} == {"minute": 99, "day": 2}
    assert 0 < left(answer)["minute"][1] <= 60
    assert 0 < left(answer)["day"][1] <= 86400
    assert left(upload(api, b"not an image"))["day"][0] == 1, "a refused request counts, too"
    assert left(post(api, {"items": [BODY]}, "/api/v1/batches"))["day"][0] == 0
    refused = post(api, BODY)
    problem(refused, 429, "too_many")
    remaining, seconds = left(refused)["day"]
    assert (remaining, abs(seconds - int(refused["Retry-After"])) <= 1) == (0, True)
    assert left(refused)["minute"][0] == 97, "a refused edit counts in no window"


def test_items_of_a_batch_beyond_the_limit_are_counted_in_no_window(api: Any) -> None:
    refused = post(api, {"items": [BODY] * 4}, "/api/v1/batches")
    problem(refused, 429, "too_many")
    assert left(refused)["day"][0] == 2, "the request itself"


def test_requests_that_do_not_count_have_no_such_fields(api: Any, settings: Any) -> None:
    assert "RateLimit" not in api.get("/api/v1/edits")
    settings.RATE_PER_MINUTE = settings.QUOTA_PER_DAY = 0
    assert "RateLimit" not in post(api, BODY)
    assert api.get(USAGE).json() == {"known": True, "limits": []}


def test_usage_is_read_without_being_counted(api: Any) -> None:
    post(api, BODY)
    for _ in range(2):
        minute, day = api.get(USAGE).json()["limits"]
        assert (minute["window"], minute["limit"], minute["used"], minute["remaining"]) == ("minute", 100, 1, 99)
        assert (day["window"], day["limit"], day["used"], day["remaining"]) == ("day", 3, 1, 2)


def test_while_redis_is_down_nothing_is_limited_and_usage_says_so(api: Any, services: Any) -> None:
    services.redis.kill()
    try:
        for _ in range(4):
            answer = post(api, BODY)
            assert answer.status_code == 202
            assert "RateLimit" not in answer
        assert api.get(USAGE).json() == {"known": False, "limits": []}
    finally:
        services.start_redis()
