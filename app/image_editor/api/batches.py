"""Batches: submit, read, list, cancel."""

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from django.db import IntegrityError
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router, Status

from image_editor.api import idempotency, validation
from image_editor.api.openapi import IDEMPOTENCY_KEY
from image_editor.api.pagination import paginate
from image_editor.api.problems import Problem
from image_editor.api.rate_limits import OneEdit
from image_editor.api.schemas import ERRORS, BatchIn, BatchList, BatchOut, Page
from image_editor.auth import user_of
from image_editor.details import translated
from image_editor.models import UNFINISHED, Batch, Edit
from image_editor.pipeline import transitions
from image_editor.pipeline.documents import of_batch
from image_editor.pipeline.message import EditMessage

router = Router(tags=["batches"])
Answer = Status[dict[str, Any]]


@router.post(
    "",
    response={202: BatchOut, **ERRORS},
    throttle=OneEdit(),
    openapi_extra=IDEMPOTENCY_KEY,
    summary="Submit a batch",
)
def create_batch(request: HttpRequest, response: HttpResponse, body: BatchIn) -> Answer:
    """Takes 1 to 100 edits of images by URL, all or none. `errors` names the items to change."""
    user = user_of(request)
    key, digest = idempotency.key(request), ""
    if key:
        digest = idempotency.digest(body)
        if found := Batch.objects.filter(user=user, idempotency_key=key).first():
            return _replay(found, digest, response)
    _check(body)
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
    _check_items(validation.check_size, [EditMessage.of(item, user.username) for item in items])
    validation.count(user.pk, len(body.items) - 1)
    try:
        transitions.accept_batch(batch, items, user.username)
    except IntegrityError:  # another request with the same key came at the same time
        return _replay(Batch.objects.get(user=user, idempotency_key=key), digest, response)
    return Status(202, of_batch(batch, items))


def _check(body: BatchIn) -> None:
    """Check the fields of the batch and of every item. Raises Problem."""
    if body.callback_url:
        validation.check_url(body.callback_url, "callback_url")
    _check_items(validation.check_fields, body.items)


def _check_items(check: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Make a check for every item, in the batch's order. Raises one Problem that names all items that must change."""
    errors = []
    for index, item in enumerate(items):
        try:
            check(item)
        except Problem as problem:
            errors.append({"index": index, "code": problem.code, "message": translated(problem.detail)})
    if errors:
        which = ", ".join(str(error["index"]) for error in errors[:10])
        raise Problem(422, "items_invalid", f"nothing was accepted: change the items {which}", errors=errors)


def _replay(batch: Batch, digest: str, response: HttpResponse) -> Answer:
    idempotency.check_same(batch, digest)
    response["Idempotency-Replayed"] = "true"
    return Status(202, of_batch(batch, batch.items.order_by("batch_index")))


@router.get("", response={200: BatchList, **ERRORS}, summary="Your batches, the newest first")
def list_batches(request: HttpRequest, page: Query[Page]) -> Answer:
    """Pages of batches, without their items."""
    rows, following = paginate(request, Batch.objects.filter(user=user_of(request)), page)
    return Status(200, {"items": [of_batch(batch) for batch in rows], "next": following})


@router.get("/{uuid:batch_id}", response={200: BatchOut, **ERRORS}, summary="Where a batch stands")
def read_batch(request: HttpRequest, batch_id: UUID) -> Answer:
    """Progress (`finished` of `total`) and every item."""
    return Status(200, _document(request, batch_id))


@router.post("/{uuid:batch_id}/cancel", response={200: BatchOut, **ERRORS}, summary="Cancel a batch")
def cancel_batch(request: HttpRequest, batch_id: UUID) -> Answer:
    """Ends the items that have not ended."""
    for item in Edit.objects.filter(batch=batch_id, batch__user=user_of(request), status__in=UNFINISHED):
        transitions.cancel(item)
    return Status(200, _document(request, batch_id))


def _document(request: HttpRequest, batch_id: UUID) -> dict[str, Any]:
    """The batch with its items. Raises Http404."""
    batch = Batch.objects.filter(pk=batch_id, user=user_of(request)).first()
    if batch is None:
        raise Http404
    return of_batch(batch, batch.items.order_by("batch_index"))
