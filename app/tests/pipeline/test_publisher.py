"""Publishing: valid messages, in order, in one round trip. While the broker is down, one call at a time tries it."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import redis
from services import Services

MESSAGE_FIELDS = {"image_url": "https://example.org/a.jpg", "prompt": "黑白", "callback_url": ""}


def message(task_id: str) -> Any:
    from image_editor.pipeline.message import EditMessage

    return EditMessage(
        task_id, user_id=1, username="alice", accepted_at="2026-01-01T00:00:00+00:00", fresh=True, **MESSAGE_FIELDS
    )


@pytest.fixture
def broker(services: Services) -> redis.Redis:
    client = services.admin()
    client.flushall()
    return client


def stored(broker: redis.Redis, queue: str) -> list[Any]:
    """The messages of a queue, in the order in which workers take them."""
    from image_editor.pipeline.broker import StoredMessage

    return [StoredMessage.read(raw, queue) for raw in reversed(broker.lrange(queue, 0, -1))]


def test_an_edit_is_published_under_its_id_with_the_whole_message(broker: redis.Redis) -> None:
    from image_editor.observability.request_id import request_id
    from image_editor.pipeline import publisher

    token = request_id.set("request-1")
    try:
        assert publisher.publish_edits([message("a")]) == 1
    finally:
        request_id.reset(token)
    (found,) = stored(broker, "edit")
    assert (found.task_id, found.task) == ("a", "image_editor.tasks.edit")
    assert found.argument == message("a").payload()
    headers = json.loads(found.raw)["headers"]
    assert headers["request_id"] == "request-1"
    assert "黑白" not in headers["argsrepr"], "task events repeat the prompt"


def test_batches_have_a_queue_and_a_task_of_their_own(broker: redis.Redis) -> None:
    from image_editor.pipeline import publisher, queues

    messages = [replace(message(task_id), batch_id="b") for task_id in ("first", "second", "third")]
    assert publisher.publish_edits(messages, queues.queue_of_edit(in_batch=True)) == 3
    assert broker.llen("edit") == 0
    found = stored(broker, "batch")
    assert [stored_message.task_id for stored_message in found] == ["first", "second", "third"]
    assert {stored_message.task for stored_message in found} == {"image_editor.tasks_batch.edit"}


def test_messages_are_taken_in_the_order_of_publication(broker: redis.Redis) -> None:
    from image_editor.pipeline import publisher

    assert publisher.publish_callbacks([("first", 0), ("second", 0), ("third", 0)]) == 3
    assert [found.argument for found in stored(broker, "callback")] == ["first", "second", "third"]


def test_many_messages_take_one_round_trip(broker: redis.Redis) -> None:
    from image_editor.pipeline import publisher

    publisher.publish_edits([message("warm")])  # opens the connection
    before = broker.info("commandstats")["cmdstat_lpush"]["calls"]
    assert publisher.publish_edits([message(str(number)) for number in range(100)]) == 100
    assert broker.info("commandstats")["cmdstat_lpush"]["calls"] - before == 1


def test_only_one_call_at_a_time_tries_to_reach_a_broker_that_is_down(
    broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import publisher

    tries = []

    def publish() -> int:
        return publisher.publish_callbacks([("first", 0)])

    def down(*_: Any) -> None:
        tries.append("at the same time" if len(tries) == 1 and publish() else "")
        raise redis.ConnectionError

    monkeypatch.setattr(publisher, "PAUSE", 0.2)
    publisher.resume()
    with monkeypatch.context() as broker_down:
        broker_down.setattr(publisher._broker, "lpush", down)
        for expected in (1, 1):
            assert (publish(), len(tries)) == (0, expected)
        time.sleep(0.2)
        assert (publish(), len(tries)) == (0, 2)
    assert publish() == 0
    time.sleep(0.2)
    assert (publish(), publish()) == (1, 1)
    assert tries == ["", ""]


def test_a_connection_that_was_closed_is_replaced(broker: redis.Redis) -> None:
    """A proxy or Redis closes idle connections. The next edit is still published at once."""
    from image_editor.pipeline import publisher

    assert publisher.publish_edits([message("a")]) == 1
    broker.client_kill_filter(_type="normal", skipme=True)
    assert publisher.publish_edits([message("b")]) == 1
    assert broker.llen("edit") == 2


def test_a_broker_that_does_not_answer_costs_less_than_two_seconds(services: Services, broker: redis.Redis) -> None:
    """The first publish uses an open connection. The second needs a new connection."""
    import signal

    from image_editor.pipeline import publisher

    assert publisher.publish_edits([message("a")]) == 1
    services.redis.signal_all(signal.SIGSTOP)
    try:
        for _ in range(2):
            publisher.resume()
            began = time.monotonic()
            assert publisher.publish_edits([message("b")]) == 0
            assert time.monotonic() - began < 2
    finally:
        services.redis.signal_all(signal.SIGCONT)
        publisher.resume()
