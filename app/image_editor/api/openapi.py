"""What ninja cannot know about the OpenAPI document: types of errors, the Idempotency-Key, and forms as bodies."""

from typing import Any

from image_editor.api.idempotency import KEY
from image_editor.api.problems import CONTENT_TYPE
from image_editor.api.schemas import BatchForm, BatchIn, EditForm


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


def with_bodies(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the schemas of the bodies that image_editor.api.bodies reads."""
    schema = BatchIn.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= schema.pop("$defs") | {"BatchIn": schema}
    return document


def _form(fields: type[EditForm | BatchForm] | None = None, image: str = "JPEG, PNG or WebP") -> dict[str, Any]:
    """The schema of a form: its fields, and the file instead of the URL."""
    form = fields.model_json_schema() if fields else {"type": "object", "properties": {}, "additionalProperties": False}
    form.pop("$defs", None)
    form["properties"].pop("image_url", None)
    form["properties"]["image"] = {"type": "string", "format": "binary", "description": image}
    for name in form["properties"].keys() & {"operations", "output"}:
        form["properties"][name] = {"type": "string", "format": name, "description": f"JSON, as `{name}` of EditIn"}
    form["required"] = ["image", *form.get("required", [])]
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
            "multipart/form-data": {"schema": _form(EditForm)},
        },
    }
}
BATCH_BODY: dict[str, Any] = IDEMPOTENCY_KEY | {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/BatchIn"}},
            "multipart/form-data": {"schema": _form(BatchForm, "1 to 100 of them: repeat the field")},
        },
    }
}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _form()}}}
}
