"""Images that are uploaded once for many edits, and batches of uploaded images."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pyvips
import requests
from conftest import finished, make_user
from django.test import Client
from django.utils import timezone
from helpers import EDITS, media, post, problem
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BATCHES, UPLOADS = "/api/v1/batches", "/api/v1/uploads"
NONE = "00000000-0000-4000-8000-000000000000"  # the id of no row


@pytest.fixture
def upload(api: Any, photo: bytes) -> dict[str, Any]:
    answer = api.post(UPLOADS, {"image": io.BytesIO(photo)})
    assert answer.status_code == 201, answer.content
    return answer.json()


def stored(services: Services) -> set[Path]:
    return {path for path in (media(services) / "uploads").rglob("*") if path.is_file()}


def form(api: Any, images: list[bytes], prompt: str = "sepia", key: str = "", **fields: Any) -> Any:
    """POST a batch of uploaded images."""
    fields |= {"image": [io.BytesIO(image) for image in images], "prompt": prompt}
    return api.post(BATCHES, fields, headers={"Idempotency-Key": key} if key else {})


def test_one_upload_serves_edits_and_batches(
    api: Any, photo: bytes, upload: dict[str, Any], start: Callable, services: Services
) -> None:
    assert (upload["content_type"], upload["bytes"]) == ("image/jpeg", len(photo))
    assert requests.get(upload["image_url"], timeout=5).content == photo
    body = {"upload_id": upload["id"], "prompt": "resize to 20x10"}
    edits = [post(api, body).json() for _ in range(2)]
    batch = post(api, {"items": [body, {"image_url": "https://example.org/a", "prompt": "sepia"}]}, BATCHES).json()
    assert api.post(batch["items"][1]["status_url"] + "/cancel").status_code == 200
    start("edit,batch")
    for edit in (*edits, batch["items"][0]):
        document = finished(api, edit["id"])
        assert (document["status"], document["result"]["width"]) == ("succeeded", 20)
        assert requests.get(document["image_url"], timeout=5).content == photo
    assert [path.name for path in stored(services) if upload["id"] in path.name] == [f"shared-{upload['id']}.jpg"]


def test_an_upload_outlives_the_edits_that_use_it(
    api: Any, user: Any, upload: dict[str, Any], services: Services
) -> None:
    from image_editor import storage
    from image_editor.models import Edit, Upload
    from image_editor.pipeline import retention

    old = timezone.now() - timedelta(days=40)
    first, second = (post(api, {"upload_id": upload["id"], "prompt": "sepia"}).json() for _ in range(2))
    assert api.delete(first["status_url"]).status_code == 204
    Edit.objects.update(status="cancelled", accepted_at=old, finished_at=old)
    assert retention.purge(30) == 1
    problem(api.get(second["status_url"]), 404)
    assert requests.get(upload["image_url"], timeout=5).status_code == 200
    Upload.objects.update(used_at=timezone.now() - timedelta(days=30, hours=23))
    retention.purge(30)
    assert api.get(upload["upload_url"]).status_code == 200, "an edit may have needed a day"
    Upload.objects.update(used_at=timezone.now() - timedelta(days=31, hours=1))
    with services.media_down(), pytest.raises(storage.StorageUnavailable):
        retention.purge(30)
    problem(api.get(upload["upload_url"]), 404)
    assert requests.get(upload["image_url"], timeout=5).status_code == 200
    retention.purge(30)
    assert requests.get(upload["image_url"], timeout=5).status_code == 404


def test_the_use_of_an_upload_extends_its_time(api: Any, upload: dict[str, Any], settings: Any) -> None:
    from image_editor.models import Upload

    Upload.objects.update(used_at=timezone.now() - timedelta(days=20))
    before = api.get(upload["upload_url"]).json()["expires_at"]
    assert post(api, {"upload_id": upload["id"], "prompt": "sepia"}).status_code == 202
    assert api.get(upload["upload_url"]).json()["expires_at"] > before
    settings.RETENTION_DAYS = 0
    assert api.get(upload["upload_url"]).json()["expires_at"] is None


def test_an_unknown_upload_is_refused(api: Any, upload: dict[str, Any]) -> None:
    from image_editor.models import Edit

    good = {"upload_id": upload["id"], "prompt": "sepia"}
    bad = good | {"upload_id": NONE}
    assert NONE in problem(post(api, bad), 404, "upload_unknown")["detail"]
    assert NONE in problem(post(api, {"items": [good, bad]}, BATCHES), 404, "upload_unknown")["detail"]
    make_user("mallory", "m" * 43)
    other = Client(headers={"Authorization": f"Bearer {'m' * 43}"})
    problem(post(other, good), 404, "upload_unknown")
    problem(other.get(upload["upload_url"]), 404, "not_found")
    problem(other.delete(upload["upload_url"]), 404, "not_found")
    assert other.get(UPLOADS).json()["items"] == []
    assert not Edit.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image_url": "https://example.org/a.jpg", "upload_id": NONE},
        {"upload_id": ""},
        {"upload_id": "not an id"},
        {"upload_id": 5},
        {"upload_id": None},
    ],
)
def test_an_edit_has_one_source(api: Any, body: dict[str, Any]) -> None:
    body = body | {"prompt": "sepia"}
    problem(post(api, body), 422, "invalid")
    problem(post(api, {"items": [body]}, BATCHES), 422, "invalid")


def test_a_removed_upload_is_gone_for_edits_that_have_not_begun(
    api: Any, upload: dict[str, Any], start: Callable, services: Services
) -> None:
    from image_editor.pipeline import retention

    edit = post(api, {"upload_id": upload["id"], "prompt": "sepia"}).json()
    assert api.delete(upload["upload_url"]).status_code == 204
    problem(api.delete(upload["upload_url"]), 404, "not_found")
    retention.remove_files()
    assert not [path for path in stored(services) if upload["id"] in path.name]
    start("edit")
    assert finished(api, edit["id"])["error"]["code"] == "upload_gone"
    problem(post(api, {"upload_id": upload["id"], "prompt": "sepia"}), 404, "upload_unknown")


def test_uploads_are_listed_and_count_as_edits(api: Any, photo: bytes, settings: Any) -> None:
    made = [api.post(UPLOADS, {"image": io.BytesIO(photo)}).json()["id"] for _ in range(3)]
    page = api.get(f"{UPLOADS}?limit=2").json()
    rest = api.get(page["next"]).json()
    assert [found["id"] for found in page["items"] + rest["items"]] == made[::-1]
    settings.QUOTA_PER_DAY = 3
    problem(api.post(UPLOADS, {"image": io.BytesIO(photo)}), 429, "too_many")


def test_what_is_no_image_is_not_uploaded(api: Any, photo: bytes, services: Services) -> None:
    before = stored(services)
    problem(api.post(UPLOADS, {"image": io.BytesIO(b"GIF89a")}), 415, "image_unsupported")
    problem(api.post(UPLOADS, {"image": io.BytesIO(photo[:-100])}), 422, "image_truncated")
    problem(api.post(UPLOADS, {}), 422, "invalid")
    problem(api.post(UPLOADS, {"image": "text"}), 422, "invalid")
    problem(api.post(UPLOADS, {"image": io.BytesIO(photo), "prompt": "sepia"}), 422, "invalid")
    problem(api.post(UPLOADS, {"image": [io.BytesIO(photo), io.BytesIO(photo)]}), 422, "invalid")
    problem(api.post(UPLOADS, {"image": io.BytesIO(photo), "other": io.BytesIO(photo)}), 422, "invalid")
    problem(post(api, {"image": "a"}, UPLOADS), 415, "unsupported_media_type")
    assert stored(services) == before


def test_a_repeated_edit_of_an_upload_is_accepted_once(api: Any, upload: dict[str, Any], photo: bytes) -> None:
    body = {"upload_id": upload["id"], "prompt": "sepia"}
    first, again = (post(api, body, Idempotency_Key="k").json()["id"] for _ in range(2))
    assert first == again
    other = api.post(UPLOADS, {"image": io.BytesIO(photo)}).json()["id"]
    problem(post(api, body | {"upload_id": other}, Idempotency_Key="k"), 422, "idempotency_key_reused")
    upper = body | {"upload_id": upload["id"].upper()}
    assert post(api, upper, Idempotency_Key="k").json()["id"] == first, "the same id in another form"


def test_a_batch_of_uploaded_images_is_edited(
    api: Any, photo: bytes, start: Callable, files: Any, services: Services
) -> None:
    from image_editor.pipeline import retention

    files.serve("/hook", b"")
    square = pyvips.Image.black(50, 50, bands=3).copy(interpretation="srgb").write_to_buffer(".png")
    noted = json.dumps({"reference": "catalogue"})
    answer = form(api, [photo, square], "greyscale", metadata=noted, callback_url=files.url("/hook"))
    assert answer.status_code == 202, answer.content
    batch = answer.json()
    assert (batch["total"], [item["prompt"] for item in batch["items"]]) == (2, ["greyscale"] * 2)
    assert [requests.get(item["image_url"], timeout=5).content for item in batch["items"]] == [photo, square]
    assert services.admin().llen("batch") == 2
    start("batch")
    start("callback")
    results = [finished(api, item["id"])["result"] for item in batch["items"]]
    assert [result["content_type"] for result in results] == ["image/jpeg", "image/png"]
    assert len(api.get(EDITS, {"reference": "catalogue"}).json()["items"]) == 2
    wait_for(lambda: "/hook" in [path for path, _, _ in files.seen], what="the batch's callback")
    assert api.delete(batch["status_url"]).status_code == 204
    retention.remove_files()
    assert not [path for path in stored(services) if any(item["id"] in path.name for item in batch["items"])]


def test_a_batch_with_a_bad_image_is_refused_as_a_whole(api: Any, photo: bytes, services: Services) -> None:
    from image_editor.models import Batch, Edit

    before = stored(services)
    errors = problem(form(api, [photo, b"GIF89a", photo[:-100]]), 422, "items_invalid")["errors"]
    assert [(error["index"], error["code"]) for error in errors] == [(1, "image_unsupported"), (2, "image_truncated")]
    problem(form(api, [photo], "smile"), 422, "items_invalid")
    problem(form(api, []), 422, "invalid")
    problem(form(api, [photo], callback_url="http://10.0.0.1/"), 422, "callback_url_refused")
    problem(form(api, [photo], items="[]"), 422, "invalid")
    problem(api.post(BATCHES, {"other": io.BytesIO(photo), "prompt": "sepia"}), 422, "invalid")
    problem(form(api, [photo], metadata="{"), 422, "invalid")
    assert (Batch.objects.count(), Edit.objects.count(), stored(services)) == (0, 0, before)


def test_a_repeated_batch_of_images_is_accepted_once_and_stored_once(
    api: Any, photo: bytes, services: Services
) -> None:
    first = form(api, [photo, photo], key="b")
    before = stored(services)
    again = form(api, [photo, photo], key="b")
    assert (first.json()["id"], again["Idempotency-Replayed"]) == (again.json()["id"], "true")
    problem(form(api, [photo], key="b"), 422, "idempotency_key_reused")
    assert stored(services) == before


def test_a_batch_beyond_a_limit_stores_nothing_and_a_failing_store_ends_it(
    api: Any, photo: bytes, services: Services, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor import storage
    from image_editor.models import Edit

    before, put, calls = stored(services), storage.put, []

    def second_fails(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise storage.StorageUnavailable("the disk is full")
        put(*arguments)

    settings.QUOTA_PER_DAY = 2
    problem(form(api, [photo] * 3), 429, "too_many")
    assert stored(services) == before
    settings.QUOTA_PER_DAY = 0
    monkeypatch.setattr(storage, "put", second_fails)
    problem(form(api, [photo] * 3), 503, "storage_unavailable")
    assert (Edit.objects.count(), len(calls)) == (0, 2)


@pytest.mark.parametrize("path", [EDITS, BATCHES, UPLOADS])
def test_a_form_with_too_many_files_is_refused(api: Any, path: str) -> None:
    form = {"prompt": "sepia", "image": [io.BytesIO(b"x") for _ in range(101)]}
    assert "at most 100" in problem(api.post(path, form), 422, "invalid")["detail"]
