"""Messages are built without Celery's way of sending: they must be what it would have sent."""

import base64
import json
import time
from typing import Any

import pytest
import redis
from services import Services

TASKS = [
    ("image_editor.tasks.edit", ({"task_id": "a", "prompt": "黑白"},), "edit"),
    ("image_editor.tasks_batch.edit", ("00000000-0000-4000-8000-000000000000",), "batch"),
    ("image_editor.tasks.callback", ("00000000-0000-4000-8000-000000000000", 3), "callback"),
]


def opened(raw: bytes | str) -> dict[str, Any]:
    message = json.loads(raw)
    return message | {"body": json.loads(base64.b64decode(message["body"]))}


@pytest.mark.parametrize(("task", "args", "queue"), TASKS)
def test_a_message_is_what_celery_would_send(services: Services, task: str, args: tuple, queue: str) -> None:
    from backend.celery import app
    from image_editor.pipeline import publisher

    broker = services.admin()
    broker.flushall()
    app.send_task(task, args, task_id="x", queue=queue, headers={"request_id": ""})
    (raw,) = broker.lrange(queue, 0, -1)
    theirs, ours = opened(raw), opened(publisher.message(task, args, "x", queue))
    for message in (theirs, ours):
        assert message["properties"].pop("delivery_tag")
        assert message["headers"].pop("origin")
        assert message["headers"].pop("argsrepr")
        message["properties"].pop("reply_to")  # nobody waits for a result
    assert ours == theirs


def test_the_first_of_many_is_taken_first(services: Services) -> None:
    from image_editor.pipeline import publisher

    broker = services.admin()
    broker.flushall()
    assert publisher.publish_callbacks([("first", 0), ("second", 0), ("third", 0)]) == 3
    taken = [opened(broker.rpop("callback"))["body"][0][0] for _ in range(3)]
    assert taken == ["first", "second", "third"]


def test_one_call_at_a_time_tries_a_broker_that_is_down(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.pipeline import publisher

    tries = []

    def publish() -> int:
        return publisher.publish_callbacks([("first", 0)])

    def down(*_: Any) -> None:
        tries.append("at the same time" if len(tries) == 1 and publish() else "")
        raise redis.ConnectionError

    monkeypatch.setattr(publisher, "PAUSE", 0.2)
    with monkeypatch.context() as broker_down:
        broker_down.setattr(publisher, "_broker", down)
        for expected in (1, 1):
            assert (publish(), len(tries)) == (0, expected)
        time.sleep(0.2)
        assert (publish(), len(tries)) == (0, 2)
    assert publish() == 0
    time.sleep(0.2)
    assert (publish(), publish()) == (1, 1)
    assert tries == ["", ""]
