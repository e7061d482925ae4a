"""Edits: submit, read, watch, list, cancel, remove."""

import uuid
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.utils import timezone
from ninja import Query, Router, Status

from image_editor.api import bodies, idempotency, validation, waiting
from image_editor.api.openapi import EDIT_BODY
from image_editor.api.pagination import paginate, within
from image_editor.api.problems import Problem
from image_editor.api.rate_limits import OneDryRun, OneEdit
from image_editor.api.schemas import ERRORS, DryRunIn, DryRunOut, EditFilters, EditIn, EditList, EditOut, Page
from image_editor.auth import user_of
from image_editor.imaging.inspection import EXTENSIONS
from image_editor.models import Edit
from image_editor.models import Status as EditStatus
from image_editor.pipeline import retention, transitions
from image_editor.pipeline.documents import of_message, of_row, public, read
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.state_cache import Document, states
from image_editor.storage import names

router = Router(tags=["edits"])
Answer = Status[dict[str, Any]]


@router.post(
    "",
    response={200: EditOut, 202: EditOut, **ERRORS},
    throttle=OneEdit(),
    openapi_extra=EDIT_BODY,
    summary="Submit an edit",
)
def create_edit(request: HttpRequest, response: HttpResponse) -> Answer:
    """Takes an image (a file in a form, a URL, or an upload) and a prompt or operations. What gets a 202 is never lost.

    With an `Idempotency-Key`, the same request sent again is answered with the same edit. With `Prefer: wait=10`, the
    answer waits for the end of the edit, for at most 10 seconds: it is 200 if the edit has ended.
    """
    user = user_of(request)
    body, image = bodies.read_edit(request)
    key, digest = idempotency.key(request), ""
    if key:
        digest = idempotency.digest(body, *([] if image is None else [image]))
        if earlier := Edit.objects.filter(user=user, idempotency_key=key).first():
            return _replay(request, earlier, digest, response)
    validation.check_fields(body)
    kind = validation.check_image(image) if image is not None else ""
    prompt = validation.prompt_of(body)
    if image is not None:  # without one, `check_fields` has checked the prompt
        validation.check_work(prompt, image, body.output)
    edit_id, now = str(uuid.uuid4()), timezone.now()
    name = names.upload(edit_id, now, EXTENSIONS[kind]) if image is not None else ""
    if isinstance(body, EditIn) and body.upload_id:
        image_url = "media:" + validation.use_uploads(user.pk, [body.upload_id])[body.upload_id]
    else:
        image_url = f"media:{name}" if name else body.image_url
    message = EditMessage(
        edit_id,
        image_url,
        prompt,
        body.callback_url,
        user.pk,
        user.username,
        now.isoformat(),
        fresh=True,
        output=validation.output_of(body),
        metadata=body.metadata or None,
    )
    validation.check_size(message)
    if image is not None:
        validation.store(name, image, kind)
    mine = Edit.objects.filter(user=user)
    status, found = idempotency.once(lambda: transitions.accept(message, key, digest), mine, key)
    if found is None:
        return _accepted(request, response, of_message(message, status))
    if name:
        validation.discard(name)
    return _replay(request, found, digest, response)


def _replay(request: HttpRequest, edit: Edit, digest: str, response: HttpResponse) -> Answer:
    idempotency.check_same(edit, digest)
    response["Idempotency-Replayed"] = "true"
    return _accepted(request, response, of_row(edit))


def _accepted(request: HttpRequest, response: HttpResponse, document: Document) -> Answer:
    """202, or 200 to a client that wanted to wait for the end, and has it."""
    document = _waited(request, response, document)
    ended = "Preference-Applied" in response and waiting.has_ended(document)
    return Status(200 if ended else 202, public(document))


def _waited(request: HttpRequest, response: HttpResponse, document: Document) -> Document:
    return waiting.wait(request, response, document, _look(request, UUID(document["id"])))


def _look(request: HttpRequest, edit_id: UUID) -> waiting.Look:
    user_id = user_of(request).pk
    return lambda: read(edit_id, user_id)


