"""What the API takes and gives, for validation and for its documentation."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from ninja import Schema
from pydantic import BaseModel, ConfigDict, Field

from image_editor.models import Status


class EditIn(BaseModel):
    """An edit of a picture that is fetched from a URL."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image_url: str = Field(
        min_length=1,
        description="http or https address of a JPEG, PNG or WebP picture",
        examples=["https://example.org/cat.jpg"],
    )
    prompt: str = Field(description="what to do, in English or Chinese", examples=["greyscale, rotate 90"])
    callback_url: str = Field("", description="where to POST the outcome, signed")


class EditUpload(BaseModel):
    """The fields of a multipart form, beside the file `image`."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = ""
    prompt: str
    callback_url: str = ""


class BatchIn(BaseModel):
    """1 to 100 edits that are accepted together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[EditIn] = Field(min_length=1, max_length=100)
    callback_url: str = Field("", description="called once, when the last item has ended")


class Page(Schema):
    limit: int = Field(20, ge=1, le=100)
    cursor: str = Field("", max_length=200, description="from the `next` of the page before")


class Result(Schema):
    content_type: str
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    bytes: int


class Error(Schema):
    code: str
    detail: str = Field(description="what to change")


class EditOut(Schema):
    id: UUID
    batch_id: UUID | None
    status: Literal[tuple(Status.values)]  # type: ignore[valid-type]
    percent: Annotated[int, Field(ge=0, le=100)]
    prompt: str
    image_url: str = Field(description="of an upload: a signed URL that expires")
    accepted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    result: Result | None
    error: Error | None
    status_url: str
    result_url: str | None = Field(description="signed URL that expires; ask again for a new one")


class EditList(Schema):
    items: list[EditOut]
    next: str | None


class BatchSummary(Schema):
    id: UUID
    status: Literal["processing", "finished"]
    total: int
    finished: int
    accepted_at: datetime
    finished_at: datetime | None
    status_url: str


class BatchOut(BatchSummary):
    items: list[EditOut]


class BatchList(Schema):
    items: list[BatchSummary]
    next: str | None


class ProblemOut(Schema):
    """RFC 9457, as application/problem+json."""

    type: str
    title: str
    status: int
    code: str
    detail: str = Field(description="what to change")


ERRORS: dict[int, Any] = {code: ProblemOut for code in (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)}


def as_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the true type of errors; the framework describes every answer as application/json."""
    for path in document["paths"].values():
        for operation in path.values():
            for code, response in operation["responses"].items():
                if int(code) >= 400:
                    response["content"] = {"application/problem+json": response["content"]["application/json"]}
    return document


_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def _inline(model: type[BaseModel]) -> dict[str, Any]:
    """A schema without references, which may stand anywhere in the document."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rpartition("/")[2]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    return resolve(schema)


_FORM = _inline(EditUpload)
_FORM["properties"].pop("image_url")
_FORM["properties"]["image"] = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}
_FORM["required"] = ["image", "prompt"]

EDIT_BODY = {
    "parameters": [_IDEMPOTENCY],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _inline(EditIn)}, "multipart/form-data": {"schema": _FORM}},
    },
}
BATCH_BODY = {
    "parameters": [_IDEMPOTENCY],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _inline(BatchIn)}}},
}
