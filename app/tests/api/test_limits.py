"""What is left of the limits: in the header fields of counted requests, and by a request of its own."""

import io
import re
import time
from typing import Any

import pytest
from helpers import post, problem, upload

pytestmark = pytest.mark.django_db(transaction=True)
USAGE, DRY_RUN, TOKENS = "/api/v1/usage", "/api/v1/edits/dry_run", "/api/v1/tokens"
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}


@pytest.fixture(autouse=True)
def limits(settings: Any) -> None:
    settings.RATE_PER_MINUTE, settings.QUOTA_PER_DAY = 100, 3
    settings.DRY_RUNS_PER_MINUTE = settings.TOKENS_PER_MINUTE = 2
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


def test_items_of_a_batch_beyond_the_limit_are_counted_in_no_window_and_not_checked(
    api: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.imaging import engines

    def get(name: str) -> None:
        raise AssertionError("a prompt was parsed")

    monkeypatch.setattr(engines, "get", get)
    refused = post(api, {"items": [BODY] * 4}, "/api/v1/batches")
    assert problem(refused, 429, "too_many")["detail"].startswith("at most 3 edits a day: try again in ")
    assert left(refused)["day"][0] == 2, "the request itself"
    form = {"image": [io.BytesIO(photo) for _ in range(3)], "prompt": "sepia"}
    assert left(api.post("/api/v1/batches", form))["day"][0] == 1


def test_requests_that_do_not_count_have_no_such_fields(api: Any, settings: Any) -> None:
    assert "RateLimit" not in api.get("/api/v1/edits")
    settings.RATE_PER_MINUTE = settings.QUOTA_PER_DAY = 0
    settings.DRY_RUNS_PER_MINUTE = settings.TOKENS_PER_MINUTE = 0
    assert "RateLimit" not in post(api, BODY)
    for _ in range(3):
        assert "RateLimit" not in post(api, {"prompt": "sepia"}, DRY_RUN)
        assert "RateLimit" not in post(api, {"name": "shop"}, TOKENS)
    assert api.get(USAGE).json() == {"known": True, "limits": []}


def test_usage_is_read_without_being_counted(api: Any) -> None:
    post(api, BODY)
    for _ in range(2):
        found = [list(limit.values())[:5] for limit in api.get(USAGE).json()["limits"]]
        assert found == [["edits", "minute", 100, 1, 99], ["edits", "day", 3, 1, 2], ["dry_runs", "minute", 2, 0, 2]]


def test_dry_runs_have_a_limit_of_their_own(api: Any, settings: Any) -> None:
    for number in (1, 0):
        answer = post(api, {"prompt": "sepia"}, DRY_RUN)
        assert answer.status_code == 200
        assert answer["RateLimit-Policy"] == '"dry_runs";q=2;w=60'
        assert left(answer)["dry_runs"][0] == number
    refused = post(api, {"prompt": "sepia"}, DRY_RUN)
    assert problem(refused, 429, "too_many")["detail"].startswith("at most 2 dry runs a minute: try again in ")
    assert 0 < int(refused["Retry-After"]) <= 61
    assert {name: remaining for name, (remaining, _) in left(post(api, BODY)).items()} == {"minute": 99, "day": 2}
    dry_runs = next(limit for limit in api.get(USAGE).json()["limits"] if limit["of"] == "dry_runs")
    assert (dry_runs["used"], dry_runs["remaining"]) == (2, 0)


def test_new_tokens_have_a_limit_of_their_own(api: Any) -> None:
    """Made or rotated. A token that is revoked gives nothing back."""
    made = post(api, {"name": "shop"}, TOKENS)
    assert made["RateLimit-Policy"] == '"tokens";q=2;w=60'
    rotated = post(api, {"overlap_seconds": 0}, f"{TOKENS}/{made.json()['id']}/rotate")
    assert (rotated.status_code, left(rotated)["tokens"][0]) == (201, 0)
    address = f"{TOKENS}/{rotated.json()['id']}"
    for refused in (post(api, {"name": "more"}, TOKENS), post(api, {}, f"{address}/rotate")):
        assert problem(refused, 429, "too_many")["detail"].startswith("at most 2 tokens a minute: try again in ")
    assert api.delete(address).status_code == 204
    problem(post(api, {"name": "more"}, TOKENS), 429, "too_many")
    assert len(api.get(TOKENS).json()["items"]) == 1
    assert {name: remaining for name, (remaining, _) in left(post(api, BODY)).items()} == {"minute": 99, "day": 2}


def test_beyond_the_limit_no_body_of_a_dry_run_is_read(api: Any) -> None:
    for _ in range(2):
        problem(post(api, "garbage", DRY_RUN), 400, "not_json")
    # The announced body does not follow: whoever reads it gets an error.
    answer = api.generic("POST", DRY_RUN, b"{", "application/json", CONTENT_LENGTH="10000")
    problem(answer, 429, "too_many")


def test_what_the_platform_could_not_do_counts_nothing(api: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client sends it again, with the same number of items."""
    from django.db import OperationalError

    from image_editor import storage
    from image_editor.pipeline import transitions

    def gone(*_: Any) -> None:
        raise OperationalError("the server is gone")

    def away(*_: Any) -> None:
        raise storage.StorageUnavailable("the store is gone")

    monkeypatch.setattr(transitions, "accept_batch", gone)
    monkeypatch.setattr(transitions, "accept", gone)
    for answer in (post(api, {"items": [BODY] * 3}, "/api/v1/batches"), post(api, BODY)):
        problem(answer, 503)
    monkeypatch.setattr(storage, "put", away)
    assert left(upload(api, photo))["day"][0] == 3
    limits = api.get(USAGE).json()["limits"]
    assert [limit["used"] for limit in limits if limit["of"] == "edits"] == [0, 0], limits


def test_bytes_of_uploads_have_a_limit_that_holds_before_they_are_read(
    api: Any, photo: bytes, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor import storage
    from image_editor.api.validation import media_pause

    def away(*_: Any) -> None:
        raise storage.StorageUnavailable("the store is gone")

    settings.QUOTA_PER_DAY, settings.UPLOAD_BYTES_PER_DAY = 100, 2 * len(photo)
    with monkeypatch.context() as store:
        store.setattr(storage, "put", away)
        problem(upload(api, photo), 503)
    media_pause.resume()
    accepted = upload(api, photo)
    assert accepted.status_code == 202, "the upload that could not be stored has counted as nothing"
    assert 0 < left(accepted)["bytes"][0] < len(photo)
    for path in ("/api/v1/edits", "/api/v1/batches", "/api/v1/uploads"):
        # The announced body does not follow: whoever reads it gets an error.
        refused = api.generic("POST", path, b"-", "multipart/form-data; boundary=x", CONTENT_LENGTH=str(len(photo)))
        detail = problem(refused, 429, "too_many")["detail"]
        assert detail.startswith(f"at most {2 * len(photo):,} bytes of uploads a day: try again in ")
    assert post(api, BODY).status_code == 202, "what has no upload"


def test_edits_that_are_used_up_leave_dry_runs(api: Any, settings: Any) -> None:
    settings.RATE_PER_MINUTE = 1
    post(api, BODY)
    problem(post(api, BODY), 429, "too_many")
    assert post(api, {"prompt": "sepia"}, DRY_RUN).status_code == 200


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
