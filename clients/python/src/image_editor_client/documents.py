"""What the API takes and answers, as typed objects. Fields that this version does not know are in ``document``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict


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


@dataclass(frozen=True, slots=True)
class Result:
    """The edited image, which ``Client.download`` fetches."""

    content_type: str
    width: int  # pixels
    height: int  # pixels
    bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an edit failed. ``code`` is for programs, ``detail`` says what to change."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit as it was when the API answered."""

    id: str
    status: str  # accepted, queued, processing, succeeded, failed or cancelled
    percent: int
    prompt: str
    accepted_at: datetime
    finished_at: datetime | None
    result: Result | None
    error: Failure | None
    result_url: str | None  # signed; it expires
    batch_id: str | None
    document: dict[str, Any] = field(repr=False, compare=False)

    @property
    def ended(self) -> bool:
        """Whether the edit has succeeded, failed or been cancelled."""
        return self.finished_at is not None

    @classmethod
    def read(cls, document: dict[str, Any]) -> Edit:
        """The edit of a document of the API."""
        result, error = document["result"], document["error"]
        return cls(
            id=document["id"],
            status=document["status"],
            percent=document["percent"],
            prompt=document["prompt"],
            accepted_at=datetime.fromisoformat(document["accepted_at"]),
            finished_at=_moment(document["finished_at"]),
            result=Result(**{name: result[name] for name in Result.__slots__}) if result else None,
            error=Failure(error["code"], error["detail"]) if error else None,
            result_url=document["result_url"],
            batch_id=document["batch_id"],
            document=document,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it was when the API answered. The list of batches leaves out ``items``."""

    id: str
    total: int
    finished: int
    finished_at: datetime | None
    items: tuple[Edit, ...]
    document: dict[str, Any] = field(repr=False, compare=False)

    @property
    def ended(self) -> bool:
        """Whether every item has ended."""
        return self.finished_at is not None

    @classmethod
    def read(cls, document: dict[str, Any]) -> Batch:
        """The batch of a document of the API."""
        return cls(
            id=document["id"],
            total=document["total"],
            finished=document["finished"],
            finished_at=_moment(document["finished_at"]),
            items=tuple(map(Edit.read, document.get("items", ()))),
            document=document,
        )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
