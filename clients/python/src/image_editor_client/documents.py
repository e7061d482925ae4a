"""What the API takes and answers, as typed objects. Fields that this version does not know are in ``document``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, Self, TypedDict, TypeVar


@dataclass(frozen=True, slots=True)
class Item:
    """One edit of a batch: of a URL or of an upload, with a prompt or with operations."""

    image_url: str = ""
    prompt: str = ""
    callback_url: str = ""
    upload_id: str = ""  # of ``Client.upload``
    operations: Sequence[Mapping[str, Any]] = ()  # such as {"op": "resize", "width": 800}
    output: Mapping[str, Any] | None = None  # such as {"format": "webp", "max_bytes": 100_000}
    metadata: Mapping[str, str] | None = None  # such as {"reference": "order 42"}


class Said(TypedDict, total=False):
    """What can be said of an edit, beside its prompt: fields of an Item."""

    image_url: str
    callback_url: str
    upload_id: str
    operations: Sequence[Mapping[str, Any]]
    output: Mapping[str, Any] | None
    metadata: Mapping[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Document:
    """What the API answered, and when this was so."""

    document: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """The object of a document of the API. A field that the document lacks is None."""
        known = {one.name: _value(one.name, document.get(one.name)) for one in fields(cls) if one.name != "document"}
        return cls(document=dict(document), **known)


@dataclass(frozen=True, kw_only=True)
class Stored(Document):
    """Something with an address of its own."""

    PATH: ClassVar[str]
    id: str

    @property
    def path(self) -> str:
        return f"{self.PATH}/{self.id}"


@dataclass(frozen=True, kw_only=True)
class Work(Stored):
    """An edit or a batch. ``finished_at`` is None until it has ended, in whatever way."""

    status: str
    accepted_at: datetime
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.finished_at is not None


@dataclass(frozen=True, kw_only=True)
class Result(Document):
    """The edited image, which ``Client.download`` fetches."""

    content_type: str
    width: int  # pixels
    height: int  # pixels
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Failure(Document):
    """Why an edit failed. ``code`` is for programs, ``detail`` says what to change."""

    code: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Edit(Work):
    """An edit. ``status`` is accepted, queued, processing, succeeded, failed or cancelled."""

    PATH = "/api/v1/edits"
    percent: int
    prompt: str
    metadata: dict[str, str]
    result: Result | None
    error: Failure | None
    result_url: str | None  # signed; it expires
    batch_id: str | None


@dataclass(frozen=True, kw_only=True)
class Batch(Work):
    """A batch. ``status`` is processing or finished. Lists and events leave out the ``items``."""

    PATH = "/api/v1/batches"
    total: int
    finished: int
    items: tuple[Edit, ...]


@dataclass(frozen=True, kw_only=True)
class Upload(Stored):
    """An image that any number of edits can name. ``expires_at`` is None if the platform keeps uploads for ever."""

    PATH = "/api/v1/uploads"
    content_type: str
    bytes: int
    expires_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Token(Stored):
    """An API token. ``token`` is there only when it was made; the platform stores its hash alone."""

    PATH = "/api/v1/tokens"
    name: str
    scope: str  # write or read
    state: str  # active or expired
    expires_at: datetime | None
    last_used_at: datetime | None  # exact to a minute
    current: bool  # whether it is the token of this client
    token: str | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Limit(Document):
    """What is left of a limit. ``of`` is edits or dry_runs, ``window`` is minute or day."""

    of: str
    window: str
    limit: int
    used: int
    remaining: int
    resets_at: datetime


D = TypeVar("D", bound=Stored)
W = TypeVar("W", Edit, Batch)


def _value(name: str, value: Any) -> Any:
    """A value of a document as its object has it."""
    if name == "items":
        return tuple(map(Edit.read, value or ()))
    if name == "metadata":
        return value or {}
    if value is None:
        return None
    if name.endswith("_at"):
        return datetime.fromisoformat(value)
    nested = {"result": Result, "error": Failure}.get(name)
    return nested.read(value) if nested else value
