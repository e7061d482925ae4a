"""The API, version 1: submit, look, cancel; single edits and batches."""

import base64
import binascii
import json
import uuid
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import RequestDataTooBig
from django.db import IntegrityError, models
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import NinjaAPI, Query
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as NinjaValidationError

from image_editor.api import problems, validation
from image_editor.api.problems import Problem
from image_editor.api.schemas import (
    BATCH_BODY,
    EDIT_BODY,
    ERRORS,
    BatchIn,
    BatchList,
    BatchOut,
    EditList,
    EditOut,
    Page,
    as_problems,
)
from image_editor.auth import PageAuth, TokenAuth
from image_editor.imaging import inspection
from image_editor.models import UNFINISHED, Batch, Edit, Status
from image_editor.pipeline import transitions
from image_editor.pipeline.documents import batch_document, of_message, of_row, public, status
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.state_cache import states


class Api(NinjaAPI):
    def get_openapi_schema(self, **kwargs: Any) -> Any:
        return as_problems(super().get_openapi_schema(**kwargs))


api = Api(
    title="Image Editor",
    version="1.0.0",
    description="Edits pictures as a prompt says, in the background: submit, then poll or be called back.",
    auth=[TokenAuth(), PageAuth()],
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


@api.exception_handler(NinjaValidationError)
def _invalid(request: HttpRequest, error: NinjaValidationError) -> HttpResponse:
    errors = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors]
    summary = "; ".join(f"{e['field']}: {e['message']}" for e in errors[:5])
    return problems.response(422, "invalid", f"change these: {summary}", errors=errors)


# --- edits -----------------------------------------------------------------------------------------------------------
@api.post(
    "/edits", response={202: EditOut, **ERRORS}, openapi_extra=EDIT_BODY, summary="Submit an edit", tags=["edits"]
)
def create_edit(request: HttpRequest) -> HttpResponse:
    """Takes a picture (a file in a form, or a URL) and a prompt. The edit is kept from the moment of the answer.

    With an `Idempotency-Key`, the same request sent again is answered with the same edit.
    """
    user = _user(request)
    body, picture = validation.edit_body(request)
    key, digest = validation.idempotency_key(request), ""
    if key:
        digest = validation.digest(body, picture)
        if found := Edit.objects.filter(user=user, idempotency_key=key).first():
            return _replay(found, digest)
    validation.check_fields(body)
    kind = validation.check_picture(picture) if picture is not None else ""
    validation.take(user.pk, 1)
    edit_id, now, image_url = str(uuid.uuid4()), timezone.now(), body.image_url
    if picture is not None:
        name = f"uploads/{now:%Y/%m/%d}/{edit_id}.{inspection.EXTENSIONS[kind]}"
        validation.store(name, picture, kind)
        image_url = f"media:{name}"
    message = EditMessage(
        edit_id, image_url, body.prompt, body.callback_url, user.pk, user.username, now.isoformat(), fresh=True
    )
    if message.size() > settings.TASK_MESSAGE_MAX_BYTES:
        raise Problem(422, "message_too_large", "shorten the prompt and the URLs: together they exceed 64 KiB")
    try:
        accepted = transitions.accept(message, key, digest)
    except IntegrityError:  # the same key at the same time
        return _replay(Edit.objects.get(user=user, idempotency_key=key), digest)
    return _answer(202, public(of_message(message, accepted)))


def _replay(edit: Edit, digest: str) -> HttpResponse:
    validation.check_same(edit, digest)
    answer = _answer(202, public(of_row(edit)))
    answer["Idempotency-Replayed"] = "true"
    return answer


@api.get("/edits", response={200: EditList, **ERRORS}, summary="Your edits, the newest first", tags=["edits"])
def list_edits(request: HttpRequest, page: Query[Page], status: Status | None = None) -> HttpResponse:
    """Pages of edits. `next` is the address of the following page, or null."""
    edits = Edit.objects.filter(user=_user(request))
    if status:
        edits = edits.filter(status=status)
    rows, following = _page(request, edits, page)
    return _answer(200, {"items": [public(of_row(edit)) for edit in rows], "next": following})


@api.get("/edits/{uuid:edit_id}", response={200: EditOut, **ERRORS}, summary="Where an edit stands", tags=["edits"])
def read_edit(request: HttpRequest, edit_id: UUID) -> HttpResponse:
    """Poll this, about once a second. `result_url` is there once the edit has succeeded."""
    document = status(edit_id, _user(request).pk)
    if document is None:
        raise Http404
    return _answer(200, public(document))


@api.post("/edits/{uuid:edit_id}/cancel", response={200: EditOut, **ERRORS}, summary="Cancel an edit", tags=["edits"])
def cancel_edit(request: HttpRequest, edit_id: UUID) -> HttpResponse:
    """Ends an edit that has not ended. Cancelling twice is fine; 409 if it ended otherwise."""
    edit = Edit.objects.filter(pk=edit_id, user=_user(request)).first()
    if edit is None:
        raise Http404
    transitions.cancel(edit)
    edit.refresh_from_db()
    if edit.status != Status.CANCELLED:
        raise Problem(409, "already_ended", f"the edit has {edit.status} already")
    document = of_row(edit)
    # Final at once: a worker that is still at it writes its progress once more, and must not be believed.
    states.set_final(edit.pk, document)
    return _answer(200, public(document))


