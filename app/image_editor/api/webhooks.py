"""Webhooks: the signing secret, test events, and the log of deliveries."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F
from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Query, Router, Status

from image_editor.api import validation
from image_editor.api.pagination import paginate
from image_editor.api.problems import Problem
from image_editor.api.schemas import ERRORS, DeliveryList, DeliveryOut, Page, RotationIn, SecretOut, TestEventIn
from image_editor.auth import require_present, require_write, user_of
from image_editor.details import translated
from image_editor.models import Callback
from image_editor.webhooks import callbacks, signing_secrets

router = Router(tags=["webhooks"])
Answer = Status[dict[str, Any]]


@router.get("/secret", response={200: SecretOut, **ERRORS}, summary="Your signing secret")
def read_secret(request: HttpRequest) -> Answer:
    """Receivers verify deliveries with it, as [Standard Webhooks](https://www.standardwebhooks.com/) describes."""
    require_write(request)  # who has the secret can sign in the platform's name
    require_present(request)
    return Status(200, _secret(request))


@router.post("/secret/rotate", response={200: SecretOut, **ERRORS}, summary="Replace your signing secret")
def rotate_secret(request: HttpRequest, body: RotationIn) -> Answer:
    """Deliveries have both signatures during the overlap. 409 if an earlier overlap has not ended."""
    require_present(request)
    user_id = user_of(request).pk
    if not signing_secrets.rotate(user_id, timedelta(seconds=body.overlap_seconds)):
        end = _second(signing_secrets.row(user_id).former_expires_at)
        detail = f"the overlap of the last rotation ends at {end}: try again then, or send 'overlap_seconds': 0"
        raise Problem(409, "rotation_under_way", detail)
    return Status(200, _secret(request))


def _second(moment: datetime | None) -> str:
    """A moment in UTC, for people. None if it has passed meanwhile."""
    return f"{moment or timezone.now():%Y-%m-%dT%H:%M:%SZ}"


def _secret(request: HttpRequest) -> dict[str, Any]:
    row = signing_secrets.row(user_of(request).pk)
    return {
        "secret": signing_secrets.shown(row),
        "created_at": row.created_at.isoformat(),
        "former_expires_at": row.former_expires_at.isoformat() if row.former_expires_at else None,
    }


@router.post("/test", response={202: DeliveryOut, **ERRORS}, summary="Send a test event")
def send_test_event(request: HttpRequest, body: TestEventIn) -> Answer:
    """Sends `{"type": "webhook.test", …}` as it sends callbacks. It counts as an edit against your limits."""
    validation.check_url(body.url, "url")
    validation.count(request, 1)
    return Status(202, _document(callbacks.test_event(user_of(request), body.url)))


@router.get("/deliveries", response={200: DeliveryList, **ERRORS}, summary="Your deliveries, the newest first")
def list_deliveries(
    request: HttpRequest,
    page: Query[Page],
    state: Callback.State | None = None,
    edit_id: UUID | None = None,
    batch_id: UUID | None = None,
) -> Answer:
    """Pages of deliveries with their attempts. They are kept as long as their edit or batch."""
    rows = Callback.objects.filter(user=user_of(request)).annotate(accepted_at=F("created_at"))  # for `paginate`
    if state:
        rows = rows.filter(state=state)
    if edit_id:
        rows = rows.filter(edit=edit_id)
    if batch_id:
        rows = rows.filter(batch=batch_id)
    found, following = paginate(request, rows, page, ("state", "edit_id", "batch_id"))
    return Status(200, {"items": [_document(callback) for callback in found], "next": following})


@router.get("/deliveries/{uuid:delivery_id}", response={200: DeliveryOut, **ERRORS}, summary="One delivery")
def read_delivery(request: HttpRequest, delivery_id: UUID) -> Answer:
    """The state and the attempts."""
    return Status(200, _document(_mine(request, delivery_id)))


@router.post("/deliveries/{uuid:delivery_id}/redeliver", response={202: DeliveryOut, **ERRORS}, summary="Deliver again")
def redeliver(request: HttpRequest, delivery_id: UUID) -> Answer:
    """Within seconds, with the same `webhook-id`, and with all tries. It counts as an edit against your limits.

    409 if the delivery has not ended.
    """
    callback = _mine(request, delivery_id)
    validation.count(request, 1)
    if not callbacks.redeliver(Callback.objects.filter(pk=callback.pk)):
        detail = f"the delivery has not ended: its next try is at {_second(callback.next_try_at)}"
        raise Problem(409, "delivery_pending", detail)
    return Status(202, _document(_mine(request, delivery_id)))


def _mine(request: HttpRequest, delivery_id: UUID) -> Callback:
    callback = Callback.objects.filter(pk=delivery_id, user=user_of(request)).first()
    if callback is None:
        raise Http404
    return callback


def _document(callback: Callback) -> dict[str, Any]:
    pending = callback.state == Callback.State.PENDING
    return {
        "id": str(callback.pk),
        "url": callback.url,
        "edit_id": callback.edit_id,
        "batch_id": callback.batch_id,
        "state": str(callback.state),
        "created_at": callback.created_at.isoformat(),
        "delivered_at": callback.delivered_at.isoformat() if callback.delivered_at else None,
        "next_try_at": callback.next_try_at.isoformat() if pending else None,
        "attempts": [attempt | {"error": translated(attempt["error"])} for attempt in callback.attempts],
        "status_url": f"/api/v1/webhooks/deliveries/{callback.pk}",
    }
