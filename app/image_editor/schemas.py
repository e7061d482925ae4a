"""What the API takes and gives, for validation and for its documentation."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from ninja import Schema
from pydantic import ConfigDict, Field

from image_editor.models import Status


class EditIn(Schema):
    """An edit of a picture that is fetched from a URL."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = Field(
        description="http or https address of a JPEG, PNG or WebP picture", examples=["https://example.org/cat.jpg"]
    )
    prompt: str = Field(description="what to do, in English or Chinese", examples=["greyscale, rotate 90"])
    callback_url: str = Field("", description="where to POST the outcome; signed")


class EditUpload(Schema):
    """The fields of a multipart form, beside the file ``image``."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = ""
    prompt: str
    callback_url: str = ""


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
    percent: int = Field(ge=0, le=100)
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


class ProblemOut(Schema):
    """RFC 9457, as application/problem+json."""

    type: str
    title: str
    status: int
    code: str
    detail: str
