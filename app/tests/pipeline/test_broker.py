"""The contract with kombu: what it stores in Redis is what image_editor.pipeline.broker reads."""

import json
from typing import Any

import pytest
import redis
from services import Proxy, Services


@pytest.fixture
def admin(services: Services) -> redis.Redis:
    client = services.admin()
    client.flushall()
    return client


def send(task: str, args: tuple, task_id: str) -> None:
    from backend.celery import app

    app.send_task(task, args, task_id=task_id, ignore_result=True)


@pytest.mark.parametrize(
    ("task", "argument", "queue"),
    [
        ("image_editor.tasks.edit", {"prompt": "黑白"}, "edit"),
        ("image_editor.tasks_batch.edit", "an-id", "batch"),
        ("image_editor.tasks.callback", "an-id", "callback"),
    ],
)
def test_a_message_in_a_queue_is_read(admin: redis.Redis, task: str, argument: Any, queue: str) -> None:
    from image_editor.pipeline import broker

    send(task, (argument, 3), "x")
    with broker.client() as client:
        (message,) = broker.waiting(client, queue)
        assert (message.queue, message.task_id, message.task, message.argument) == (queue, "x", task, argument)
        send(task, (argument, 3), "y")
        send(task, (argument, 3), "z")
        assert broker.oldest_waiting(client, queue, 9) == ["z", "y", "x"]
        assert broker.oldest_waiting(client, queue, 2) == ["y", "x"], "these are taken next"
        for message in broker.waiting(client, queue):
            broker.remove(client, message)
    assert admin.llen(queue) == 0


def test_a_message_that_a_worker_holds_is_read_and_returned(admin: redis.Redis) -> None:
    """kombu takes the message here as a worker does, and never acknowledges it."""
    from backend.celery import app
    from image_editor.pipeline import broker

    send("image_editor.tasks.edit", ("an-id",), "x")
    with app.connection_for_read() as connection, connection.SimpleQueue("edit") as queue, broker.client() as client:
        queue.get(timeout=5)
        assert admin.llen("edit") == 0
        assert broker.unacknowledged(client, frozenset({"image_editor.tasks.edit"})) == ["x"]
        assert broker.unacknowledged(client, frozenset({"another"})) == []
        broker.return_unacknowledged(client)
        assert (admin.hlen("unacked"), admin.zcard("unacked_index"), admin.llen("edit")) == (0, 0, 1)
        (raw,) = admin.lrange("edit", 0, -1)
        assert json.loads(raw)["properties"]["delivery_info"]["redelivered"] is True
        assert [message.task_id for message in broker.waiting(client, "edit")] == ["x"]


def test_a_worker_that_is_cut_off_while_it_returns_messages_blocks_others_for_20_seconds(
    admin: redis.Redis, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting it would be 5 minutes."""
    from backend.celery import app

    proxy = Proxy(services.redis_port)
    proxy.start()
    find = redis.Redis.zrange

    def cut_off(*args: Any, **kwargs: Any) -> Any:
        proxy.down.set()
        proxy.cut()
        return find(*args, **kwargs)

    monkeypatch.setattr(redis.Redis, "zrange", cut_off)
    url = services.through(proxy)["IMAGE_EDITOR_BROKER_URL"]
    with app.connection_for_read(url) as connection:
        with pytest.raises(redis.ConnectionError):
            connection.default_channel.qos.restore_visible(interval=1)
        assert 0 < admin.ttl("unacked_mutex") <= 20
