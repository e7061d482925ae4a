"""A receiver that hangs, or gets very much, does not delay the callbacks of other receivers."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis
from conftest import make_user
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def event(user: Any, url: str) -> str:
    from image_editor.webhooks import callbacks

    return str(callbacks.test_event(user, url).pk)


def row(callback_id: str) -> Any:
    from image_editor.models import Callback

    return Callback.objects.get(pk=callback_id)


def send(callback_id: str, tries: int = 0) -> str:
    from image_editor.webhooks import callbacks

    return callbacks.send(callback_id, tries)


def arrivals(files: Any, path: str) -> dict[str, float]:
    """When each callback arrives at this path, by its id, in monotonic seconds."""
    arrived: dict[str, float] = {}

    def arrive(handler: Any) -> None:
        arrived[handler.headers["webhook-id"]] = time.monotonic()
        handler.send_response(204)
        handler.end_headers()

    files.routes[path] = arrive
    return arrived


@pytest.fixture
def hung(user: Any, files: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A callback whose first try has timed out."""
    from image_editor.webhooks import callbacks

    monkeypatch.setattr(callbacks, "TIMEOUT", 0.3)
    files.serve_held("/hook", b"")
    callback_id = event(user, files.url("/hook"))
    assert send(callback_id) == "failed"
    assert "took longer" in row(callback_id).last_error
    return callback_id


def test_a_receiver_that_hangs_does_not_delay_another(
    user: Any, files: Any, other_files: Any, start: Callable, figure: Callable
) -> None:
    """Two processes, as on the smallest platform. The delay is from publication to the arrival at the receiver."""
    arrived = arrivals(files, "/good")
    other_files.serve_held("/hang", b"")
    start("callback", concurrency=2)
    warm = [event(user, files.url("/good")) for _ in range(4)]
    wait_for(lambda: set(warm) <= arrived.keys(), 20, "the processes are warm")
    hanging = [event(user, other_files.url("/hang")) for _ in range(20)]
    wait_for(lambda: other_files.seen, 10, "the first call hangs")
    sent = {}
    for _ in range(8):
        sent[event(user, files.url("/good"))] = time.monotonic()
        time.sleep(0.5)
    wait_for(lambda: sent.keys() <= arrived.keys(), 30, "the other receiver gets its callbacks")
    assert len(other_files.seen) == 1, "the receiver that hangs held more than one process"
    figure("callback_isolation_seconds", max(arrived[pk] - at for pk, at in sent.items()), "s", 1)
    assert all(row(callback_id).state == "pending" for callback_id in hanging)


def test_a_user_with_many_receivers_that_hang_does_not_delay_another_user(
    user: Any, files: Any, start: Callable, figure: Callable
) -> None:
    """Three processes, as on the smallest platform. One user has sixty receivers that accept a call and say nothing."""
    bob, arrived = make_user("bob", "b" * 43), arrivals(files, "/good")
    hosts = [f"127.0.1.{number}" for number in range(1, 61)]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            stack.enter_context(socket.create_server((host, files.server_port)))
        allowed = ",".join(f"{host}:{files.server_port}" for host in ("127.0.0.1", *hosts))
        start("callback", concurrency=3, IMAGE_EDITOR_FETCH_ALLOWED_HOSTS=allowed)
        warm = [event(bob, files.url("/good")) for _ in range(6)]
        wait_for(lambda: set(warm) <= arrived.keys(), 20, "the processes are warm")
        hanging = [event(user, f"http://{host}:{files.server_port}/") for host in hosts]
        time.sleep(1)
        sent = {}
        for _ in range(10):
            sent[event(bob, files.url("/good"))] = time.monotonic()
            time.sleep(0.5)
        wait_for(lambda: sent.keys() <= arrived.keys(), 30, "the other user gets their callbacks")
    figure("callbacks_isolated_seconds", max(arrived[pk] - at for pk, at in sent.items()), "s", 2)
    assert all(row(callback_id).state == "pending" for callback_id in hanging)


