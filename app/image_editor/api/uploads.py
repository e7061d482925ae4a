"""Uploads: an image is sent once, and any number of edits name it."""

import uuid
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import Error
from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Query, Router, Status

from image_editor import storage
from image_editor.api import bodies, validation
from image_editor.api.openapi import UPLOAD_BODY
from image_editor.api.pagination import paginate
from image_editor.api.rate_limits import OneEdit
from image_editor.api.schemas import ERRORS, Page, UploadList, UploadOut
from image_editor.auth import user_of
from image_editor.imaging.inspection import EXTENSIONS
from image_editor.models import Upload
from image_editor.pipeline import retention
from image_editor.storage import names

router = Router(tags=["uploads"])
Answer = Status[dict[str, Any]]


@router.post(
    "",
    response={201: UploadOut, **ERRORS},
    throttle=OneEdit(),
    openapi_extra=UPLOAD_BODY,
    summary="Upload an image for several edits",
)
def create_upload(request: HttpRequest) -> Answer:
    """Takes a file in a form. Edits and items of batches name it by `upload_id`. It counts as an edit."""
    image = bodies.read_image(request)
    kind = validation.check_image(image)
    upload_id, now = uuid.uuid4(), timezone.now()
    upload = Upload(
        pk=upload_id,
        user=user_of(request),
        name=names.shared(upload_id, now, EXTENSIONS[kind]),
        content_type=f"image/{kind}",
        bytes=len(image),
        accepted_at=now,
        used_at=now,
    )
    validation.store(upload.name, image, kind)
    try:
        upload.save(force_insert=True)
    except Error:
        validation.discard(upload.name)
        raise
    return Status(201, _document(upload))


@router.get("", response={200: UploadList, **ERRORS}, summary="Your uploads, the newest first")
def list_uploads(request: HttpRequest, page: Query[Page]) -> Answer:
    """Pages of uploads. An upload that came with its edit is not among them."""
    rows, following = paginate(request, Upload.objects.filter(user=user_of(request)), page)
    return Status(200, {"items": [_document(upload) for upload in rows], "next": following})


@router.get("/{uuid:upload_id}", response={200: UploadOut, **ERRORS}, summary="One upload")
def read_upload(request: HttpRequest, upload_id: UUID) -> Answer:
    """Its size, and until when it is kept."""
    return Status(200, _document(_mine(request, upload_id)))


@router.delete("/{uuid:upload_id}", response={204: None, **ERRORS}, summary="Remove an upload")
def delete_upload(request: HttpRequest, upload_id: UUID) -> Status[None]:
    """Removes the upload now and for ever, and its file within seconds. Edits that have ended keep their results.

    An edit that has not begun yet fails with `upload_gone`.
    """
    retention.remove_upload(_mine(request, upload_id))
    return Status(204, None)


def _mine(request: HttpRequest, upload_id: UUID) -> Upload:
    upload = Upload.objects.filter(pk=upload_id, user=user_of(request)).first()
    if upload is None:
        raise Http404
    return upload


def _document(upload: Upload) -> dict[str, Any]:
    kept = timedelta(days=settings.RETENTION_DAYS) + retention.UPLOAD_LONGER
    return {
        "id": str(upload.pk),
        "content_type": upload.content_type,
        "bytes": upload.bytes,
        "accepted_at": upload.accepted_at.isoformat(),
        "expires_at": (upload.used_at + kept).isoformat() if settings.RETENTION_DAYS else None,
        "image_url": storage.signed_url(upload.name),
        "upload_url": f"/api/v1/uploads/{upload.pk}",
    }
