"""Documents of edits and batches, as the API, the page and the callbacks show them."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from image_editor import storage
from image_editor.details import translated
from image_editor.models import FINAL, Batch, Edit, Status
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.state_cache import Document, states


def read(edit_id: UUID, user_id: int) -> Document | None:
    """The document of an edit of the user, from the cache or else from PostgreSQL. None if there is no such edit."""
    document = states.get(edit_id)
    if document is None:
        edit = Edit.objects.filter(pk=edit_id).first()
        if edit is None:
            return None
        document = of_row(edit)
        if edit.status in FINAL:
            states.set_final(edit_id, document, replace=False)
        elif edit.status == Status.PROCESSING and (progress := states.progress(edit_id)):
            document["percent"] = progress["percent"]
    return document if document["user_id"] == user_id else None


def of_row(edit: Edit) -> Document:
    """The document of a row, in JSON's types. `public` adds the URLs that expire."""
    succeeded = edit.status == Status.SUCCEEDED
    return {
        "id": str(edit.pk),
        "user_id": edit.user_id,
        "batch_id": str(edit.batch_id) if edit.batch_id else None,
        "status": str(edit.status),
        "percent": 100 if succeeded else 0,
        "prompt": edit.prompt,
        "output": edit.output,
        "image_url": edit.image_url,
        "metadata": edit.metadata or {},
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


def of_batch(batch: Batch, items: Iterable[Edit] | None = None) -> dict[str, Any]:
    """The document of a batch as a client sees it, with its items if they are given."""
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
    """The document of an edit that has not ended, from its message alone."""
    return {
        "id": message.task_id,
        "user_id": message.user_id,
        "batch_id": message.batch_id or None,
        "status": str(status),
        "percent": percent,
        "prompt": message.prompt,
        "output": message.output,
        "image_url": message.image_url,
        "metadata": message.metadata or {},
        "accepted_at": message.accepted_at,
        "started_at": started_at,
        "finished_at": None,
        "attempt": attempt,
        "result_name": "",
        "result": None,
        "error": None,
    }


def public(document: Document) -> dict[str, Any]:
    """The document as a client sees it: signed URLs replace the names of stored files, and errors are translated."""
    shown = {key: value for key, value in document.items() if key not in ("user_id", "result_name", "at")}
    shown.setdefault("metadata", {})  # a document that the previous release cached has none
    image_url = shown["image_url"]
    shown["image_url"] = storage.signed_url(image_url.removeprefix("media:")) if _is_upload(image_url) else image_url
    shown["status_url"] = f"/api/v1/edits/{document['id']}"
    shown["result_url"] = storage.signed_url(document["result_name"]) if document["result_name"] else None
    if error := document["error"]:
        shown["error"] = error | {"detail": translated(error["detail"])}
    return shown


def _is_upload(image_url: str) -> bool:
    return image_url.startswith("media:")
