"""The OpenAPI document: complete, the same as docs/openapi.json, and true of what is sent to receivers."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import APP
from django.core.management import call_command
from helpers import followed, post
from pydantic import BaseModel

from image_editor.codes import CODES

pytestmark = pytest.mark.django_db(transaction=True)
COMMITTED = APP.parent / "docs/openapi.json"


@pytest.fixture
def document(services: Any) -> dict[str, Any]:
    out = io.StringIO()
    call_command("openapi", stdout=out)
    return json.loads(out.getvalue())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_the_committed_document_is_the_one_of_this_code(document: dict[str, Any]) -> None:
    """CONTRIBUTING.md says how to write it."""
    assert json.loads(COMMITTED.read_text()) == document


def test_the_api_serves_the_document(api: Any, document: dict[str, Any]) -> None:
    assert api.get("/api/v1/openapi.json").json() == document


def test_every_operation_lists_its_codes(document: dict[str, Any]) -> None:
    from image_editor.api.openapi import CODES_OF, PREFIX

    names = {operation["operationId"].removeprefix(PREFIX) for _, operation in operations(document)}
    assert names == CODES_OF.keys(), "image_editor/api/openapi.py needs an entry for each operation"
    assert {code for codes in CODES_OF.values() for code in codes if CODES[code].status is None} == set()


def test_every_answer_is_described(document: dict[str, Any]) -> None:
    """Each status of an error has its codes as an enumeration, with an example of each."""
    examples = document["components"]["examples"]
    for name, operation in operations(document):
        assert operation["summary"], name
        for status, given in operation["responses"].items():
            response = followed(document, given)
            assert response["description"], (name, status)
            if int(status) < 400:
                continue
            content = response["content"]["application/problem+json"]
            codes = content["schema"]["allOf"][1]["properties"]["code"]["enum"]
            assert codes, (name, status)
            assert {CODES[code].status for code in codes} == {int(status)}, (name, status)
            assert set(content["examples"]) == set(codes)
            assert {examples[code]["value"]["code"] for code in codes} == set(codes)


def test_a_response_of_several_operations_is_described_once(document: dict[str, Any]) -> None:
    used = [response for _, operation in operations(document) for response in operation["responses"].values()]
    written = [json.dumps(response) for response in used if "$ref" not in response]
    written += map(json.dumps, document["components"]["responses"].values())
    assert len(written) == len(set(written))
    references = {response["$ref"].rpartition("/")[2] for response in used if "$ref" in response}
    assert references == document["components"]["responses"].keys()


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    from image_editor.api import examples, schemas

    for name, example in examples.DOCUMENTS.items():
        model: type[BaseModel] = getattr(schemas, name)
        model.model_validate_json(json.dumps(example))
        assert example.keys() <= model.model_fields.keys(), name
    used = {
        content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        for _, operation in operations(document)
        for body in (*operation["responses"].values(), operation.get("requestBody", {}))
        for content in followed(document, body).get("content", {}).values()
    }
    assert used - {""} == examples.DOCUMENTS.keys(), "image_editor/api/examples.py needs an example for each body"


def test_receivers_get_what_the_document_describes(api: Any, files: Any, document: dict[str, Any]) -> None:
    from image_editor.api import schemas
    from image_editor.models import Callback
    from image_editor.webhooks import callbacks

    hook = files.serve("/hook", b"")
    item = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
    edit = post(api, item | {"callback_url": hook}).json()
    batch = post(api, {"items": [item], "callback_url": hook}, "/api/v1/batches").json()
    for ended in (edit, batch):
        assert api.post(f"{ended['status_url']}/cancel").status_code == 200
    assert post(api, {"url": hook}, "/api/v1/webhooks/test").status_code == 202
    for callback in Callback.objects.all():
        assert callbacks.send(str(callback.pk), callback.tries) == "delivered"
    sent = {}
    for _, headers, body in files.seen:
        event = json.loads(body)
        sent[event["type"]] = event
        described = document["webhooks"][event["type"]]["post"]
        assert {parameter["name"] for parameter in described["parameters"]} <= headers.keys()
        content = described["requestBody"]["content"]["application/json"]
        assert set(content["schema"]["required"]) <= event.keys()
        for name, part in content["schema"]["properties"].items():
            if "$ref" not in part:
                continue
            model: type[BaseModel] = getattr(schemas, part["$ref"].rpartition("/")[2])
            for subject in (event[name], content["example"][name]):
                model.model_validate_json(json.dumps(subject))
                assert subject.keys() == model.model_fields.keys(), event["type"]
    assert sent.keys() == document["webhooks"].keys()
