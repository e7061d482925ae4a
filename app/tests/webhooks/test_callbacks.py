"""Callbacks are signed, repeated after a failure and given up in the end. They never delay an edit."""

import contextlib
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from conftest import finished, make_user
from helpers import post
from services import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def callback(api: Any, files: Any) -> Any:
    """The row of a callback whose edit has ended."""
    from image_editor.models import Callback

    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia", "callback_url": files.url("/callback")}
    edit = post(api, body).json()
    api.post(edit["status_url"] + "/cancel")
    return Callback.objects.get(edit=edit["id"])


def send(callback: Any) -> Any:
    from image_editor.webhooks import callbacks

    callback.refresh_from_db()
    callbacks.send(str(callback.pk), callback.tries)
    callback.refresh_from_db()
    return callback


def test_a_client_can_verify_the_signature_of_a_callback(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    files.serve("/photo.jpg", photo)
    files.serve("/callback", b"")
    start("edit")
    start("callback")
    body = {"image_url": files.url("/photo.jpg"), "prompt": "sepia", "callback_url": files.url("/callback")}
    edit = post(api, body).json()
    wait_for(lambda: any(path == "/callback" for path, _, _ in files.seen), 20, "the callback arrives")
    _, headers, received = next(seen for seen in files.seen if seen[0] == "/callback")
    at, _, signature = headers["X-Signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(b"callback-signing-key", f"{at}.".encode() + received, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signature, expected)
    assert abs(time.time() - int(at)) < 60
    document = json.loads(received)
    assert document["event"] == "edit.finished"
    assert document["edit"]["id"] == edit["id"]
    assert document["edit"]["status"] == "succeeded"
    assert document["edit"] | {"result_url": ""} == finished(api, edit["id"]) | {"result_url": ""}


def test_a_callback_that_fails_is_repeated_and_given_up_after_the_last_try(callback: Any, files: Any) -> None:
    from django.utils import timezone

    files.serve("/callback", b"", status=503)
    waits = []
    for tries in range(1, 9):
        assert send(callback).tries == tries
        assert callback.last_status == 503
        waits.append((callback.next_try_at - timezone.now()).total_seconds())
    assert callback.state == "dead"
    assert all(later > earlier for earlier, later in itertools.pairwise(waits[:7])), waits
    assert 18 * 3600 < sum(waits[:7]) < 28 * 3600, "the tries do not last about a day"
    assert send(callback).tries == 8, "a ninth try was made"
    assert len({headers["X-Callback-ID"] for path, headers, _ in files.seen if path == "/callback"}) == 1


def test_a_callback_is_delivered_by_2xx_only(callback: Any, files: Any) -> None:
    files.serve("/callback", b"", status=300)
    assert (send(callback).state, callback.last_status) == ("pending", 300)
    files.serve("/callback", b"", status=299)
    assert (send(callback).state, callback.last_status) == ("delivered", 299)


def test_a_callback_that_is_not_sent_because_its_receiver_hung_is_tried_again(
    callback: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.webhooks import receivers

    monkeypatch.setattr(receivers, "turn", lambda *_: contextlib.nullcontext(receivers.Turn("broken")))
    assert (send(callback).state, callback.tries) == ("pending", 1)
    assert callback.last_error.startswith("not called")
    assert files.seen == []


def test_a_receiver_that_recovers_gets_the_callback_once(callback: Any, files: Any) -> None:
    from image_editor.webhooks import callbacks

    assert send(callback).state == "pending"
    files.serve("/callback", b"", status=204)
    assert send(callback).state == "delivered"
    assert callbacks.send(str(callback.pk), callback.tries) == "dropped"
    assert callbacks.send(str(callback.pk), 0) == "dropped"


def test_redirects_are_not_followed_and_large_responses_are_not_read(callback: Any, files: Any) -> None:
    files.serve("/callback", b"", status=302, Location=files.url("/elsewhere"))
    assert "302" in send(callback).last_error, "the redirect was followed"
    files.serve("/callback", b"x" * 1000, Content_Length=str(200 * 1024 * 1024))
    started = time.monotonic()
    assert send(callback).state == "delivered", "the body of the answer was read"
    assert time.monotonic() - started < 2
    assert not any(path == "/elsewhere" for path, _, _ in files.seen)


def test_a_callback_to_a_receiver_that_hangs_ends_after_the_timeout(
    callback: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.webhooks import callbacks

    def drip(handler: Any) -> None:
        """Send a header one byte at a time, so that no single read times out."""
        for _ in range(300):
            handler.wfile.write(b"H")
            if files.release.wait(0.1):
                return

    monkeypatch.setattr(callbacks, "TIMEOUT", 1)
    files.routes["/callback"] = drip
    started = time.monotonic()
    sent = send(callback)
    assert time.monotonic() - started < 3
    assert "took longer" in sent.last_error
    assert sent.state == "pending", "it is not tried again"
    assert 900 < sent.attempts[-1]["milliseconds"] < 3000


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://inside.example/", "http://no-such-name.example/", "http://127.0.0.1:22/"]
)
def test_a_receiver_in_the_internal_network_is_refused_once_and_for_all(
    callback: Any, files: Any, settings: Any, names: dict[str, str], url: str
) -> None:
    """A name that leads inside and a name that does not exist cannot be told apart."""
    names["inside.example"] = "10.0.0.5"
    settings.FETCH_ALLOWED_HOSTS = []
    callback.url = url
    callback.save()
    assert (send(callback).state, callback.tries) == ("dead", 1)
    expected = "port 22 is not allowed: use 80 or 443" if "22" in url else "the host of the URL has no public address"
    assert callback.last_error == expected
    assert send(callback).tries == 1, "a second try was made"
    assert files.seen == []


def test_a_callback_is_tried_again_while_names_cannot_be_resolved(callback: Any, names: dict[str, str]) -> None:
    names["unreachable.example"] = ""
    callback.url = "http://unreachable.example/"
    callback.save()
    assert (send(callback).state, callback.tries) == ("pending", 1)
    assert "resolved" in callback.last_error


def test_a_callback_that_was_never_published_is_published_later(callback: Any, services: Any) -> None:
    from django.db.models.functions import Now

    from image_editor.models import Callback
    from image_editor.webhooks import callbacks

    services.admin().flushall()
    assert callbacks.publish_due() == 0, "published before it was due"
    Callback.objects.update(next_try_at=Now())
    assert callbacks.publish_due() == 1
    assert callbacks.publish_due() == 0, "published twice"
    assert services.admin().llen("callback") == 1


def test_users_take_turns_when_more_callbacks_are_due_than_a_round_takes(
    user: Any, services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.utils import timezone

    from image_editor.models import Callback
    from image_editor.webhooks import callbacks

    monkeypatch.setattr(callbacks, "ROUND_MAX", 10)
    due = {
        owner: [
            Callback(user=owner, url="https://example.org/", created_at=at, next_try_at=at)
            for at in (timezone.now() - timedelta(minutes=minutes) for _ in range(count))
        ]
        for owner, count, minutes in ((user, 30, 9), (make_user("bob", "b" * 43), 3, 1))
    }
    for some in due.values():
        Callback.objects.bulk_create(some)
    assert callbacks.publish_due() == 10
    published = Callback.objects.filter(next_try_at__gt=timezone.now())
    assert [published.filter(user=owner).count() for owner in due] == [7, 3]
    assert [callbacks.publish_due() for _ in range(4)] == [10, 10, 3, 0]
    assert services.admin().llen("callback") == 33


def test_a_slow_callback_does_not_delay_edits(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    files.serve("/photo.jpg", photo)
    files.serve_held("/callback", b"")
    start("edit")
    start("callback")
    for _ in range(3):
        body = {"image_url": files.url("/photo.jpg"), "prompt": "sepia", "callback_url": files.url("/callback")}
        assert finished(api, post(api, body).json()["id"], 5)["status"] == "succeeded"
