"""Batches: submit, read, watch, list, cancel, remove."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from ninja import Query, Router, Status

from image_editor.api import bodies, idempotency, validation, waiting
from image_editor.api.openapi import BATCH_BODY
from image_editor.api.pagination import paginate, within
from image_editor.api.problems import Problem
from image_editor.api.rate_limits import OneEdit
from image_editor.api.schemas import ERRORS, BatchForm, BatchIn, BatchList, BatchOut, EditForm, EditIn, Page, Period
from image_editor.auth import user_of
from image_editor.details import translated
from image_editor.imaging.inspection import EXTENSIONS
from image_editor.models import UNFINISHED, Batch, Edit, reference_in
from image_editor.pipeline import retention, transitions
from image_editor.pipeline.documents import of_batch
from image_editor.pipeline.message import EditMessage
from image_editor.storage import names

router = Router(tags=["batches"])
Answer = Status[dict[str, Any]]


@router.post(
    "",
    response={200: BatchOut, 202: BatchOut, **ERRORS},
    throttle=OneEdit(),
    openapi_extra=BATCH_BODY,
    summary="Submit a batch",
)
def create_batch(request: HttpRequest, response: HttpResponse) -> Answer:
    """Takes 1 to 100 edits of images by URL or upload, or of the files of a form, all or none.

    `errors` names the items to change. With `Prefer: wait=10`, the answer waits for the end of the batch, for at most
    10 seconds: it is 200 if the batch has ended.
    """
    user = user_of(request)
    body, images = bodies.read_batch(request)
    key, digest = idempotency.key(request), ""
    if key:
        digest = idempotency.digest(body, *images)
        if found := Batch.objects.filter(user=user, idempotency_key=key).first():
            return _replay(request, found, digest, response)
    wanted = body.items if isinstance(body, BatchIn) else [body.each()] * len(images)
    validation.check_room(request, len(wanted) - 1)  # before it takes long to check them
    kinds = _check(body, wanted, images)
    now = timezone.now()
    batch = Batch(
        user=user,
        callback_url=body.callback_url,
        total=len(wanted),
        unfinished=len(wanted),
        idempotency_key=key,
        request_digest=digest,
        accepted_at=now,
    )
    items = [
        Edit(
            user=user,
            batch=batch,
            batch_index=index,
            prompt=validation.prompt_of(item),
            output=validation.output_of(item),
            accepted_at=now,
        )
        for index, item in enumerate(wanted)
    ]
    if isinstance(body, BatchIn):
        _describe(items, body.items, user.pk)
    else:
        for item, kind in zip(items, kinds, strict=True):
            item.image_url = f"media:{names.upload(item.pk, now, EXTENSIONS[kind])}"
            item.metadata, item.reference = body.metadata or None, reference_in(body.metadata)
    _check_items(validation.check_size, [EditMessage.of(item, user.username) for item in items])
    validation.count(request, len(items) - 1)
    stored = _store(items, images, kinds)
    mine = Batch.objects.filter(user=user)
    _, earlier = idempotency.once(lambda: transitions.accept_batch(batch, items, user.username), mine, key)
    if earlier is None:
        return _accepted(request, response, of_batch(batch, items))
    validation.discard(*stored)
    return _replay(request, earlier, digest, response)


def _describe(items: list[Edit], wanted: list[EditIn], user_id: int) -> None:
    """Fill in what each item of a batch in JSON says. Raises Problem for an unknown upload."""
    uploads = validation.use_uploads(user_id, [item.upload_id for item in wanted if item.upload_id])
    for item, said in zip(items, wanted, strict=True):
        item.image_url = f"media:{uploads[said.upload_id]}" if said.upload_id else said.image_url
        item.callback_url = said.callback_url
        item.metadata, item.reference = said.metadata or None, reference_in(said.metadata)


def _store(items: list[Edit], images: list[bytes], kinds: list[str]) -> list[str]:
    """Store the images of a form. Returns the names of the files.

    Raises Problem if the media store fails. Then the sweep removes what was stored.
    """
    stored = [item.image_url.removeprefix("media:") for item in items[: len(images)]]  # none of a batch in JSON
    for name, image, kind in zip(stored, images, kinds, strict=True):
        validation.store(name, image, kind)
    return stored


def _check(body: BatchIn | BatchForm, wanted: Sequence[EditIn | EditForm], images: list[bytes]) -> list[str]:
    """Check the batch, every item, and the images of a form. Returns the kinds of the images. Raises Problem."""
    if body.callback_url:
        validation.check_url(body.callback_url, "callback_url")
    _check_items(validation.check_fields, wanted)
    kinds: list[str] = []

    def check(pair: tuple[EditForm, bytes]) -> None:
        item, image = pair
        kinds.append(validation.check_image(image))
        validation.check_work(validation.prompt_of(item), image, item.output)

    _check_items(check, zip(wanted, images, strict=False))  # a batch in JSON has no images
    return kinds


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


def _replay(request: HttpRequest, batch: Batch, digest: str, response: HttpResponse) -> Answer:
    idempotency.check_same(batch, digest)
    response["Idempotency-Replayed"] = "true"
    return _accepted(request, response, of_batch(batch, batch.items.order_by("batch_index")))


def _accepted(request: HttpRequest, response: HttpResponse, document: dict[str, Any]) -> Answer:
    """202, or 200 to a client that wanted to wait for the end, and has it."""
    document = _waited(request, response, document)
    ended = "Preference-Applied" in response and waiting.has_ended(document)
    return Status(200 if ended else 202, document)


def _waited(request: HttpRequest, response: HttpResponse, document: dict[str, Any]) -> dict[str, Any]:
    """The document, with its items, once the batch has ended or the client has waited."""
    batch_id = UUID(document["id"])
    waited = waiting.wait(request, response, document, _look(request, batch_id))
    return document if waited is document else _document(request, batch_id)


def _look(request: HttpRequest, batch_id: UUID) -> waiting.Look:
    """Reads the batch without its items."""
    mine = Batch.objects.filter(pk=batch_id, user=user_of(request))
    return lambda: of_batch(batch) if (batch := mine.all().first()) else None


@router.get("", response={200: BatchList, **ERRORS}, summary="Your batches, the newest first")
def list_batches(request: HttpRequest, page: Query[Page], period: Query[Period]) -> Answer:
    """Pages of batches, without their items."""
    found = within(Batch.objects.filter(user=user_of(request)), period)
    rows, following = paginate(request, found, page, Period.model_fields)
    return Status(200, {"items": [of_batch(batch) for batch in rows], "next": following})


@router.get("/{uuid:batch_id}", response={200: BatchOut, **ERRORS}, summary="Where a batch stands")
def read_batch(request: HttpRequest, response: HttpResponse, batch_id: UUID) -> Answer:
    """Progress (`finished` of `total`) and every item.

    With `Prefer: wait=10`, the answer waits for the end of the batch, for at most 10 seconds.
    """
    return Status(200, _waited(request, response, _document(request, batch_id)))


@router.delete("/{uuid:batch_id}", response={204: None, **ERRORS}, summary="Remove a batch")
def delete_batch(request: HttpRequest, batch_id: UUID) -> Status[None]:
    """Removes the batch and all its edits now and for ever, and their files within seconds.

    Callbacks that are not delivered yet are dropped.
    """
    batch = Batch.objects.filter(pk=batch_id, user=user_of(request)).first()
    if batch is None:
        raise Http404
    retention.remove_batch(batch)
    return Status(204, None)


@router.get("/{uuid:batch_id}/events", response={200: None, 204: None, **ERRORS}, summary="Watch a batch")
def watch_batch(request: HttpRequest, batch_id: UUID) -> HttpResponseBase:
    """Server-sent events named `batch`: the document without items now, and each time that an item has ended.

    A stream ends after at most 20 seconds; connect again, as EventSource does. 204: `Last-Event-ID` is of the end.
    """
    look = _look(request, batch_id)
    document = look()
    if document is None:
        raise Http404
    return waiting.events(request, "batch", document, look, dict)


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
