"""What ninja cannot know about the OpenAPI document: types of errors, the Idempotency-Key, and two kinds of body."""

from typing import Any

from image_editor.api.idempotency import KEY
from image_editor.api.problems import CONTENT_TYPE
from image_editor.api.schemas import EditForm


def as_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the correct content type of errors. ninja gives every answer application/json."""
    for path in document["paths"].values():
        for operation in path.values():
            for code, response in operation["responses"].items():
                if int(code) >= 400:
                    response["content"] = {CONTENT_TYPE: response["content"]["application/json"]}
    return document


def _form() -> dict[str, Any]:
    """The schema of the form: its fields, and the file instead of the URL."""
    form = EditForm.model_json_schema()
    del form["properties"]["image_url"], form["$defs"]
    form["properties"]["image"] = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}
    for name in ("operations", "output"):
        form["properties"][name] = {"type": "string", "format": name, "description": f"JSON, as `{name}` of EditIn"}
    form["required"] = ["image"]
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