# --- batches ---------------------------------------------------------------------------------------------------------
@api.post(
    "/batches", response={202: BatchOut, **ERRORS}, openapi_extra=BATCH_BODY, summary="Submit a batch", tags=["batches"]
)
def create_batch(request: HttpRequest) -> HttpResponse:
    """Takes 1 to 100 edits of pictures by URL, all or none. `errors` names the items to change."""
    user = _user(request)
    body = validation.parse(BatchIn, request)
    key, digest = validation.idempotency_key(request), ""
    if key:
        digest = validation.digest(body)
        if found := Batch.objects.filter(user=user, idempotency_key=key).first():
            return _replay_batch(found, digest)
    _check_batch(body)
    validation.take(user.pk, len(body.items))
    now = timezone.now()
    batch = Batch(
        user=user,
        callback_url=body.callback_url,
        total=len(body.items),
        unfinished=len(body.items),
        idempotency_key=key,
        request_digest=digest,
        accepted_at=now,
    )
    items = [
        Edit(
            user=user,
            batch=batch,
            batch_index=index,
            prompt=item.prompt,
            image_url=item.image_url,
            callback_url=item.callback_url,
            accepted_at=now,
        )
        for index, item in enumerate(body.items)
    ]
    try:
        transitions.accept_batch(batch, items, user.username)
    except IntegrityError:
        return _replay_batch(Batch.objects.get(user=user, idempotency_key=key), digest)
    return _answer(202, batch_document(batch, items))


def _check_batch(body: BatchIn) -> None:
    errors = []
    if body.callback_url:
        validation.check_url(body.callback_url, "callback_url")
    for index, item in enumerate(body.items):
        try:
            validation.check_fields(item)
        except Problem as problem:
            errors.append({"index": index, "code": problem.code, "message": problem.detail})
    if errors:
        which = ", ".join(str(error["index"]) for error in errors[:10])
        raise Problem(422, "items_invalid", f"nothing was accepted: change the items {which}", errors=errors)


def _replay_batch(batch: Batch, digest: str) -> HttpResponse:
    validation.check_same(batch, digest)
    answer = _answer(202, batch_document(batch, batch.items.order_by("batch_index")))
    answer["Idempotency-Replayed"] = "true"
    return answer


@api.get("/batches", response={200: BatchList, **ERRORS}, summary="Your batches, the newest first", tags=["batches"])
def list_batches(request: HttpRequest, page: Query[Page]) -> HttpResponse:
    """Pages of batches, without their items."""
    rows, following = _page(request, Batch.objects.filter(user=_user(request)), page)
    return _answer(200, {"items": [batch_document(batch) for batch in rows], "next": following})


@api.get(
    "/batches/{uuid:batch_id}", response={200: BatchOut, **ERRORS}, summary="Where a batch stands", tags=["batches"]
)
def read_batch(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    """Progress (`finished` of `total`) and every item."""
    return _answer(200, _batch(request, batch_id))


@api.post(
    "/batches/{uuid:batch_id}/cancel", response={200: BatchOut, **ERRORS}, summary="Cancel a batch", tags=["batches"]
)
def cancel_batch(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    """Ends the items that have not ended."""
    for item in Edit.objects.filter(batch=batch_id, batch__user=_user(request), status__in=UNFINISHED):
        transitions.cancel(item)
    return _answer(200, _batch(request, batch_id))


def _batch(request: HttpRequest, batch_id: UUID) -> dict[str, Any]:
    batch = Batch.objects.filter(pk=batch_id, user=_user(request)).first()
    if batch is None:
        raise Http404
    return batch_document(batch, batch.items.order_by("batch_index"))


# --- common ----------------------------------------------------------------------------------------------------------
def _user(request: HttpRequest) -> User:
    return request.auth  # type: ignore[attr-defined]


def _answer(code: int, document: dict[str, Any]) -> HttpResponse:
    return HttpResponse(
        json.dumps(document), status=code, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _page[Row: (Edit, Batch)](
    request: HttpRequest, rows: models.QuerySet[Row], page: Page
) -> tuple[list[Row], str | None]:
    """One page by position, not by number: new rows shift nothing, and page 1000 costs what page 1 does."""
    if page.cursor:
        accepted_at, last_id = _position(page.cursor)
        rows = rows.filter(Q(accepted_at__lt=accepted_at) | Q(accepted_at=accepted_at, pk__lt=last_id))
    found = list(rows.order_by("-accepted_at", "-pk")[: page.limit + 1])
    if len(found) <= page.limit:
        return found, None
    last = found[page.limit - 1]
    cursor = base64.urlsafe_b64encode(f"{last.accepted_at.isoformat()} {last.pk}".encode()).decode()
    query = request.GET.copy()
    query["cursor"] = cursor
    return found[: page.limit], f"{request.path}?{query.urlencode()}"


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        accepted_at, _, last_id = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        moment = datetime.fromisoformat(accepted_at)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment, UUID(last_id)
    except (ValueError, binascii.Error, OverflowError) as error:
        raise Problem(422, "invalid", "cursor: use the address in 'next' as it is") from error
