"""What is checked before an edit is accepted, and how a repeated request is recognised."""

import hashlib
import json
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from pydantic import BaseModel, ValidationError

from image_editor import http_client, storage
from image_editor.api import rate_limits
from image_editor.api.problems import Problem
from image_editor.api.schemas import EditIn, EditUpload
from image_editor.imaging import engines, inspection


def parse[Model: BaseModel](model: type[Model], request: HttpRequest) -> Model:
    """The JSON body of a request. Raises Problem."""
    if request.content_type != "application/json":
        raise Problem(415, "unsupported_media_type", "send application/json")
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "not_json", "the body is not valid JSON") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise invalid(error) from error


def edit_body(request: HttpRequest) -> tuple[EditIn | EditUpload, bytes | None]:
    """The fields, and the picture if one was uploaded, from either kind of body. Raises Problem."""
    if request.content_type != "multipart/form-data":
        return parse(EditIn, request), None
    try:
        body = EditUpload.model_validate(request.POST.dict())
    except ValidationError as error:
        raise invalid(error) from error
    uploads: list[UploadedFile] = request.FILES.getlist("image")
    if len(uploads) > 1 or set(request.FILES) - {"image"}:
        raise Problem(422, "invalid", "send one file, in the field 'image'")
    if bool(uploads) == bool(body.image_url):
        raise Problem(422, "invalid", "send either a file in the field 'image' or an 'image_url'")
    if not uploads:
        return body, None
    if (uploads[0].size or 0) > settings.UPLOAD_MAX_BYTES:
        raise Problem(413, "too_large", f"send a picture of at most {settings.UPLOAD_MAX_BYTES} bytes")
    return body, uploads[0].read()


def invalid(error: ValidationError) -> Problem:
    errors = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
    summary = "; ".join(f"{e['field']}: {e['message']}" for e in errors[:5])
    return Problem(422, "invalid", f"change these fields: {summary}", errors=errors)


def check_fields(body: EditIn | EditUpload) -> None:
    """Prompt and URLs. Raises Problem."""
    check_prompt(body.prompt)
    if body.image_url:
        check_url(body.image_url, "image_url")
    if body.callback_url:
        check_url(body.callback_url, "callback_url")


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise Problem(422, "prompt_missing", "say in 'prompt' what to do with the picture")
    if len(prompt) > settings.PROMPT_MAX_CHARS:
        raise Problem(422, "prompt_too_long", f"shorten the prompt to {settings.PROMPT_MAX_CHARS} characters")
    if "\x00" in prompt or not _encodable(prompt):
        raise Problem(422, "prompt_unknown", "the prompt has characters that are not text: send plain text")
    try:
        engines.get(settings.ENGINE).check(prompt)
    except engines.EditError as error:
        raise Problem(422, error.code, str(error)) from error


def _encodable(text: str) -> bool:
    """False for half a surrogate pair, which JSON can carry and no database stores."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_url(url: str, field: str) -> None:
    try:
        http_client.check_url(url)
    except http_client.Refused as error:
        raise Problem(422, f"{field}_refused", f"{field}: {error}") from error


def check_picture(data: bytes) -> str:
    """The kind of an uploaded picture. Raises Problem."""
    try:
        return inspection.check(data, settings.PIXELS_MAX, settings.SIDE_MIN)
    except inspection.Unacceptable as error:
        raise Problem(415 if error.code == "image_unsupported" else 422, error.code, str(error)) from error


def store(name: str, data: bytes, kind: str) -> None:
    try:
        storage.put(name, data, f"image/{kind}")
    except (storage.StorageUnavailable, storage.NotStored) as error:
        detail = "pictures cannot be stored at the moment: try again"
        raise Problem(503, "storage_unavailable", detail, headers={"Retry-After": "10"}) from error


def take(user_id: int, edits: int) -> None:
    try:
        rate_limits.take(user_id, edits)
    except rate_limits.Exceeded as error:
        raise Problem(429, "too_many", str(error), headers={"Retry-After": str(error.seconds)}) from error


def idempotency_key(request: HttpRequest) -> str | None:
    """The Idempotency-Key of a request, if it has one."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (1 <= len(key) <= 255 and key.isprintable()):
        raise Problem(422, "invalid", "an Idempotency-Key has 1 to 255 printable characters")
    return key


def digest(body: BaseModel, picture: bytes | None = None) -> str:
    """What makes two requests the same one: every field, and the bytes of the picture."""
    text = body.model_dump_json().encode()
    return hashlib.sha256(text + (hashlib.sha256(picture).digest() if picture is not None else b"")).hexdigest()


def check_same(found: Any, request_digest: str) -> None:
    """Raises Problem if the key was used for another request."""
    if found.request_digest != request_digest:
        raise Problem(
            422, "idempotency_key_reused", "this Idempotency-Key belongs to a different request: send a new key"
        )
