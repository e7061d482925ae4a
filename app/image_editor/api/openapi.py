"""What ninja cannot know about the OpenAPI document: types of errors, the Idempotency-Key, and two kinds of body."""

from typing import Any

from image_editor.api.idempotency import KEY
from image_editor.api.problems import CONTENT_TYPE
from image_editor.api.schemas import EditForm


def as_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the correct content types of errors and events. ninja gives all of them JSON."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for code, response in operation["responses"].items():
                if int(code) >= 400:
                    response["content"] = {CONTENT_TYPE: response["content"]["application/json"]}
                elif int(code) == 200 and path.endswith("/events"):
                    response["content"] = {"text/event-stream": {}}
    return document


def _form() -> dict[str, Any]:
    """The schema of the form: its fields, and the file instead of the URL."""
    form = EditForm.model_json_schema()
    del form["properties"]["image_url"]
    form["properties"]["image"] = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}
    form["required"] = ["image", "prompt"]
    return form


# For `openapi_extra` of the operations that accept edits.
IDEMPOTENCY_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": f"^{KEY}$"},
        }
    ]
}
EDIT_BODY: dict[str, Any] = IDEMPOTENCY_KEY | {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/EditIn"}},
            "multipart/form-data": {"schema": _form()},
        },
    }
}
