"""The documents of the API: what it takes and what it answers. OpenAPI describes them from here."""

from typing import Annotated, Any, Literal
from uuid import UUID

from django.conf import settings
from ninja import Schema
from pydantic import ConfigDict, Field

from image_editor.codes import CODES
from image_editor.models import Callback, Status

# A moment is sent as it is stored, in ISO 8601 with microseconds and offset. As a datetime it would lose digits.
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

# Limits of URLs and prompts, for the document. image_editor.api.validation checks them, with errors that say more.
Url = Annotated[str, Field(json_schema_extra={"format": "uri", "maxLength": settings.URL_MAX_CHARS})]
Prompt = Annotated[
    str,
    Field(
        description="what to do, in English or Chinese",
        examples=["greyscale, rotate 90"],
        json_schema_extra={"maxLength": settings.PROMPT_MAX_CHARS, "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$"},
    ),
]


class EditIn(Schema):
    """An edit of an image that is fetched from a URL."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image_url: Url = Field(
        min_length=1,
        description="http or https address of a JPEG, PNG or WebP image, with a public host and port 80 or 443",
        examples=["https://example.org/cat.jpg"],
    )
    prompt: Prompt
    callback_url: Url = Field("", description="where to POST the outcome, signed; empty: nowhere")


class EditForm(Schema):
    """The fields of a multipart form, beside the file `image`."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = ""
    prompt: Prompt
    callback_url: Url = ""


class BatchIn(Schema):
    """1 to 100 edits that are accepted together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[EditIn] = Field(min_length=1, max_length=100)
    callback_url: Url = Field("", description="called once, when the last item has ended; empty: nowhere")


class Page(Schema):
    limit: int = Field(20, ge=1, le=100)
    cursor: str = Field(
        "", max_length=200, description="from the `next` of the page before", json_schema_extra={"format": "cursor"}
    )


class Result(Schema):
    content_type: str
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    bytes: int


class Error(Schema):
    code: str = Field(json_schema_extra={"enum": sorted(code for code, about in CODES.items() if about.of_edit)})
    detail: str = Field(description="what to change")


class EditOut(Schema):
    id: UUID
    batch_id: UUID | None
    status: Literal[tuple(Status.values)]  # type: ignore[valid-type]
    percent: Annotated[int, Field(ge=0, le=100)]
    prompt: str
    image_url: str = Field(description="of an upload: a signed URL that expires")
    accepted_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
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
    accepted_at: Moment
    finished_at: Moment | None
    status_url: str


class BatchOut(BatchSummary):
    items: list[EditOut]


class BatchList(Schema):
    items: list[BatchSummary]
    next: str | None


class SecretOut(Schema):
    secret: str = Field(description="`whsec_` and base64: what libraries of Standard Webhooks take")
    created_at: Moment
    former_expires_at: Moment | None = Field(description="until then, deliveries have the former signature as well")


class RotationIn(Schema):
    """The former secret signs too, until receivers have the new one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlap_seconds: float = Field(86400, ge=0, le=604800, description="0 if the secret has leaked")


class TestEventIn(Schema):
    model_config = ConfigDict(extra="forbid", strict=True)

    url: Url = Field(min_length=1, description="where to POST the event, signed")


class Attempt(Schema):
    at: Moment
    milliseconds: int
    status: int | None = Field(description="of the answer, if there was one")
    error: str = Field(description="empty if the receiver took the delivery")


class DeliveryOut(Schema):
    id: UUID = Field(description="the header `webhook-id`")
    url: str
    edit_id: UUID | None
    batch_id: UUID | None
    state: Literal[tuple(Callback.State.values)]  # type: ignore[valid-type]
    created_at: Moment
    delivered_at: Moment | None
    next_try_at: Moment | None
    attempts: list[Attempt] = Field(description="the newest last; older ones than the last 20 are removed")
    status_url: str


class DeliveryList(Schema):
    items: list[DeliveryOut]
    next: str | None


class ProblemError(Schema):
    """A field of the request to change, or an item of a batch."""

    message: str
    field: str | None = Field(None, description="of the request; with `invalid`")
    index: int | None = Field(None, description="of the item, from 0; with `items_invalid`")
    code: str | None = Field(None, description="of the item; with `items_invalid`")


class ProblemOut(Schema):
    """RFC 9457, as application/problem+json."""

    type: str
    title: str = Field(description="for people; its words may change")
    status: int
    code: str = Field(
        description="for programs; a later version may add codes",
        json_schema_extra={"enum": sorted(code for code, about in CODES.items() if about.status)},
    )
    detail: str = Field(description="what to change, for people")
    errors: list[ProblemError] = Field([], description="with `invalid` and `items_invalid`")


ERRORS: dict[int, Any] = dict.fromkeys((400, 401, 403, 404, 409, 413, 415, 422, 429, 503), ProblemOut)
