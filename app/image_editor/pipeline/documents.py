"""The one answer to "where does this edit stand?", for the API, the page and the callbacks."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from image_editor import storage
from image_editor.models import FINAL, Batch, Edit, Status
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.state_cache import Document, states


def status(edit_id: UUID, user_id: int) -> Document | None:
    """The document of an edit that belongs to the user: cache first, PostgreSQL otherwise. None: no such edit."""
    document = states.get(edit_id)
    if document is None:
        edit = Edit.objects.filter(pk=edit_id).first()
        if edit is None:
            return None
        document = of_row(edit)
        if edit.status in FINAL:
            states.set_final(edit_id, document)
        elif edit.status == Status.PROCESSING and (progress := states.progress(edit_id)):
            document["percent"] = progress["percent"]
    return document if document["user_id"] == user_id else None


def of_row(edit: Edit) -> Document:
    """What is known of an edit, in JSON's types. Addresses that expire are added by `public`."""
    succeeded = edit.status == Status.SUCCEEDED
    return {
        "id": str(edit.pk),
        "user_id": edit.user_id,
        "batch_id": str(edit.batch_id) if edit.batch_id else None,
        "status": str(edit.status),
        "percent": 100 if succeeded else 0,
        "prompt": edit.prompt,
        "image_url": edit.image_url,
        "accepted_at": edit.accepted_at.isoformat(),
        "started_at": edit.started_at.isoformat() if edit.started_at else None,
        "finished_at": edit.finished_at.isoformat() if edit.finished_at else None,
        "attempt": edit.attempt,
        "result_name": edit.result_name,
        "result": {
            "content_type": edit.result_type,
            "width": edit.result_width,
            "height": edit.result_height,
            "bytes": edit.result_bytes,
        }
        if succeeded
        else None,
        "error": {"code": edit.error_code, "detail": edit.error_detail} if edit.error_code else None,
    }


def batch_document(batch: Batch, items: Iterable[Edit] | None = None) -> dict[str, Any]:
    """A batch as a client sees it, with its items if they are given."""
    document: dict[str, Any] = {
        "id": str(batch.pk),
        "status": "processing" if batch.unfinished else "finished",
        "total": batch.total,
        "finished": batch.total - batch.unfinished,
        "accepted_at": batch.accepted_at.isoformat(),
        "finished_at": batch.finished_at.isoformat() if batch.finished_at else None,
        "status_url": f"/api/v1/batches/{batch.pk}",
    }
    if items is not None:
        document["items"] = [public(of_row(item)) for item in items]
    return document


def of_message(
    message: EditMessage, status: Status, *, attempt: int = 0, started_at: str | None = None, percent: int = 0
) -> Document:
    """The same of an edit that has not ended, from the message alone."""
    return {
        "id": message.task_id,
        "user_id": message.user_id,
        "batch_id": message.batch_id or None,
        "status": str(status),
        "percent": percent,
        "prompt": message.prompt,
        "image_url": message.image_url,
        "accepted_at": message.accepted_at,
        "started_at": started_at,
        "finished_at": None,
        "attempt": attempt,
        "result_name": "",
        "result": None,
        "error": None,
    }


def public(document: Document) -> dict[str, Any]:
    """As a client sees it: internal names are replaced by addresses that work for a while."""
    shown = {key: value for key, value in document.items() if key not in ("user_id", "result_name", "at")}
    image_url = shown["image_url"]
    shown["image_url"] = storage.signed_url(image_url.removeprefix("media:")) if _is_upload(image_url) else image_url
    shown["status_url"] = f"/api/v1/edits/{document['id']}"
    shown["result_url"] = storage.signed_url(document["result_name"]) if document["result_name"] else None
    return shown


def _is_upload(image_url: str) -> bool:
    return image_url.startswith("media:")
