"""The API, version 1."""

import json
import uuid
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadedfile import UploadedFile
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError
from pydantic import BaseModel, ValidationError

from image_editor import engines, fetch, lifecycle, problems, sniff, storage
from image_editor.auth import TokenAuth
from image_editor.message import EditMessage
from image_editor.models import Edit
from image_editor.problems import Problem
from image_editor.schemas import EditIn, EditOut, EditUpload, ProblemOut
from image_editor.status import of_row, public, status

api = NinjaAPI(
    title="Image Editor",
    version="1.0.0",
    description="Edits pictures as a prompt says, in the background: submit, then poll or be called back.",
    auth=TokenAuth(),
    urls_namespace="api",
    docs_url="docs",
)


# --- errors ----------------------------------------------------------------------------------------------------------
@api.exception_handler(Problem)
def _problem(request: HttpRequest, error: Problem) -> HttpResponse:
    return problems.response(error.status, error.code, error.detail, error.headers, **error.members)


@api.exception_handler(AuthenticationError)
def _unauthenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    return problems.response(
        401,
        "token_missing",
        "send the header 'Authorization: Bearer <token>' with a token that is valid",
        {"WWW-Authenticate": 'Bearer realm="image-editor"'},
    )


@api.exception_handler(RequestDataTooBig)
def _too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    return problems.response(413, "too_large", f"send at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes")


@api.exception_handler(Http404)
def _not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return problems.response(404, "not_found", "there is no such thing, or it is not yours")


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    return problems.response(error.status_code, "bad_request", str(error))


def _invalid(error: ValidationError) -> Problem:
    errors = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
    summary = "; ".join(f"{e['field']}: {e['message']}" for e in errors)
    return Problem(422, "invalid", f"change these fields: {summary}", errors=errors)


# --- edits -----------------------------------------------------------------------------------------------------------
_EDIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": EditIn.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"},
                        "prompt": {"type": "string"},
                        "callback_url": {"type": "string"},
                    },
                }
            },
        },
    }
}
_ERRORS = {code: ProblemOut for code in (400, 401, 404, 413, 415, 422, 503)}


@api.post(
    "/edits", response={202: EditOut, **_ERRORS}, openapi_extra=_EDIT_BODY, summary="Submit an edit", tags=["edits"]
)
def create_edit(request: HttpRequest) -> HttpResponse:
    """Takes a picture (a file in a form, or a URL) and a prompt. The edit is kept from the moment of the answer."""
    body, upload = _edit_body(request)
    _check_prompt(body.prompt)
    if body.callback_url:
        _check_url(body.callback_url, "callback_url")
    user = request.auth  # type: ignore[attr-defined]
    edit = Edit(
        id=uuid.uuid4(),
        user=user,
        prompt=body.prompt,
        image_url=body.image_url,
        callback_url=body.callback_url,
        accepted_at=timezone.now(),
    )
    if upload is None:
        _check_url(body.image_url, "image_url")
    else:
        edit.image_url = _store(upload, edit)
    message = EditMessage.of(edit, user.username)
    if message.size() > settings.TASK_MESSAGE_MAX_BYTES:
        raise Problem(422, "message_too_large", "shorten the prompt and the URLs: together they exceed 64 KiB")
    lifecycle.accept(edit, message)
    return _answer(202, public(of_row(edit)))


@api.get("/edits/{uuid:edit_id}", response={200: EditOut, **_ERRORS}, summary="Where an edit stands", tags=["edits"])
def read_edit(request: HttpRequest, edit_id: UUID) -> HttpResponse:
    """Poll this, about once a second. `result_url` is there once the edit has succeeded."""
    document = status(edit_id, request.auth.pk)  # type: ignore[attr-defined]
    if document is None:
        raise Http404
    return _answer(200, public(document))


def _answer(code: int, document: dict[str, Any]) -> HttpResponse:
    return HttpResponse(
        json.dumps(document), status=code, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _edit_body(request: HttpRequest) -> tuple[EditIn | EditUpload, UploadedFile | None]:
    """The fields and the file, from either kind of body."""
    if request.content_type == "application/json":
        return _parse(EditIn, request), None
    if request.content_type != "multipart/form-data":
        raise Problem(415, "unsupported_media_type", "send application/json or multipart/form-data")
    try:
        body = EditUpload.model_validate(request.POST.dict())
    except ValidationError as error:
        raise _invalid(error) from error
    uploads = request.FILES.getlist("image")
    if len(uploads) > 1 or set(request.FILES) - {"image"}:
        raise Problem(422, "invalid", "send one file, in the field 'image'")
    if bool(uploads) == bool(body.image_url):
        raise Problem(422, "invalid", "send either a file in the field 'image' or an 'image_url'")
    return body, uploads[0] if uploads else None


def _parse[Model: BaseModel](model: type[Model], request: HttpRequest) -> Model:
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "not_json", "the body is not valid JSON") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _invalid(error) from error


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise Problem(422, "prompt_missing", "say in 'prompt' what to do with the picture")
    if len(prompt) > settings.PROMPT_MAX_CHARS:
        raise Problem(422, "prompt_too_long", f"shorten the prompt to {settings.PROMPT_MAX_CHARS} characters")
    if "\x00" in prompt:
        raise Problem(422, "prompt_unknown", "the prompt has control characters: send plain text")
    try:
        engines.get(settings.ENGINE).check(prompt)
    except engines.EditError as error:
        raise Problem(422, error.code, str(error)) from error


def _check_url(url: str, field: str) -> None:
    try:
        fetch.check_url(url)
    except fetch.Refused as error:
        raise Problem(422, f"{field}_refused", f"{field}: {error}") from error


def _store(upload: UploadedFile, edit: Edit) -> str:
    """Check an uploaded picture and keep it. The reference that goes into ``image_url``."""
    if (upload.size or 0) > settings.UPLOAD_MAX_BYTES:
        raise Problem(413, "too_large", f"send a picture of at most {settings.UPLOAD_MAX_BYTES} bytes")
    data = upload.read()
    try:
        kind = sniff.check(data, settings.PIXELS_MAX, settings.SIDE_MIN)
    except sniff.Unacceptable as error:
        unsupported = error.code == "image_unsupported"
        raise Problem(415 if unsupported else 422, error.code, str(error)) from error
    name = f"uploads/{edit.accepted_at:%Y/%m/%d}/{edit.pk}.{sniff.EXTENSIONS[kind]}"
    try:
        storage.put(name, data, f"image/{kind}")
    except (storage.StorageUnavailable, storage.NotStored) as error:
        raise Problem(
            503,
            "storage_unavailable",
            "pictures cannot be stored at the moment: try again",
            headers={"Retry-After": "10"},
        ) from error
    return f"media:{name}"
