"""The contract with Celery and kombu: our messages are what ``send_task`` stores."""

import base64
import json
from typing import Any

import pytest
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
def test_a_message_equals_the_message_that_celery_would_send(
    services: Services, task: str, args: tuple, queue: str
) -> None:
    from backend.celery import app
    from image_editor.shortcuts.task_message import task_message

    broker = services.admin()
    broker.flushall()
    app.send_task(task, args, task_id="x", queue=queue, headers={"request_id": ""})
    (raw,) = broker.lrange(queue, 0, -1)
    theirs, ours = opened(raw), opened(task_message(task, args, "x", queue))
    for message in (theirs, ours):
        assert message["properties"].pop("delivery_tag")
        assert message["headers"].pop("origin")
        assert message["headers"].pop("argsrepr")
        message["properties"].pop("reply_to")  # only a caller that waits for the result needs it
    assert ours == theirs
