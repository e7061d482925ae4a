"""What an edit is asked to do: operations instead of a prompt, the output, and dry runs."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from conftest import finished
from helpers import EDITS, post, problem
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)
BATCHES, DRY_RUN = "/api/v1/batches", f"{EDITS}/dry_run"
URL = {"image_url": "https://example.org/a.jpg"}
OPERATIONS = [{"op": "greyscale"}, {"op": "resize", "width": 80}]


def test_an_upload_is_edited_and_saved_as_operations_and_output_say(
    api: Any, photo: bytes, start: Callable, services: Services
) -> None:
    start("edit")
    fields = {"operations": json.dumps(OPERATIONS), "output": '{"format": "avif", "quality": 40}'}
    answer = api.post(EDITS, {"image": io.BytesIO(photo), **fields})
    assert answer.status_code == 202, answer.content
    assert (answer.json()["prompt"], answer.json()["output"]) == (
        "greyscale, resize to 80",
        {"format": "avif", "quality": 40},
    )
    document = finished(api, answer.json()["id"])
    assert document["status"] == "succeeded", document
    assert document["output"] == {"format": "avif", "quality": 40}
    assert document["result"] | {"bytes": 0} == {"content_type": "image/avif", "width": 80, "height": 94, "bytes": 0}
    download = requests.get(document["result_url"], timeout=5)
    assert (download.headers["Content-Type"], download.content[4:12]) == ("image/avif", b"ftypavif")


@pytest.mark.parametrize("payload", ["full", "id"])
def test_an_image_by_url_becomes_as_small_as_the_output_says(
    api: Any, photo: bytes, files: Any, start: Callable, settings: Any, payload: str
) -> None:
    """Also if the worker reads the row, and in a batch."""
    settings.TASK_PAYLOAD = payload
    start("edit,batch")
    item = {"image_url": files.serve("/photo.jpg", photo), "operations": OPERATIONS, "output": {"max_bytes": 1800}}
    batch = post(api, {"items": [item]}, BATCHES).json()
    for edit in (post(api, item).json(), batch["items"][0]):
        document = finished(api, edit["id"])
        assert document["status"] == "succeeded", document
        assert document["result"]["bytes"] <= 1800


def test_the_images_of_a_form_get_operations_and_output(api: Any, photo: bytes) -> None:
    fields = {"operations": json.dumps(OPERATIONS), "output": '{"format": "webp"}'}
    answer = api.post(BATCHES, {"image": [io.BytesIO(photo) for _ in range(2)], **fields})
    assert answer.status_code == 202, answer.content
    asked = [(item["prompt"], item["output"]) for item in answer.json()["items"]]
    assert asked == [("greyscale, resize to 80", {"format": "webp"})] * 2


@pytest.mark.parametrize(
    ("operations", "field"),
    [
        ([{"op": "sepia"}, {"op": "blur", "sigma": 500}], "operations.1.blur.sigma"),
        ([{"op": "resize"}], "operations.0.resize"),
        ([{"op": "smile"}], "operations.0"),
        ([{"op": "crop", "width": 5}], "operations.0.crop.height"),
        ([{"op": "sepia", "x": 1}], "operations.0.sepia.x"),
        ([{"op": "sepia"}] * 21, "operations"),
    ],
)
def test_an_error_names_the_operation(api: Any, photo: bytes, operations: list[Any], field: str) -> None:
    errors = problem(post(api, URL | {"operations": operations}), 422, "invalid")["errors"]
    assert [error["field"] for error in errors] == [field]
    form = {"image": io.BytesIO(photo), "operations": json.dumps(operations)}
    assert problem(api.post(EDITS, form), 422, "invalid")["errors"] == errors
    assert problem(post(api, {"operations": operations}, DRY_RUN), 422, "invalid")["errors"] == errors


def test_a_text_that_no_prompt_can_carry_is_refused_and_named(api: Any) -> None:
    operations = [{"op": "watermark", "text": "\"”」'’"}]
    assert "operations.0.watermark" in problem(post(api, URL | {"operations": operations}), 422)["detail"]
    items = [URL | {"prompt": "sepia"}, URL | {"operations": operations}]
    errors = problem(post(api, {"items": items}, BATCHES), 422, "items_invalid")["errors"]
    assert [(error["index"], error["code"]) for error in errors] == [(1, "operation_invalid")]


@pytest.mark.parametrize("path", [EDITS, DRY_RUN])
def test_either_a_prompt_or_operations_are_needed(api: Any, path: str) -> None:
    image = URL if path == EDITS else {}
    problem(post(api, image, path), 422, "prompt_missing")
    problem(post(api, image | {"prompt": "", "operations": []}, path), 422, "prompt_missing")
    problem(post(api, image | {"prompt": "sepia", "operations": OPERATIONS}, path), 422, "invalid")
    assert post(api, image | {"operations": OPERATIONS}, path).status_code in (200, 202)


@pytest.mark.parametrize("path", [EDITS, DRY_RUN])
def test_what_is_empty_counts_as_left_out(api: Any, path: str) -> None:
    """Generated clients send every field."""
    image = URL | {"callback_url": ""} if path == EDITS else {}
    for given in ({"prompt": "", "operations": OPERATIONS}, {"prompt": "sepia", "operations": []}):
        assert post(api, image | given, path).status_code in (200, 202)


@pytest.mark.parametrize("field", ["operations", "output"])
@pytest.mark.parametrize("value", ["", "{", "null x", "[" * 100_000, json.dumps(dict.fromkeys(map(str, range(21))))])
def test_a_field_of_a_form_that_is_not_json_is_refused(api: Any, photo: bytes, field: str, value: str) -> None:
    form = {"image": io.BytesIO(photo), field: value} | ({"prompt": "sepia"} if field == "output" else {})
    assert field in problem(api.post(EDITS, form), 422, "invalid")["detail"]


@pytest.mark.parametrize(
    "output",
    [
        *({"format": "gif"}, {"quality": 0}, {"quality": 101}, {"quality": "8"}),
        *({"max_bytes": 0}, {"max_bytes": 20 * 2**20 + 1}, {"max_bytes": 10**400}, {"size": 5}, []),
    ],
)
def test_a_wrong_output_is_refused(api: Any, photo: bytes, output: Any) -> None:
    body = {"prompt": "sepia", "output": output}
    form = {"image": io.BytesIO(photo), "prompt": "sepia", "output": json.dumps(output)}
    for answer in (post(api, URL | body), post(api, body, DRY_RUN), api.post(EDITS, form)):
        assert problem(answer, 422, "invalid")["errors"][0]["field"].startswith("output")


def test_a_result_may_be_as_large_as_an_upload(api: Any, settings: Any) -> None:
    body = URL | {"prompt": "sepia", "output": {"max_bytes": settings.UPLOAD_MAX_BYTES}}
    assert post(api, body).status_code == 202


def test_an_output_that_cannot_be_kept_ends_the_edit(api: Any, photo: bytes, start: Callable) -> None:
    start("edit")
    form = {"image": io.BytesIO(photo), "prompt": "sepia", "output": '{"max_bytes": 100}'}
    document = finished(api, api.post(EDITS, form).json()["id"])
    assert (document["status"], document["error"]["code"]) == ("failed", "output_too_large")


@pytest.mark.parametrize("body", [{"prompt": "sepia"}, {"prompt": "sepia", "callback_url": "https://example.org/"}])
def test_a_request_has_the_digest_of_the_release_before_operations(body: dict[str, str]) -> None:
    """Otherwise a client that repeats a request across a release would hear that it has changed."""
    from image_editor.api import idempotency
    from image_editor.api.schemas import BatchIn, EditIn

    callback = body.get("callback_url", "")
    former = f'{{"image_url":"https://example.org/a.jpg","prompt":"sepia","callback_url":"{callback}"}}'
    assert idempotency.digest(EditIn.model_validate(URL | body)) == hashlib.sha256(former.encode()).hexdigest()
    batch = f'{{"items":[{former}],"callback_url":""}}'
    found = idempotency.digest(BatchIn.model_validate({"items": [URL | body]}))
    assert found == hashlib.sha256(batch.encode()).hexdigest()


def test_other_operations_or_another_output_are_another_request(api: Any) -> None:
    body = URL | {"operations": OPERATIONS, "output": {"quality": 50}}
    first, again = (post(api, body, Idempotency_Key="k").json()["id"] for _ in range(2))
    assert first == again
    for change in ({"operations": OPERATIONS[:1]}, {"output": {"quality": 51}}):
        problem(post(api, body | change, Idempotency_Key="k"), 422, "idempotency_key_reused")


@pytest.mark.parametrize("prompt", ["make it black and white, then turn left", "变成黑白然后左转", "變成黑白然後左轉"])
def test_a_dry_run_tells_what_a_prompt_is_understood_as(api: Any, services: Services, prompt: str) -> None:
    from image_editor.models import Edit

    found = post(api, {"prompt": prompt}, DRY_RUN).json()
    assert found["prompt"] == "greyscale, rotate -90"
    assert found["operations"] == [{"op": "greyscale"}, {"op": "rotate", "degrees": -90}]
    assert found["result"] == {"format": None, "width": None, "height": None}
    assert found["cost"] == {"edits": 1, "seconds": None, "seconds_max": 1}
    again = post(api, {"operations": found["operations"]}, DRY_RUN).json()
    assert again == found
    assert (Edit.objects.count(), services.admin().llen("edit")) == (0, 0)


def test_a_dry_run_for_an_image_tells_size_and_cost(api: Any) -> None:
    body = {
        "prompt": "turn left, twice the size",
        "output": {"format": "webp"},
        "image": {"format": "jpeg", "width": 300, "height": 200},
    }
    found = post(api, body, DRY_RUN).json()
    assert found["result"] == {"format": "webp", "width": 400, "height": 600}
    assert 0 < found["cost"]["seconds"] < found["cost"]["seconds_max"]
    large = {"width": 6000, "height": 4000}
    problem(post(api, body | {"image": large}, DRY_RUN), 422, "image_too_large")
    refused = problem(post(api, {"prompt": "blur 100", "image": large}, DRY_RUN), 422, "too_slow")
    assert "blur 100" in refused["detail"]
    problem(post(api, {"prompt": "make her smile"}, DRY_RUN), 422, "prompt_unknown")
