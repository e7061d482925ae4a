"""Owners remove edits and batches before their time: in every state, for nobody to see again, soon with all files."""

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
from conftest import TOKEN, make_user
from django.db import connection
from django.test import Client
from helpers import EDITS, ended, left, post, problem, upload
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BATCHES = "/api/v1/batches"
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}


def counts() -> tuple[int, int, int]:
    """How many edits, batches and callbacks there are."""
    from image_editor.models import Batch, Callback, Edit

    return Edit.objects.count(), Batch.objects.count(), Callback.objects.count()


def test_an_edit_is_removed_with_its_files(api: Any, user: Any, services: Services) -> None:
    from image_editor.pipeline import retention

    edit, other = (ended(user, files=True) for _ in range(2))
    address = f"{EDITS}/{edit.pk}"
    document = api.get(address).json()  # from now on it is also in the cache
    make_user("mallory", "m" * 43)
    problem(Client(headers={"Authorization": f"Bearer {'m' * 43}"}).delete(address), 404, "not_found")
    assert len(left(services, edit)) == 2
    answer = api.delete(address)
    assert (answer.status_code, answer.content) == (204, b"")
    assert retention.remove_files() == 3, "an upload, and two folders of results"
    assert left(services, edit) == []
    assert retention.remove_files() == 0
    assert [requests.get(document[url], timeout=5).status_code for url in ("image_url", "result_url")] == [404, 404]
    for path in (address, f"{address}/result", f"{address}/events"):
        problem(api.get(path), 404, "not_found")
    problem(api.delete(address), 404, "not_found")
    assert [item["id"] for item in api.get(EDITS).json()["items"]] == [str(other.pk)]
    assert len(left(services, other)) == 2


def test_an_edit_that_waits_is_cancelled_and_removed(
    api: Any, photo: bytes, start: Callable, services: Services, files: Any
) -> None:
    from image_editor.models import Edit
    from image_editor.pipeline import retention

    edit = upload(api, photo, callback_url=files.url("/hook")).json()
    row = Edit.objects.get()
    assert api.delete(edit["status_url"]).status_code == 204
    assert counts() == (0, 0, 0)
    retention.remove_files()
    worker = start("edit")
    wait_for(lambda: "edit ended" in worker.log.read_text(), what="the worker drops the message")
    assert "succeeded" not in worker.log.read_text()
    assert left(services, row) == []


