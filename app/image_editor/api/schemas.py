"""The documents of the API: what it takes and what it answers. OpenAPI describes them from here."""

import json
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from django.conf import settings
from ninja import Schema
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from image_editor.codes import CODES
from image_editor.imaging.operations import OPERATIONS_MAX, Format, Operation, Output, Whole
from image_editor.models import Callback, Status

# A moment is sent as it is stored, in ISO 8601 with microseconds and offset. As a datetime it would lose digits.
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

# Limits of URLs and prompts, for the document. image_editor.api.validation checks them, with errors that say more.
Url = Annotated[str, Field(json_schema_extra={"format": "uri", "maxLength": settings.URL_MAX_CHARS})]
NOT_BLANK = r"[^\u0000]*[^\s\u0000][^\u0000]*"
PROMPT = "what to do, in English or Chinese; or send `operations`"


def _prompt(pattern: str) -> Any:
    """The field of a prompt, for the document."""
    limits = {"maxLength": settings.PROMPT_MAX_CHARS, "pattern": pattern}
    return Field(description=PROMPT, examples=["greyscale, rotate 90"], json_schema_extra=limits)


Prompt = Annotated[str, _prompt(f"^(?:{NOT_BLANK})?$")]
FormPrompt = Annotated[str, _prompt(f"^{NOT_BLANK}$")]
# Left out if it is empty, so that a repeated request has the digest of the release before this field.
Operations = Annotated[
    list[Operation],
    Field(
        max_length=OPERATIONS_MAX,
        exclude_if=lambda operations: not operations,
        description="what to do, in this order; the same as a `prompt`, which is parsed into them",
        examples=[[{"op": "greyscale"}, {"op": "resize", "width": 800}]],
    ),
]


def _is_empty(value: Any) -> bool:
    """For what earlier releases do not know: the digest of a request without it stays the same (idempotency.py)."""
    return not value


class OutputIn(Output):
    """How the result is saved. The platform chooses what is left out."""

    # Workers take a larger number, too: the setting may have been larger when the edit was accepted.
    max_bytes: Annotated[int, Field(ge=1, le=settings.UPLOAD_MAX_BYTES), Whole] | None = Field(
        None, exclude_if=_is_empty, description="the quality is lowered until the result is as small as this"
    )


Saved = Annotated[OutputIn | None, Field(exclude_if=_is_empty, description="how the result is saved")]
# What counts as given: clients send a field that they leave empty, too.
GIVEN: dict[str, dict[str, Any]] = {
    "prompt": {"minLength": 1},
    "operations": {"minItems": 1},
    "image_url": {"minLength": 1},
    "upload_id": {"minLength": 1},
}


def _one_of(*alternatives: tuple[str, ...]) -> dict[str, Any]:
    """The part of a schema that says: the fields of exactly one of the alternatives are given."""
    return {
        "oneOf": [
            {"required": list(names), "properties": {name: GIVEN[name] for name in names}} for names in alternatives
        ]
    }


# Exactly one of the two. image_editor.api.validation checks it, with an error that says more.
INSTRUCTIONS = _one_of(("prompt",), ("operations",))
# In a form, both are texts, and a field that is sent is given.
FORM_INSTRUCTIONS: dict[str, Any] = {"oneOf": [{"required": ["prompt"]}, {"required": ["operations"]}]}

TEXT = r"^[^\x00]*$"  # PostgreSQL cannot store the character NUL
Name = Annotated[str, Field(min_length=1, max_length=40, pattern=TEXT)]
NAMES: dict[str, Any] = {"minLength": 1, "maxLength": 40, "pattern": TEXT}
Metadata = Annotated[
    dict[Name, Annotated[str, Field(max_length=200, pattern=TEXT)]],
    # pydantic writes the names' pattern as patternProperties, which alone allows other names with any value.
    Field(max_length=16, json_schema_extra={"propertyNames": NAMES}),
]
METADATA = "your own texts by name; lists can be filtered by the one named `reference`"
METADATA_MAX_CHARS = 50_000  # as JSON, in which a character may take twelve


