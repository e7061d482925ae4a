"""Waiting for the end: by the preference of a request, and by a stream of events. One request of a process waits."""

import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from conftest import TOKEN, gunicorn, make_user
from django.db import OperationalError
from django.test import Client
from helpers import EDITS, ended, post, problem, upload
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BATCHES = "/api/v1/batches"
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}


def events(answer: Any) -> Iterator[dict[str, str]]:
    """The fields of each event of a stream, as they come."""
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/event-stream"
    assert answer["X-Accel-Buffering"] == "no"
    for chunk in answer.streaming_content:
        fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if ": " in line)
        if "data" in fields:
            yield fields


@pytest.fixture
def taken(user: Any) -> Iterator[None]:
    """Another request of this user waits in this process."""
    from image_editor.api import waiting

    with waiting._places.one_for(SimpleNamespace(auth=user)) as place:
        assert place
        yield


def test_a_request_that_prefers_to_wait_is_answered_with_the_result(api: Any, photo: bytes, start: Callable) -> None:
    start("edit")
    form = {"image": io.BytesIO(photo), "prompt": "sepia"}
    answer = api.post(EDITS, form, headers={"Prefer": "respond-async, wait=15"})
    assert (answer.status_code, answer["Preference-Applied"]) == (200, "wait=15")
    edit = answer.json()
    assert edit["status"] == "succeeded"
    assert requests.get(edit["result_url"], timeout=5).status_code == 200
    again = api.get(edit["status_url"], headers={"Prefer": "wait=15"})
    assert (again.json()["status"], again["Preference-Applied"]) == ("succeeded", "wait=15")


def test_after_the_preferred_time_the_answer_has_the_present_state(api: Any) -> None:
    for path, body in ((EDITS, BODY), (BATCHES, {"items": [BODY]})):
        began = time.monotonic()
        answer = post(api, body, path, Prefer="wait=1")
        assert 1 <= time.monotonic() - began < 3
        assert (answer.status_code, answer["Preference-Applied"]) == (202, "wait=1")
        again = api.get(answer.json()["status_url"], headers={"Prefer": "wait=1"})
        assert (again.status_code, again["Preference-Applied"]) == (200, "wait=1")
        assert again.json()["id"] == answer.json()["id"]


def test_a_batch_is_waited_for_until_its_last_item_has_ended(
    api: Any, photo: bytes, files: Any, start: Callable
) -> None:
    start("batch")
    items = [{"image_url": files.serve("/photo.jpg", photo), "prompt": prompt} for prompt in ("sepia", "blur")]
    answer = post(api, {"items": items}, BATCHES, Prefer="wait=15")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["finished"]) == ("finished", 2)
    assert {item["status"] for item in answer.json()["items"]} == {"succeeded"}


@pytest.mark.parametrize("header", ["wait=0", "wait", "wait=soon", "wait=-1", "awaited=5", "respond-async", ""])
def test_other_preferences_are_ignored(api: Any, header: str) -> None:
    began = time.monotonic()
    answer = post(api, BODY, Prefer=header)
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer
    assert time.monotonic() - began < 1