def test_an_edit_under_way_is_stopped_and_not_seen_again(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    from image_editor.models import Edit
    from image_editor.pipeline.state_cache import states

    worker = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit = post(api, BODY | {"image_url": files.url("/slow.jpg")}).json()
    wait_for(lambda: states.progress(edit["id"]), what="the worker's progress")
    row, progress = Edit.objects.get(), states.progress(edit["id"])
    assert api.delete(edit["status_url"]).status_code == 204
    states.set_progress(edit["id"], progress)  # as the worker may, once more
    problem(api.get(edit["status_url"]), 404)
    wait_for(lambda: "overtaken" in worker.log.read_text(), what="the worker stops")
    files.release.set()
    assert left(services, row) == []


def test_a_result_that_is_stored_after_the_removal_is_removed_by_its_worker(
    api: Any, photo: bytes, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor import storage
    from image_editor.models import Edit
    from image_editor.pipeline import attempts, retention
    from image_editor.pipeline.message import EditMessage

    edit = upload(api, photo).json()
    row, put, stored = Edit.objects.get(), storage.put, []

    def late(*arguments: Any) -> None:
        assert api.delete(edit["status_url"]).status_code == 204
        retention.remove_files()
        put(*arguments)
        stored.extend(left(services, row))

    monkeypatch.setattr(storage, "put", late)
    monkeypatch.setattr(attempts, "QUICK", float("inf"))  # a lease, kept after a report, would see the removal
    payload = EditMessage.of(row, "alice").payload()
    done = attempts.run(payload, task_id=edit["id"], queue="edit", redelivered=False)
    assert done == {"id": edit["id"], "outcome": "overtaken"}
    assert stored == [edit["id"]], "the folder of results"
    assert left(services, row) == []


def test_while_the_media_store_is_down_an_edit_is_removed_and_its_files_wait(
    api: Any, photo: bytes, services: Services
) -> None:
    from image_editor.models import Edit
    from image_editor.pipeline import tasks

    edit = upload(api, photo).json()
    row = Edit.objects.get()
    with services.media_down():
        assert api.delete(edit["status_url"]).status_code == 204
        problem(api.get(edit["status_url"]), 404, "not_found")
        assert counts() == (0, 0, 0)
        assert tasks.heal() == 0
    assert left(services, row)
    assert tasks.heal() == 3, "an upload, and two folders of results"
    assert left(services, row) == []


def test_no_removal_waits_for_the_media_store(
    api: Any, user: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    """A batch of a hundred items takes as many statements as one of two, and holds no row while a file is removed."""
    from image_editor import storage
    from image_editor.models import Edit, RemovedFile

    def slow(*_: Any) -> None:
        raise AssertionError("a request has waited for the media store")

    monkeypatch.setattr(storage, "delete", slow)
    edit = ended(user, files=True)
    made = api.post("/api/v1/uploads", {"image": io.BytesIO(photo)}).json()
    batch = post(api, {"items": [BODY] * 100}, BATCHES).json()
    Edit.objects.filter(batch=batch["id"], batch_index__lt=50).update(status="succeeded", result_name="x")
    for address in (f"{EDITS}/{edit.pk}", made["upload_url"]):
        assert api.delete(address).status_code == 204
    with django_assert_max_num_queries(25):
        assert api.delete(batch["status_url"]).status_code == 204
    assert counts() == (0, 0, 0)
    assert RemovedFile.objects.count() == 3 + 1 + 100 * 2


def test_the_worker_removes_files(api: Any, user: Any, services: Services, start: Callable) -> None:
    edit, other = (ended(user, files=True) for _ in range(2))
    assert api.delete(f"{EDITS}/{edit.pk}").status_code == 204
    start("callback,maintenance")
    start(beat=True)
    wait_for(lambda: not left(services, edit), 30, "the files are removed")
    assert len(left(services, other)) == 2


def test_a_read_that_began_before_the_removal_does_not_bring_the_edit_back(
    api: Any, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import documents

    edit, of_row = ended(user, files=True), documents.of_row

    def late(row: Any) -> Any:
        document = of_row(row)
        assert api.delete(f"{EDITS}/{edit.pk}").status_code == 204
        return document

    with monkeypatch.context() as patch:
        patch.setattr(documents, "of_row", late)
        assert api.get(f"{EDITS}/{edit.pk}").status_code == 200
    problem(api.get(f"{EDITS}/{edit.pk}"), 404)


def test_an_edit_is_not_seen_again_if_the_cache_missed_its_removal(
    api: Any, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import retention
    from image_editor.pipeline.state_cache import states

    edit = ended(user, files=True)
    address = f"{EDITS}/{edit.pk}"
    assert api.get(address).status_code == 200  # from now on it is in the cache
    monkeypatch.setattr(states, "_paused_until", float("inf"))
    assert api.delete(address).status_code == 204
    assert retention.remove_files() == 0, "the cache still has the edit, and nobody would remove it"
    states.resume()
    assert retention.remove_files() == 3
    problem(api.get(address), 404, "not_found")


def test_what_is_removed_while_it_is_cancelled_is_not_found(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.models import Edit
    from image_editor.pipeline import retention, transitions

    edit, cancel, cancelled = post(api, BODY).json(), transitions.cancel, []

    def late(row: Edit) -> bool:
        cancelled.append(cancel(row))
        if len(cancelled) == 1:  # the removal cancels, too
            retention.remove_edit(row)
        return cancelled[0]

    monkeypatch.setattr(transitions, "cancel", late)
    problem(api.post(f"{edit['status_url']}/cancel"), 404, "not_found")
    problem(api.get(edit["status_url"]), 404, "not_found")


def test_a_cancellation_does_not_bring_a_removed_edit_back(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.api import edits
    from image_editor.models import Edit
    from image_editor.pipeline import retention

    edit, of_row = post(api, BODY).json(), edits.of_row

    def late(row: Edit) -> Any:
        retention.remove_edit(row)
        return of_row(row)

    monkeypatch.setattr(edits, "of_row", late)
    assert api.post(f"{edit['status_url']}/cancel").status_code == 200
    problem(api.get(edit["status_url"]), 404, "not_found")


def test_items_leave_their_batch_and_the_last_one_takes_it_along(api: Any) -> None:
    batch = post(api, {"items": [BODY, BODY], "callback_url": "https://example.org/"}, BATCHES).json()
    first, second = batch["items"]
    assert api.delete(first["status_url"]).status_code == 204
    found = api.get(batch["status_url"]).json()
    assert (found["total"], found["finished"], found["status"]) == (2, 1, "processing")
    assert [item["id"] for item in found["items"]] == [second["id"]]
    assert api.delete(second["status_url"]).status_code == 204
    problem(api.get(batch["status_url"]), 404)
    assert counts() == (0, 0, 0)


def test_two_who_remove_the_last_two_items_leave_no_batch(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.pipeline import retention

    batch = post(api, {"items": [BODY, BODY]}, BATCHES).json()
    both, statuses = threading.Barrier(2, timeout=10), []
    monkeypatch.setattr(retention, "_give_up", lambda _: both.wait())

    def remove(item: dict[str, Any]) -> None:
        client = Client(headers={"Authorization": f"Bearer {TOKEN}"})
        statuses.append(client.delete(item["status_url"]).status_code)
        connection.close()

    threads = [threading.Thread(target=remove, args=[item]) for item in batch["items"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert statuses == [204, 204]
    assert counts() == (0, 0, 0)


def test_a_batch_is_removed_as_a_whole(api: Any, user: Any, services: Services) -> None:
    from image_editor.models import Edit
    from image_editor.pipeline import retention

    body = {"items": [BODY | {"callback_url": "https://example.org/"}] * 2, "callback_url": "https://example.org/"}
    batch, kept = post(api, body, BATCHES).json(), post(api, body, BATCHES).json()
    with_files = ended(user, files=True)
    Edit.objects.filter(pk=with_files.pk).update(batch=batch["id"], batch_index=2)
    make_user("mallory", "m" * 43)
    problem(Client(headers={"Authorization": f"Bearer {'m' * 43}"}).delete(batch["status_url"]), 404, "not_found")
    assert api.delete(batch["status_url"]).status_code == 204
    problem(api.get(batch["status_url"]), 404)
    problem(api.delete(batch["status_url"]), 404, "not_found")
    retention.remove_files()
    assert left(services, with_files) == []
    assert counts() == (2, 1, 0)
    assert len(api.get(kept["status_url"]).json()["items"]) == 2