def test_what_waits_for_a_place_of_the_user_follows_in_the_order_in_which_it_came(
    user: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.webhooks import receivers

    settings.WEBHOOK_CALLS_MAX_USER = 2
    published: list[tuple[str, int]] = []
    monkeypatch.setattr(receivers.publisher, "publish_callbacks", published.extend)

    def turn(host: str, name: str) -> AbstractContextManager[receivers.Turn]:
        return receivers.turn(user.pk, f"http://{host}.example.org/", name, 0)

    with turn("a", "first") as first, turn("b", "second") as second:
        assert (first.state, second.state) == ("free", "free")
        for host, name in (("c", "third"), ("a", "fourth"), ("d", "fifth")):
            with turn(host, name) as taken:
                assert taken.state == "busy"
        with receivers.turn(user.pk + 1, "http://a.example.org/", "of another user", 0) as taken:
            assert taken.state == "free"
        second.outcome = "answered"
    # A call that has ended publishes what has waited longest, for its receiver or for any place of the user.
    assert published == [("third", 0), ("fourth", 0)]


def test_calls_to_a_receiver_are_limited_and_what_waits_follows_without_delay(
    user: Any, files: Any, start: Callable
) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def slow(handler: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1
        handler.send_response(204)
        handler.end_headers()

    files.routes["/slow"] = slow
    start("callback", concurrency=4, IMAGE_EDITOR_WEBHOOK_CALLS_MAX="2")
    ids = [event(user, files.url("/slow")) for _ in range(20)]
    # Nothing else publishes them: there is no scheduler.
    wait_for(lambda: all(row(callback_id).state == "delivered" for callback_id in ids), 25, "all are delivered")
    assert most == 2
    assert len(files.seen) == 20, "a callback was delivered twice"


def test_a_receiver_that_timed_out_is_not_called_for_a_while(user: Any, files: Any, hung: str) -> None:
    assert len(files.seen) == 1
    assert send(hung, 1) == "failed"
    assert len(files.seen) == 1, "the receiver was called"
    assert row(hung).tries == 2
    assert [attempt["error"].partition(":")[0] for attempt in row(hung).attempts][1] == "not called"


def test_the_breaker_closes_with_the_first_answer_and_stays_open_longer_without(
    user: Any, files: Any, hung: str, services: Any
) -> None:
    cache = services.admin(1)
    (breaker,) = cache.keys("webhook:*:breaker")
    assert 50 < cache.ttl(breaker) <= 60
    cache.delete(breaker)  # as if it had expired
    assert send(hung, 1) == "failed"
    assert len(files.seen) == 2, "the receiver gets no second chance"
    assert 110 < cache.ttl(breaker) <= 120
    cache.delete(breaker)
    files.serve("/hook", b"", status=500)
    assert send(hung, 2) == "failed"
    assert not cache.keys("webhook:*:timeouts"), "the answer is not noticed"
    files.serve("/hook", b"")
    assert send(hung, 3) == "delivered"


def test_the_call_that_tries_whether_a_receiver_is_back_is_alone(
    user: Any, files: Any, hung: str, services: Any, settings: Any
) -> None:
    from image_editor.webhooks import receivers

    settings.WEBHOOK_CALLS_MAX = 5
    services.admin(1).delete(*services.admin(1).keys("webhook:*:breaker"))
    with (
        receivers.turn(user.pk, files.url("/hook"), "first", 0) as first,
        receivers.turn(user.pk, files.url("/hook"), "second", 0) as second,
    ):
        assert (first.state, second.state) == ("free", "busy")


def test_users_and_hosts_do_not_share_a_breaker(user: Any, files: Any, other_files: Any, hung: str) -> None:
    for path in ("/hook", "/elsewhere"):
        files.serve(path, b"")
    other_files.serve("/hook", b"")
    assert send(event(user, other_files.url("/hook"))) == "delivered"
    assert send(event(make_user("bob", "b" * 43), files.url("/hook"))) == "delivered"
    assert send(event(user, files.url("/elsewhere"))) == "failed", "a path has a breaker of its own"


def test_the_slot_of_a_process_that_died_is_free_again(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.webhooks import receivers

    monkeypatch.setattr(receivers, "CALL_MAX", 1)
    lost = receivers.turn(user.pk, "http://example.org/", "first", 0)
    assert lost.__enter__().state == "free"
    with receivers.turn(user.pk, "http://example.org/", "second", 0) as turn:
        assert turn.state == "busy"

    def free() -> bool:
        with receivers.turn(user.pk, "http://example.org/", "second", 0) as turn:
            return turn.state == "free"

    wait_for(free, 5, "the slot is free")


def test_a_callback_that_was_published_again_does_not_stop_those_that_wait_behind_it(
    user: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.webhooks import receivers

    published: list[tuple[str, int]] = []
    monkeypatch.setattr(receivers.publisher, "publish_callbacks", published.extend)

    def turn(callback: str) -> AbstractContextManager[receivers.Turn]:
        return receivers.turn(user.pk, "http://example.org/", callback, 0)

    lost = turn("lost")
    assert lost.__enter__().state == "free"
    for callback in ("first", "second"):
        with turn(callback) as taken:
            assert taken.state == "busy"
    services.admin(1).delete(*services.admin(1).keys("webhook:*:calls"))  # as after CALL_MAX
    with turn("first") as taken:
        assert taken.state == "free"
    assert published == [("second", 0)]


def test_receivers_are_called_while_redis_is_down(
    user: Any, files: Any, hung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.webhooks import receivers

    def down(*_: Any) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(receivers, "_enter", down)
    monkeypatch.setattr(receivers, "_leave", down)
    files.serve("/hook", b"")
    assert send(hung, 1) == "delivered"
