"""Reading request bodies: JSON for ninja, and the bodies that may be JSON or a form.

An operation of ninja declares JSON or a form, and ``POST /edits`` and ``POST /batches`` take either at one address. So
this module chooses the schema by the content type, and ninja's schemas do the rest.
"""

import json
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from ninja.parser import Parser
from pydantic import ValidationError

from image_editor.api.errors import invalid
from image_editor.api.problems import Problem
from image_editor.api.schemas import BatchForm, BatchIn, EditForm, EditIn

BATCH_MAX = 100  # images in a form
MEMBERS_MAX = 20  # of an object in JSON; no object of the API has as many


class _TooManyMembers(ValueError):
    """To name each as an error would take seconds."""


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a document. Raises _TooManyMembers."""
    if len(members) > MEMBERS_MAX:
        raise _TooManyMembers
    return dict(members)


def _parsed(text: str | bytes) -> Any:
    """A document. Raises ValueError or RecursionError."""
    return json.loads(text, object_pairs_hook=_object)


class JSONParser(Parser):
    """Parses JSON bodies, and refuses other content types."""

    def parse_body(self, request: HttpRequest) -> Any:
        """The document. Raises Problem."""
        if request.content_type != "application/json":
            raise Problem(415, "unsupported_media_type", "send application/json")
        try:
            return _parsed(request.body)
        except _TooManyMembers as error:
            raise Problem(400, "not_json", f"an object of the body has more than {MEMBERS_MAX} members") from error
        except (ValueError, RecursionError) as error:
            raise Problem(400, "not_json", "the body is not valid JSON") from error


parser = JSONParser()


def read_edit(request: HttpRequest) -> tuple[EditIn | EditForm, bytes | None]:
    """The fields of an edit, and the bytes of the image if one was uploaded. Raises Problem."""
    try:
        if request.content_type != "multipart/form-data":
            return EditIn.model_validate(parser.parse_body(request)), None
        form = EditForm.model_validate(_form(request))
    except ValidationError as error:
        raise invalid(error.errors()) from error
    return form, _upload(request, form)


def _form(request: HttpRequest) -> dict[str, Any]:
    """The fields of a form. Those that are JSON are parsed. Raises Problem."""
    fields: dict[str, Any] = request.POST.dict()
    for name in fields.keys() & {"operations", "output"}:
        try:
            fields[name] = _parsed(fields[name])
        except (ValueError, RecursionError) as error:
            raise Problem(422, "invalid", f"{name}: send JSON, or leave the field out") from error
    return fields


def read_batch(request: HttpRequest) -> tuple[BatchIn | BatchForm, list[bytes]]:
    """The fields of a batch, and the bytes of its images if they were uploaded. Raises Problem."""
    try:
        if request.content_type != "multipart/form-data":
            return BatchIn.model_validate(parser.parse_body(request)), []
        form = BatchForm.model_validate(_form(request))
    except ValidationError as error:
        raise invalid(error.errors()) from error
    wanted = f"send 1 to {BATCH_MAX} files, each in a field 'image'"
    images = _images(request, wanted, BATCH_MAX)
    if not images:
        raise Problem(422, "invalid", wanted)
    return form, images


def read_image(request: HttpRequest) -> bytes:
    """The bytes of an image that was uploaded alone. Raises Problem."""
    if request.content_type != "multipart/form-data":
        raise Problem(415, "unsupported_media_type", "send multipart/form-data with a file in the field 'image'")
    wanted = "send one file, in the field 'image', and nothing else"
    images = _images(request, wanted)
    if not images or request.POST:
        raise Problem(422, "invalid", wanted)
    return images[0]


def _upload(request: HttpRequest, form: EditForm) -> bytes | None:
    """The uploaded image; None if the form names a URL instead. Raises Problem."""
    images = _images(request, "send one file, in the field 'image'")
    if bool(images) == bool(form.image_url):
        raise Problem(422, "invalid", "send either a file in the field 'image' or an 'image_url'")
    return images[0] if images else None


def _images(request: HttpRequest, wanted: str, at_most: int = 1) -> list[bytes]:
    """The files in the field ``image``. Raises Problem, which says what is ``wanted``, if there are others."""
    uploads: list[UploadedFile] = request.FILES.getlist("image")
    if len(uploads) > at_most or set(request.FILES) - {"image"}:
        raise Problem(422, "invalid", wanted)
    if any((upload.size or 0) > settings.UPLOAD_MAX_BYTES for upload in uploads):
        raise Problem(413, "too_large", f"send an image of at most {settings.UPLOAD_MAX_BYTES} bytes")
    return [upload.read() for upload in uploads]
