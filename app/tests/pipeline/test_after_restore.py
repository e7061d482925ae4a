"""After a restore, rows, messages, cache and files are of different moments. What cannot be repaired is reported."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from conftest import finished
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command

from image_editor.storage import names

pytestmark = pytest.mark.django_db(transaction=True)


def upload(api: Any, photo: bytes) -> str:
    fields = {"prompt": "greyscale", "metadata": '{"reference": "42"}'}
    answer = api.post("/api/v1/edits", fields | {"image": SimpleUploadedFile("a.jpg", photo)})
    assert answer.status_code == 202, answer.content
    return answer.json()["id"]


def reconcile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, files: list[str] | None = None
) -> dict:
    if files is not None:
        monkeypatch.setattr("sys.stdin", [f"{name}\n" for name in files])
    call_command("reconcile_after_restore", *(["--files"] if files is not None else []))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_consistent_state_is_not_changed(api, photo, capsys, monkeypatch) -> None:
    waiting = upload(api, photo)
    report = reconcile(capsys, monkeypatch)
    assert {name: value for name, value in report.items() if value} == {}
    assert api.get(f"/api/v1/edits/{waiting}").json()["status"] == "queued"


def test_a_row_is_recovered_from_its_message_and_a_message_from_its_row(
    api: Any, photo: bytes, services: Any, start: Callable, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first edit has no row, as in an older database. The second has no message, as in an older broker."""
    from image_editor.models import Edit

    first, second = upload(api, photo), upload(api, photo)
    Edit.objects.filter(pk=first).delete()
    for raw in services.admin().lrange("edit", 0, -1):
        if json.loads(raw)["headers"]["id"] == second:
            services.admin().lrem("edit", 0, raw)
    report = reconcile(capsys, monkeypatch)
    assert (report["recovered"], report["requeued"], report["lost"]) == ([first], [second], [])
    assert {edit["id"] for edit in api.get("/api/v1/edits", {"reference": "42"}).json()["items"]} == {first, second}
    start("edit,maintenance")
    start(beat=True)
    assert finished(api, first, 30)["status"] == finished(api, second, 30)["status"] == "succeeded"


def test_edits_that_cannot_be_recovered_are_named(api, photo, services, user, capsys, monkeypatch) -> None:
    from backend.celery import app
    from image_editor.models import Edit
    from image_editor.pipeline import publisher, state_cache

    gone, later, cached, file_only, kept = (upload(api, photo) for _ in range(5))
    services.admin().delete("edit")
    Edit.objects.exclude(pk=kept).delete()
    Edit.objects.filter(pk=kept).update(status="succeeded", result_name=f"results/{kept}/1.jpg")
    # What is left: a message with an id alone, a message of a later release, a cached document, a result, and a
    # callback's message.
    app.send_task("image_editor.tasks.edit", (gone,), task_id=gone, ignore_result=True)
    app.send_task("image_editor.tasks.edit", ({"version": 2, "task_id": later},), task_id=later, ignore_result=True)
    state_cache.states.set_final(cached, {"id": cached, "status": "succeeded"})
    publisher.publish_callbacks([("0d2f4f0e-0000-4000-8000-000000000000", 0)])
    report = reconcile(capsys, monkeypatch, [f"results/{file_only}/1.jpg", "uploads/2026/01/01/notes.txt"])
    assert report["lost"] == sorted([gone, later, cached, file_only])
    assert report["results_without_rows"] == [f"results/{file_only}/1.jpg"]
    assert report["rows_without_results"] == [kept]
    assert (report["callbacks_dropped"], report["cached_forgotten"]) == (1, 1)
    assert services.admin().llen("edit") == services.admin().llen("callback") == 0
    assert api.get(f"/api/v1/edits/{cached}").status_code == 404


def test_a_file_that_a_crash_left_is_no_lost_edit(api, photo, capsys, monkeypatch) -> None:
    """A request that was refused after it stored its file, long before the restored moment, was never accepted."""
    from image_editor.models import Edit

    accepted = Edit.objects.get(pk=upload(api, photo)).accepted_at
    crashed, later = str(uuid.uuid4()), str(uuid.uuid4())
    minutes = {crashed: accepted - timedelta(minutes=4), later: accepted - timedelta(minutes=1)}
    files = [names.upload(edit, at, "jpg") for edit, at in minutes.items()]
    assert reconcile(capsys, monkeypatch, files)["lost"] == [later]


def test_an_edit_that_a_stopped_worker_held_is_processed(api, photo, services, start, capsys, monkeypatch) -> None:
    """The broker lists the message as taken by a worker. In the row, the lease of the last attempt has not expired."""
    from django.conf import settings

    from image_editor.models import Edit

    last = settings.TASK_ATTEMPTS_MAX
    held = upload(api, photo)
    raw = services.admin().rpop("edit")
    tag = json.loads(raw)["properties"]["delivery_tag"]
    services.admin().hset("unacked", tag, json.dumps([json.loads(raw), "", "edit"]))
    Edit.objects.filter(pk=held).update(status="processing", attempt=last, lease_expires_at="2100-01-01T00:00:00Z")
    report = reconcile(capsys, monkeypatch)
    assert {name: value for name, value in report.items() if value} == {}
    row = Edit.objects.get(pk=held)
    assert (row.status, row.attempt, row.forgiven, row.lease_expires_at) == ("queued", last + 1, last + 1, None)
    start("edit")
    assert finished(api, held)["status"] == "succeeded"
