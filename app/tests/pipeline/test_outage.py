"""While PostgreSQL is away, workers wait, and the scheduled jobs skip a round. Nothing is lost or done twice."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import finished
from django.db import connection
from helpers import post, upload
from services import Services, frozen, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

# No time limit passes within a test.
PATIENT = {
    "IMAGE_EDITOR_TASK_TIME_LIMIT": "60",
    "IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT": "50",
    "IMAGE_EDITOR_VISIBILITY_TIMEOUT": "150",
}


@pytest.fixture(autouse=True)
def reconnect(user: Any) -> Iterator[None]:
    """The connection of this process ends with PostgreSQL, too. Other fixtures need it afterwards."""
    yield
    connection.close()


def waiting(worker: Any) -> None:
    wait_for(lambda: "waiting for PostgreSQL" in worker.log.read_text(), 20, "the worker waits")


def one_attempt(api: Any, edit_id: str) -> None:
    """Check that the edit succeeded in its first attempt, by the message that the API published."""
    from image_editor.models import Edit

    connection.close()
    document = finished(api, edit_id, 30)
    assert document["status"] == "succeeded", document
    edit = Edit.objects.get(pk=edit_id)
    assert (edit.attempt, edit.faults, edit.dispatches) == (1, 0, 1)


def test_a_worker_that_meets_no_postgresql_waits_with_its_message(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    body = {"image_url": files.serve("/photo.jpg", photo), "prompt": "sepia"}
    edits = [post(api, body).json()["id"], upload(api, photo).json()["id"]]
    with services.postgres_down():
        worker = start("edit", **PATIENT)
        waiting(worker)
        held = services.admin().hlen("unacked") + services.admin().llen("edit")
        assert held == 2, "a message was acknowledged"
    for edit_id in edits:
        one_attempt(api, edit_id)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_an_edit_under_way_ends_once_postgresql_is_back(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services, how: str
) -> None:
    from image_editor.models import Edit

    worker = start("edit", **PATIENT)
    edit_id = post(api, {"image_url": files.serve_held("/held.jpg", photo), "prompt": "sepia"}).json()["id"]
    wait_for(lambda: Edit.objects.get(pk=edit_id).status == "processing", what="the edit is under way")
    with services.postgres_down() if how == "stopped" else frozen(services.postgres):
        files.release.set()
        time.sleep(3)
        assert services.admin().hlen("unacked") == 1, "the message was acknowledged"
    one_attempt(api, edit_id)
    assert worker.popen.poll() is None


def test_a_message_goes_back_if_postgresql_is_away_for_longer_than_the_time_limit(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    """Another worker may take the message."""
    edit_id = post(api, {"image_url": files.serve("/photo.jpg", photo), "prompt": "sepia"}).json()["id"]
    with services.postgres_down():
        worker = start("edit", **PATIENT | {"IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT": "4"})
        wait_for(lambda: "the message goes back to its queue" in worker.log.read_text(), 20, "the limit passes")
        admin = services.admin()
        wait_for(lambda: admin.hlen("unacked") + admin.llen("edit") == 1, 5, "the message is there")
    one_attempt(api, edit_id)


def test_a_worker_that_meets_a_replica_waits_for_the_primary(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    edit_id = post(api, {"image_url": files.serve("/photo.jpg", photo), "prompt": "sepia"}).json()["id"]
    services.psql("ALTER ROLE app SET default_transaction_read_only = on")
    try:
        worker = start("edit", **PATIENT)
        waiting(worker)
        assert "in a read-only transaction" in worker.log.read_text()
    finally:
        services.psql("ALTER ROLE app RESET default_transaction_read_only")
    one_attempt(api, edit_id)


def test_a_receiver_is_called_once_although_the_outcome_is_recorded_later(
    api: Any, files: Any, start: Callable, services: Services
) -> None:
    from image_editor.models import Callback

    url = files.serve_held("/hook", b"")
    delivery = post(api, {"url": url}, "/api/v1/webhooks/test").json()["id"]
    worker = start("callback,maintenance", concurrency=2, **PATIENT)
    start(beat=True)  # the reconciler would publish a callback that is due
    wait_for(lambda: files.seen, what="the receiver is called")
    with services.postgres_down():
        files.release.set()
        waiting(worker)
    connection.close()
    wait_for(lambda: Callback.objects.get(pk=delivery).state == "delivered", 15, "the outcome is recorded")
    callback = Callback.objects.get(pk=delivery)
    assert (callback.tries, len(callback.attempts), len(files.seen)) == (1, 1, 1)


def test_scheduled_jobs_skip_a_round(user: Any, services: Services) -> None:
    from image_editor.pipeline import tasks

    with services.postgres_down():
        connection.close()
        assert tasks.reconcile() is None
        assert (tasks.purge(), tasks.sweep()) == (0, 0)
    connection.close()
    assert not any(tasks.reconcile().values())