def _parsed(value: str) -> Any:
    """The metadata of a form, which is JSON in a text."""
    if len(value) > METADATA_MAX_CHARS:
        raise ValueError(f"send at most {METADATA_MAX_CHARS} characters")
    try:
        return json.loads(value or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError("send an object in JSON") from error


FormMetadata = Annotated[
    Metadata, BeforeValidator(_parsed), WithJsonSchema({"type": "string", "format": "json-object"})
]


def _uuid(text: str) -> str:
    """An id in its usual form. Raises ValueError."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise ValueError("send an id") from error


# One source of the image, and one of the instructions.
EDIT = _one_of(*((source, how) for source in ("image_url", "upload_id") for how in ("prompt", "operations")))


class EditIn(Schema):
    """An edit of an image that is fetched from a URL, or that was uploaded before."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=EDIT)

    image_url: Url = Field(
        "",
        description="http or https address of a JPEG, PNG or WebP image, with a public host and port 80 or 443",
        examples=["https://example.org/cat.jpg"],
    )
    prompt: Prompt = ""
    callback_url: Url = Field("", description="where to POST the outcome, signed; empty: nowhere")
    operations: Operations = []
    output: Saved = None
    metadata: Metadata = Field(default_factory=dict, exclude_if=_is_empty, description=METADATA)
    upload_id: Annotated[str, AfterValidator(_uuid)] = Field(
        "",
        exclude_if=_is_empty,
        description="of `POST /uploads`, instead of an `image_url`",
        json_schema_extra={"format": "uuid"},
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.image_url) == bool(self.upload_id):
            raise ValueError("send either 'image_url' or 'upload_id'")
        return self


class EditForm(Schema):
    """The fields of a multipart form, beside the file `image`. `operations` and `output` are sent as JSON."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=FORM_INSTRUCTIONS)

    image_url: str = ""
    prompt: FormPrompt = ""
    callback_url: Url = ""
    operations: Operations = []
    output: Saved = None
    metadata: FormMetadata = Field(default_factory=dict, exclude_if=_is_empty, description=f"as JSON: {METADATA}")


class ImageIn(Schema):
    """An image as a viewer shows it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["jpeg", "png", "webp"] = "jpeg"
    width: Annotated[int, Field(ge=1, le=65535, description="pixels"), Whole]
    height: Annotated[int, Field(ge=1, le=65535, description="pixels"), Whole]


class DryRunIn(Schema):
    """What an edit would be asked to do, and perhaps to which kind of image."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=INSTRUCTIONS)

    prompt: Prompt = ""
    operations: Operations = []
    output: OutputIn | None = Field(None, description="how the result is saved")
    image: ImageIn | None = Field(None, description="with it, the size of the result and the cost are computed")


class Planned(Schema):
    format: Format | None = Field(description="null: that of the image")
    width: int | None = Field(description="pixels; null: not known without `image`")
    height: int | None = Field(description="pixels; null: not known without `image`")


class Cost(Schema):
    edits: int = Field(description="what a submission counts against the rate and the quota")
    seconds: float | None = Field(description="of processor time, about; null: not known without `image`")
    seconds_max: float | None = Field(description="an edit that needs more is refused")


class DryRunOut(Schema):
    prompt: str = Field(description="a prompt in English that means the same")
    operations: list[Operation] | None = Field(description="null: the engine's provider decides what the prompt means")
    result: Planned
    cost: Cost


class BatchIn(Schema):
    """1 to 100 edits that are accepted together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[EditIn] = Field(min_length=1, max_length=100)
    callback_url: Url = Field("", description="called once, when the last item has ended; empty: nowhere")


class BatchForm(Schema):
    """The fields of a multipart form, beside 1 to 100 files `image`. All but `callback_url` are for each of them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=FORM_INSTRUCTIONS)

    prompt: FormPrompt = ""
    callback_url: Url = ""
    operations: Operations = []
    output: Saved = None
    metadata: FormMetadata = Field(default_factory=dict, exclude_if=_is_empty, description=f"as JSON: {METADATA}")

    def each(self) -> EditForm:
        """What is said about each image, beside its metadata."""
        return EditForm.model_validate(self.model_dump(include={"prompt", "operations", "output"}, exclude_unset=True))


class Page(Schema):
    limit: int = Field(20, ge=1, le=100)
    cursor: str = Field(
        "", max_length=200, description="from the `next` of the page before", json_schema_extra={"format": "cursor"}
    )


Bound = Annotated[
    str,
    Field(
        max_length=50,
        description="a moment with its offset; `Z` is UTC",
        json_schema_extra={"format": "date-time"},
        examples=["2026-11-27T00:00:00Z"],
    ),
]


class Period(Schema):
    """When what a list shows was accepted."""

    accepted_from: Bound | None = None
    accepted_before: Bound | None = None


class EditFilters(Period):
    reference: Annotated[str, Field(min_length=1, max_length=200, pattern=TEXT)] | None = None


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
    prompt: str = Field(description="as submitted; for `operations`, the prompt that means the same")
    output: Output | None = Field(None, description="as submitted")
    image_url: str = Field(description="of an upload: a signed URL that expires")
    metadata: dict[str, str]
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


class UploadOut(Schema):
    id: UUID = Field(description="the `upload_id` of edits")
    content_type: str
    bytes: int
    accepted_at: Moment
    expires_at: Moment | None = Field(description="when it is removed, unless another edit uses it before")
    image_url: str = Field(description="signed URL that expires")
    upload_url: str


class UploadList(Schema):
    items: list[UploadOut]
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


class Limit(Schema):
    of: Literal["edits", "dry_runs"] = Field(description="what is counted")
    window: Literal["minute", "day"]
    limit: int = Field(description="at most so many in this window")
    used: int
    remaining: int
    resets_at: Moment


class UsageOut(Schema):
    known: bool = Field(description="false: the counts cannot be read at the moment, and nothing is limited")
    limits: list[Limit]


Scope = Literal["read", "write"]


class TokenIn(Schema):
    model_config = ConfigDict(extra="forbid", strict=True)

    # No NUL, which PostgreSQL cannot store.
    name: str = Field(
        min_length=1, max_length=64, pattern=r"^[^\x00]+$", description="what the token is for", examples=["shop"]
    )
    scope: Scope = Field("write", description="`read`: GET only, and not the signing secret")
    manages_tokens: bool = Field(
        True, description="false: for a program, which replaces and revokes its own token alone, and signs in nowhere"
    )
    expires_in_seconds: float | None = Field(None, ge=1, le=315_360_000, description="null: it does not expire")


class TokenRotationIn(Schema):
    """The former token works too, until its programs have the new one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlap_seconds: float = Field(86400, ge=0, le=604800, description="0 if the token has leaked")


class TokenOut(Schema):
    id: UUID
    name: str = Field(description="empty if an earlier release made the token")
    scope: Scope
    manages_tokens: bool = Field(description="whether it may make tokens, and change those that it has made")
    state: Literal["active", "expired"]
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None = Field(description="exact to a minute")
    current: bool = Field(description="whether this request, or the session, has signed in with the token")


class TokenMade(TokenOut):
    token: str = Field(description="it is shown once: only its hash is stored")


class TokenList(Schema):
    items: list[TokenOut]


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
