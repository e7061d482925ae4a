"""How many statements an edit costs, counted by PostgreSQL."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from helpers import post
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

COUNTED = """
SELECT split_part(query, ' ', 1), calls FROM pg_stat_statements
WHERE userid = 'app'::regrole AND dbid = (SELECT oid FROM pg_database WHERE datname = 'app')
  AND query NOT LIKE '% FOR KEY SHARE OF x'  -- PostgreSQL's own check of a foreign key
"""


@pytest.fixture
def cost(api: Any, photo: bytes, files: Any, start: Callable, services: Services) -> Callable[..., dict[str, float]]:
    """Return a function: a warm worker's statements for each edit, by their first word. The API is idle meanwhile."""

    def all_done() -> bool:
        ((unfinished,),) = services.psql("SELECT count(*) FROM edit WHERE status <> 'succeeded'", database="app")
        return unfinished == 0

    def _cost(upload: str = "", batch: bool = False, plans: bool = False, **fields: str) -> dict[str, float]:
        from backend.celery import app
        from image_editor.models import Edit
        from image_editor.pipeline import publisher, queues
        from image_editor.pipeline.message import REQUIRED, EditMessage

        body = {"image_url": files.serve("/photo.jpg", photo), "prompt": "sepia", **fields}
        if batch:
            assert post(api, {"items": [body] * 10}, "/api/v1/batches").status_code == 202
        for _ in range(0 if batch else 10):
            assert post(api, body).status_code == 202
        # Limits as on the platform: an edit that takes longer than a sixth of the lease costs another UPDATE.
        limits = {"TASK_TIME_LIMIT": "120", "TASK_SOFT_TIME_LIMIT": "100", "VISIBILITY_TIMEOUT": "300"}
        queue = queues.BATCH if batch else queues.EDIT
        start(queue.name, **{f"IMAGE_EDITOR_{name}": value for name, value in limits.items()})
        wait_for(all_done, 20, "the edits are done")
        messages = [EditMessage.of(edit, "alice") for edit in Edit.objects.all()]
        if upload:  # the message that the request with the upload publishes
            messages = [replace(message, image_url=upload, fresh=True) for message in messages]
        again = (
            "DELETE FROM callback",
            "UPDATE edit SET status = 'queued', attempt = 0",
            "UPDATE batch SET unfinished = total",
        )
        services.psql(*again, database="app")
        services.psql("SELECT pg_stat_statements_reset()", database="app")
        if plans:
            for message in messages:
                argument = {name: value for name, value in message.payload().items() if name in REQUIRED}
                app.send_task(queue.tasks[0], (argument,), task_id=message.task_id, queue=queue.name)
        else:
            assert publisher.publish_edits(messages, queue) == 10
        wait_for(all_done, 20, "the edits are done again")
        counted: dict[str, float] = {}
        for kind, calls in services.psql(COUNTED, database="app"):
            counted[kind] = counted.get(kind, 0) + calls / len(messages)
        return counted

    return _cost


def test_a_full_message_costs_two_writes_and_no_read(cost: Callable, figure: Callable) -> None:
    counted = cost()
    figure("worker_selects_full", counted.get("SELECT", 0), "statements/edit", 0)
    figure("worker_writes_full", counted["UPDATE"], "statements/edit", 2)
    assert counted == {"UPDATE": 2}


def test_an_item_of_a_batch_costs_no_read(cost: Callable, figure: Callable) -> None:
    counted = cost(batch=True)
    figure("worker_selects_batch", counted.get("SELECT", 0), "statements/edit", 0)


def test_the_message_of_the_plan_costs_no_read(cost: Callable, figure: Callable) -> None:
    """A dictionary of six fields, as the plan writes it."""
    counted = cost(plans=True)
    figure("worker_selects_plan", counted.get("SELECT", 0), "statements/edit", 0)
    assert counted == {"UPDATE": 2}


def test_an_upload_costs_one_write(cost: Callable, photo: bytes, figure: Callable) -> None:
    from image_editor import storage

    storage.put("uploads/photo.jpg", photo, "image/jpeg")
    counted = cost(upload="media:uploads/photo.jpg")
    figure("worker_writes_upload", counted["UPDATE"], "statements/edit", 1)
    assert counted == {"UPDATE": 1}


def test_a_message_with_an_id_alone_costs_one_more_read(cost: Callable, figure: Callable, settings: Any) -> None:
    settings.TASK_PAYLOAD = "id"
    counted = cost()
    figure("worker_selects_id", counted.get("SELECT", 0), "statements/edit")
    figure("worker_writes_id", counted["UPDATE"], "statements/edit")
    assert counted == {"SELECT": 1, "UPDATE": 2}


def test_a_callback_is_written_by_the_transaction_that_ends_the_edit(cost: Callable, files: Any) -> None:
    counted = cost(callback_url=files.url("/callback"))
    assert counted == {"UPDATE": 2, "BEGIN": 1, "INSERT": 1, "COMMIT": 1}


def test_a_connection_without_its_prepared_statements_accepts_edits(api: Any) -> None:
    """psycopg drops prepared statements after a rollback. In a caller's transaction, a rollback removes the edit."""
    from django.db import connection, transaction

    from image_editor.models import Edit

    body = {"image_url": "https://example.org/cat.jpg", "prompt": "sepia"}
    for forget in ("SELECT", "DEALLOCATE ALL"):
        with connection.cursor() as cursor:
            cursor.execute(forget)
        assert post(api, body).status_code == 202
    with transaction.atomic():
        assert post(api, body).status_code == 202
        transaction.set_rollback(True)
    assert Edit.objects.count() == 2
