"""Repeated requests: the same Idempotency-Key and the same request get the same answer."""

import hashlib
import re
from collections.abc import Callable

from django.db import IntegrityError
from django.db.models import QuerySet
from django.http import HttpRequest
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from image_editor.api.problems import Problem
from image_editor.models import Batch, Edit

KEY = "[!-~]{1,255}"


def key(request: HttpRequest) -> str | None:
    """The Idempotency-Key of the request, if it has one. Raises Problem."""
    found = request.headers.get("Idempotency-Key")
    if found is not None and not re.fullmatch(KEY, found):
        raise Problem(422, "invalid", "an Idempotency-Key has 1 to 255 ASCII characters, none of them a space")
    return found


def digest(body: BaseModel, *images: bytes) -> str:
    """SHA-256, in hex, of every field and of the bytes of the images. Two requests with one digest are the same.

    Raises Problem.
    """
    try:
        text = body.model_dump_json().encode()
    except PydanticSerializationError as error:  # half of a surrogate pair, which JSON can carry and UTF-8 cannot
        raise Problem(422, "invalid", "a field has characters that are not text: send plain text") from error
    return hashlib.sha256(text + b"".join(hashlib.sha256(image).digest() for image in images)).hexdigest()


def check_same(found: Edit | Batch, request_digest: str) -> None:
    """Raises Problem if the key was used for another request."""
    if found.request_digest != request_digest:
        raise Problem(
            422, "idempotency_key_reused", "this Idempotency-Key belongs to a different request: send a new key"
        )


def once[Accepted, Row: (Edit, Batch)](
    accept: Callable[[], Accepted], rows: QuerySet[Row], key: str | None
) -> tuple[Accepted | None, Row | None]:
    """What was accepted, or the row among the user's ``rows`` that another request with the same key has just made.

    If that row was removed meanwhile, the request is accepted after all. Raises IntegrityError.
    """
    try:
        return accept(), None
    except IntegrityError:
        if key is None:
            raise
        if found := rows.filter(idempotency_key=key).first():
            return None, found
    return accept(), None