@router.post("/dry_run", response={200: DryRunOut, **ERRORS}, throttle=OneDryRun(), summary="Try a prompt")
def dry_run(request: HttpRequest, body: DryRunIn) -> Answer:
    """What a prompt is understood as, and what the edit would cost. No image is edited and nothing is kept.

    It counts against a limit of its own, and is refused with the same codes as an edit.
    """
    prompt, plan = validation.plan(body)
    understood = plan.operations
    return Status(
        200,
        {
            "prompt": prompt,
            "operations": None if understood is None else [operation.model_dump() for operation in understood],
            "result": {"format": plan.format, "width": plan.width, "height": plan.height},
            "cost": {"edits": 1, "seconds": plan.seconds, "seconds_max": plan.seconds_max},
        },
    )


@router.get("", response={200: EditList, **ERRORS}, summary="Your edits, the newest first")
def list_edits(
    request: HttpRequest,
    page: Query[Page],
    filters: Query[EditFilters],
    status: EditStatus | None = None,
    batch_id: UUID | None = None,
) -> Answer:
    """Pages of edits. `next` is the address of the following page, or null."""
    edits = within(Edit.objects.filter(user=user_of(request)), filters)
    if filters.reference:
        edits = edits.filter(reference=filters.reference)
    if status:
        edits = edits.filter(status=status)
    if batch_id:
        edits = edits.filter(batch=batch_id)
    rows, following = paginate(request, edits, page, (*EditFilters.model_fields, "status", "batch_id"))
    return Status(200, {"items": [public(of_row(edit)) for edit in rows], "next": following})


@router.get("/{uuid:edit_id}", response={200: EditOut, **ERRORS}, summary="Where an edit stands")
def read_edit(request: HttpRequest, response: HttpResponse, edit_id: UUID) -> Answer:
    """Poll this, about once a second. `result_url` is there once the edit has succeeded.

    With `Prefer: wait=10`, the answer waits for the end of the edit, for at most 10 seconds.
    """
    return Status(200, public(_waited(request, response, _mine(request, edit_id))))


@router.delete("/{uuid:edit_id}", response={204: None, **ERRORS}, summary="Remove an edit")
def delete_edit(request: HttpRequest, edit_id: UUID) -> Status[None]:
    """Removes the edit now and for ever, and its files within seconds. If it has not ended, it is cancelled first.

    A callback that is not delivered yet is dropped. The last item of a batch takes the batch with it.
    """
    retention.remove_edit(_row(request, edit_id))
    return Status(204, None)


@router.get("/{uuid:edit_id}/events", response={200: None, 204: None, **ERRORS}, summary="Watch an edit")
def watch_edit(request: HttpRequest, edit_id: UUID) -> HttpResponseBase:
    """Server-sent events named `edit`: the document now, and each time that it has changed, until the edit has ended.

    A stream ends after at most 20 seconds; connect again, as EventSource does. 204: `Last-Event-ID` is of the end.
    """
    return waiting.events(request, "edit", _mine(request, edit_id), _look(request, edit_id), public)


@router.get("/{uuid:edit_id}/result", response={302: None, **ERRORS}, summary="Download the result")
def read_result(request: HttpRequest, edit_id: UUID) -> HttpResponseRedirect:
    """Redirects to a fresh signed URL. This address stays the same. 409 if the edit has not succeeded."""
    document = public(_mine(request, edit_id))
    if not document["result_url"]:
        detail = f"the edit is {document['status']}: it has a result once its status is succeeded"
        raise Problem(409, "not_succeeded", detail)
    return HttpResponseRedirect(document["result_url"])


def _mine(request: HttpRequest, edit_id: UUID) -> Document:
    """The document of an edit of the user. Raises Http404."""
    document = read(edit_id, user_of(request).pk)
    if document is None:
        raise Http404
    return document


def _row(request: HttpRequest, edit_id: UUID) -> Edit:
    """The row of an edit of the user. Raises Http404."""
    edit = Edit.objects.filter(pk=edit_id, user=user_of(request)).first()
    if edit is None:
        raise Http404
    return edit


@router.post("/{uuid:edit_id}/cancel", response={200: EditOut, **ERRORS}, summary="Cancel an edit")
def cancel_edit(request: HttpRequest, edit_id: UUID) -> Answer:
    """Ends an edit that has not ended. Cancelling twice is fine; 409 if it ended otherwise."""
    transitions.cancel(_row(request, edit_id))
    edit = _row(request, edit_id)
    if edit.status != EditStatus.CANCELLED:
        raise Problem(409, "already_ended", f"the edit has {edit.status} already")
    document = of_row(edit)
    # Final at once: a worker that is editing it writes its progress once more, and that must not be believed.
    states.set_final(edit.pk, document, replace=False)
    return Status(200, public(document))