def test_nobody_waits_longer_than_the_longest_wait(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.api import waiting

    monkeypatch.setattr(waiting, "SECONDS_MAX", 1)
    began = time.monotonic()
    assert post(api, BODY, Prefer="wait=600")["Preference-Applied"] == "wait=1"
    assert time.monotonic() - began < 3


def test_a_repeated_request_waits_too(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    body = BODY | {"image_url": files.serve("/photo.jpg", photo)}
    assert post(api, body, Idempotency_Key="k").status_code == 202
    start("edit")
    again = post(api, body, Idempotency_Key="k", Prefer="wait=15")
    assert (again.status_code, again.json()["status"]) == (200, "succeeded")
    assert again["Idempotency-Replayed"] == "true"
    assert post(api, body, Idempotency_Key="k").status_code == 202, "without the preference nothing changes"


def test_while_postgresql_is_away_an_accepted_edit_is_answered_as_accepted(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.api import edits

    def away(*_: Any) -> None:
        raise OperationalError("the connection was lost")

    monkeypatch.setattr(edits, "read", away)
    answer = post(api, BODY, Prefer="wait=10")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


def test_while_another_request_waits_the_next_is_answered_at_once(api: Any, taken: None) -> None:
    answer = post(api, BODY, Prefer="wait=10")
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer
    stream = api.get(answer.json()["status_url"] + "/events")
    assert [event["id"] for event in events(stream)] == ["queued-0"]
    ended_now = api.post(answer.json()["status_url"] + "/cancel").json()
    assert "Preference-Applied" in api.get(ended_now["status_url"], headers={"Prefer": "wait=10"})


def test_a_process_with_a_waiting_request_answers_others(api: Any, web: Callable) -> None:
    base = web(threads=2)
    address = base + post(api, BODY).json()["status_url"]
    headers = {"Authorization": f"Bearer {TOKEN}", "Prefer": "wait=4"}

    def ask(_: int = 0) -> requests.Response:
        return requests.get(address, headers=headers, timeout=10)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
        waited = [answer for answer in answers if "Preference-Applied" in answer.headers]
        assert len(waited) == 1
        assert waited[0].elapsed.total_seconds() >= 4
        assert all(answer.elapsed.total_seconds() < 3 for answer in answers if answer not in waited)
        streamed = pool.submit(requests.get, f"{address}/events", headers=headers, timeout=30)
        time.sleep(0.5)
        assert "Preference-Applied" not in ask().headers, "a stream takes the place, too"
        api.post(address.removeprefix(base) + "/cancel")
        assert "event: edit" in streamed.result().text
        assert '"status": "cancelled"' in streamed.result().text
    assert ask().json()["status"] == "cancelled"


def test_a_stream_has_an_event_for_each_change(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    files.serve_held("/slow.jpg", photo)
    edit = post(api, BODY | {"image_url": files.url("/slow.jpg")}).json()
    threading.Timer(0.5, start, ["edit"]).start()
    seen = []
    for event in events(api.get(edit["status_url"] + "/events")):
        seen.append(event)
        if json.loads(event["data"])["status"] == "processing":
            files.release.set()
    statuses = [json.loads(event["data"])["status"] for event in seen]
    assert (statuses[0], statuses[-1]) == ("queued", "succeeded")
    assert "processing" in statuses
    assert len({event["id"] for event in seen}) == len(seen)
    assert {event["event"] for event in seen} == {"edit"}
    last = api.get(edit["status_url"]).json()
    assert json.loads(seen[-1]["data"]) | {"result_url": ""} == last | {"result_url": ""}
    known = api.get(edit["status_url"] + "/events", headers={"Last-Event-ID": seen[-1]["id"]})
    assert (known.status_code, known.content) == (204, b"")
    assert len(list(events(api.get(edit["status_url"] + "/events")))) == 1


def test_a_batch_is_watched_without_its_items(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    items = [{"image_url": files.serve("/photo.jpg", photo), "prompt": prompt} for prompt in ("sepia", "blur")]
    batch = post(api, {"items": items}, BATCHES).json()
    threading.Timer(0.5, start, ["batch"]).start()
    seen = [json.loads(event["data"]) for event in events(api.get(batch["status_url"] + "/events"))]
    assert (seen[0]["finished"], seen[-1]["finished"], seen[-1]["status"]) == (0, 2, "finished")
    assert "items" not in seen[0]


def test_a_client_that_has_gone_frees_its_place(api: Any, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.api import waiting

    def is_free() -> bool:
        with waiting._places.one_for(SimpleNamespace(auth=user)) as place:
            return place is not None

    monkeypatch.setattr(waiting, "QUIET", 0)
    edit = post(api, BODY).json()
    answer = api.get(edit["status_url"] + "/events")
    parts = iter(answer.streaming_content)
    assert [next(parts).split(b":")[0] for _ in range(3)] == [b"retry", b"event", b""]
    assert not is_free()
    answer.close()
    assert is_free()


@pytest.mark.parametrize("path", ["", "/events"], ids=["wait", "stream"])
def test_one_user_does_not_keep_a_place_from_another(api: Any, web: Callable, path: str) -> None:
    make_user("watcher", "w" * 43)
    base, address = web(threads=2), post(api, BODY).json()["status_url"]
    theirs = Client(headers={"Authorization": f"Bearer {'w' * 43}"}).post(EDITS, BODY, content_type="application/json")

    def wait(edit: str, token: str, seconds: int) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}", "Prefer": f"wait={seconds}"}
        return requests.get(base + edit, headers=headers, timeout=30)

    with ThreadPoolExecutor() as pool:
        holder = pool.submit(wait, theirs.json()["status_url"] + path, "w" * 43, 20)
        time.sleep(1)
        wait_for(lambda: "Preference-Applied" in wait(address, TOKEN, 1).headers, 15, "the place was given up")
        assert "Preference-Applied" not in holder.result(2).headers


def test_a_place_is_kept_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.api import waiting

    mine, theirs = (SimpleNamespace(auth=SimpleNamespace(pk=pk)) for pk in (1, 2))
    with waiting._places.one_for(mine):
        with waiting._places.one_for(theirs) as place:
            assert place is None
        monkeypatch.setattr(waiting, "OWN", 0)
        with waiting._places.one_for(mine) as place:
            assert place is None, "a user takes it from itself"
        with waiting._places.one_for(theirs) as place:
            assert place


ASKS = {"wait": ("", {"Prefer": "wait=20"}), "stream": ("/events", {})}  # the end of a path, and header fields


@pytest.mark.parametrize(("path", "headers"), ASKS.values(), ids=ASKS)
def test_a_client_that_goes_away_gives_its_place_back_within_a_second(
    api: Any, web: Callable, path: str, headers: dict[str, str]
) -> None:
    base = web(threads=2)
    edit = post(api, BODY).json()["status_url"]
    fields = {"Host": "testserver", "Authorization": f"Bearer {TOKEN}"}
    request = [f"GET {edit}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in (fields | headers).items())]

    def place() -> float:
        """When a request came that got a place; 0 if another one has it."""
        came = time.monotonic()
        answer = requests.get(base + edit, headers=fields | {"Prefer": "wait=1"}, timeout=10)
        return came if "Preference-Applied" in answer.headers else 0.0

    with socket.create_connection(("127.0.0.1", urlsplit(base).port)) as client:
        client.sendall("\r\n".join([*request, "", ""]).encode())
        time.sleep(3)  # so long that the pauses between two looks are the longest
        assert not place(), "nobody has the place"
    left = time.monotonic()
    assert wait_for(place, 5, "a place is free") - left < 1


@pytest.mark.parametrize(("path", "headers"), ASKS.values(), ids=ASKS)
def test_a_process_that_is_asked_to_stop_does_not_wait_for_clients(
    api: Any, services: Services, tmp_path: Path, path: str, headers: dict[str, str]
) -> None:
    process, base = gunicorn(tmp_path / "web.log", threads=2)
    try:
        edit = post(api, BODY).json()["status_url"]
        headers = {"Authorization": f"Bearer {TOKEN}", **headers}
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(requests.get, f"{base}{edit}{path}", headers=headers, timeout=30)
            time.sleep(3)
            assert not waiting.done()
            asked = time.monotonic()
            os.kill(process.popen.pid, signal.SIGTERM)
            answer = waiting.result(10)
            assert time.monotonic() - asked < 2
            process.popen.wait(10)
    finally:
        process.kill()
    assert answer.status_code == 200
    assert "queued" in answer.text
    assert "Preference-Applied" not in answer.headers


def test_a_client_that_connects_again_is_not_told_what_it_knows(api: Any, taken: None) -> None:
    edit = post(api, BODY).json()
    assert list(events(api.get(edit["status_url"] + "/events", headers={"Last-Event-ID": "queued-0"}))) == []


def test_edits_and_batches_of_others_cannot_be_watched(api: Any, user: Any, photo: bytes) -> None:
    edit, batch = upload(api, photo).json(), post(api, {"items": [BODY]}, BATCHES).json()
    make_user("mallory", "m" * 43)
    other = Client(headers={"Authorization": f"Bearer {'m' * 43}"})
    for subject in (edit, batch):
        problem(other.get(subject["status_url"] + "/events"), 404, "not_found")
    assert api.get(f"{EDITS}/{ended(user).pk}/events").status_code == 200


def test_the_time_of_waiting_does_not_count_as_latency(api: Any) -> None:
    from image_editor.observability.request_metrics import Measure

    class Anything:
        def __getattr__(self, _: str) -> Any:
            return self

        def __call__(self, **_: str) -> Any:
            return self

        def observe(self, seconds: float) -> None:
            seen.append(seconds)

        def inc(self) -> None:
            pass

    def wait(request: Any) -> Any:
        time.sleep(0.3)
        request.waited = 0.3
        return SimpleNamespace(status_code=200)

    seen: list[float] = []
    measure = Measure.__new__(Measure)
    measure.get_response, measure.metrics, measure.known = wait, Anything(), {}
    measure(SimpleNamespace(resolver_match=None, method="GET"))
    assert len(seen) == 2
    assert max(seen) < 0.2
