"""Metadata: what a client notes about an edit is shown wherever the edit is, and one value can be looked for."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import finished
from helpers import EDITS, ended, post, problem, rows_read, upload
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BATCHES = "/api/v1/batches"
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
NOTED = {"reference": "order 42", "团队": "甲", "empty": ""}


def test_metadata_is_shown_from_the_acceptance_to_the_callback(
    api: Any, photo: bytes, files: Any, start: Callable
) -> None:
    from image_editor.pipeline.state_cache import states

    files.serve("/hook", b"")
    files.serve_held("/slow.jpg", photo)
    body = {"image_url": files.url("/slow.jpg"), "prompt": "sepia", "callback_url": files.url("/hook")}
    edit = post(api, body | {"metadata": NOTED}).json()
    assert edit["metadata"] == NOTED
    assert api.get(edit["status_url"]).json()["metadata"] == NOTED
    start("callback")
    start("edit")
    wait_for(lambda: states.progress(edit["id"]), what="the worker's progress")
    under_way = api.get(edit["status_url"]).json()
    assert (under_way["status"], under_way["metadata"]) == ("processing", NOTED)
    files.release.set()
    assert finished(api, edit["id"])["metadata"] == NOTED
    wait_for(lambda: "/hook" in [path for path, _, _ in files.seen], what="the callback")
    (called,) = (json.loads(body) for path, _, body in files.seen if path == "/hook")
    assert called["edit"]["metadata"] == NOTED


def test_forms_and_batches_take_metadata(api: Any, photo: bytes) -> None:
    assert upload(api, photo, metadata=json.dumps(NOTED)).json()["metadata"] == NOTED
    assert upload(api, photo, metadata="").json()["metadata"] == {}
    batch = post(api, {"items": [BODY | {"metadata": NOTED}, BODY]}, BATCHES).json()
    assert [item["metadata"] for item in batch["items"]] == [NOTED, {}]
    assert [item["metadata"] for item in api.get(batch["status_url"]).json()["items"]] == [NOTED, {}]
    for bad in ("{", "[]", "5", "[" * 49_000, "1" * 49_000, json.dumps({"a": "b" * 60_000})):
        assert "metadata" in problem(upload(api, photo, metadata=bad), 422, "invalid")["detail"]


@pytest.mark.parametrize(
    "bad",
    [
        {"": "a"},
        {"a" * 41: "a"},
        {"a": "a" * 201},
        {"a": 5},
        {"a": None},
        {"a": {"b": "c"}},
        {"a": "\0"},
        {"\0": "a"},
        {"a": "\ud800"},
        {"\ud800": "a"},
        {str(number): "" for number in range(17)},
        [],
        "a",
        None,
    ],
)
def test_metadata_that_is_not_a_few_short_texts_is_refused(api: Any, bad: Any) -> None:
    from image_editor.models import Edit

    assert "metadata" in problem(post(api, BODY | {"metadata": bad}), 422, "invalid")["detail"]
    assert "metadata" in problem(post(api, {"items": [BODY | {"metadata": bad}]}, BATCHES), 422, "invalid")["detail"]
    assert not Edit.objects.exists()


def test_as_much_metadata_as_is_allowed_is_kept(api: Any) -> None:
    most = {f"{number:02}" + "名" * 38: "值" * 200 for number in range(16)}
    answer = post(api, BODY | {"metadata": most})
    assert answer.status_code == 202, answer.content
    assert api.get(answer.json()["status_url"]).json()["metadata"] == most


def test_edits_are_found_by_their_reference(api: Any) -> None:
    made = [post(api, BODY | {"metadata": {"reference": reference}}).json()["id"] for reference in ("a", "b", "a")]
    post(api, BODY | {"metadata": {"other": "a"}})
    (item,) = post(api, {"items": [BODY | {"metadata": {"reference": "a"}}]}, BATCHES).json()["items"]

    def found(**filters: str) -> list[str]:
        return [edit["id"] for edit in api.get(EDITS, filters).json()["items"]]

    assert found(reference="a") == [item["id"], made[2], made[0]]
    assert found(reference="b") == [made[1]]
    assert found(reference="A") == []
    assert found(reference="a", status="failed") == []
    first = api.get(EDITS, {"reference": "a", "limit": 2}).json()
    assert [edit["id"] for edit in api.get(first["next"]).json()["items"]] == [made[0]]
    for bad in ("", "\0", "a" * 201):
        problem(api.get(EDITS, {"reference": bad}), 422, "invalid")


def test_a_look_for_a_reference_reads_no_other_edits(api: Any, user: Any, services: Services) -> None:
    services.fill(user.pk, 20_000, "20 days", "1 day")
    edit = post(api, BODY | {"metadata": {"reference": "rare"}}).json()
    pages: list[Any] = []
    assert rows_read(services, lambda: pages.append(api.get(EDITS, {"reference": "rare"}).json())) == 1
    assert [found["id"] for found in pages[0]["items"]] == [edit["id"]]


def test_a_request_without_metadata_has_the_digest_that_earlier_releases_gave_it(api: Any, photo: bytes) -> None:
    """A client may repeat a request while one release replaces another."""
    from image_editor.models import Batch, Edit

    post(api, BODY, Idempotency_Key="edit")
    api.post(EDITS, {"image": io.BytesIO(photo), "prompt": "sepia"}, headers={"Idempotency-Key": "form"})
    post(api, {"items": [BODY]}, BATCHES, Idempotency_Key="batch")
    edit = json.dumps(BODY | {"callback_url": ""}, separators=(",", ":"))
    form = json.dumps({"image_url": "", "prompt": "sepia", "callback_url": ""}, separators=(",", ":"))
    batch = f'{{"items":[{edit}],"callback_url":""}}'
    digests = dict(Edit.objects.exclude(idempotency_key=None).values_list("idempotency_key", "request_digest"))
    assert digests == {
        "edit": hashlib.sha256(edit.encode()).hexdigest(),
        "form": hashlib.sha256(form.encode() + hashlib.sha256(photo).digest()).hexdigest(),
    }
    assert Batch.objects.get().request_digest == hashlib.sha256(batch.encode()).hexdigest()
    with_metadata = BODY | {"metadata": {"a": "b"}}
    problem(post(api, with_metadata, Idempotency_Key="edit"), 422, "idempotency_key_reused")


def test_a_document_that_the_previous_release_cached_is_shown(api: Any, user: Any) -> None:
    from image_editor.pipeline.documents import of_row
    from image_editor.pipeline.state_cache import states

    edit = ended(user)
    states.set_final(edit.pk, {key: value for key, value in of_row(edit).items() if key != "metadata"})
    assert api.get(f"{EDITS}/{edit.pk}").json()["metadata"] == {}
