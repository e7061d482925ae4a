"""Telling clients how their edits and batches ended: signed, at least once, tried for about a day.

A client verifies ``X-Signature: t=<unix time>,v1=<hex>``: HMAC-SHA256, with the key it was given, over
``<unix time>.<body>``. It tells repeats by ``X-Callback-ID``.
"""

import hashlib
import hmac
import json
import logging
import random
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from image_editor import http_client
from image_editor.models import Batch, Callback, Edit
from image_editor.pipeline import publisher
from image_editor.pipeline.documents import batch_document, of_row, public

log = logging.getLogger(__name__)

TIMEOUT = 10  # seconds for one try, all of it
# Seconds between tries: 8 tries in some 23 hours.
DELAYS = (15, 60, 300, 1800, 7200, 21600, 52200)
UNSENT = timedelta(seconds=30)  # until the sweep takes up a callback whose message never came to be
SWEPT = timedelta(minutes=5)  # until the sweep takes up again what it published
AT_ONCE = 500


def new(url: str, **subject: Any) -> Callback:
    """A row to be saved in the transaction that ends its subject: `edit_id` or `batch_id`."""
    now = timezone.now()
    return Callback(url=url, created_at=now, next_try_at=now + UNSENT, **subject)


def sweep() -> int:
    """Publish what is due: a first message that was lost, or the next try of a failed one."""
    with transaction.atomic():
        due = list(
            Callback.objects.filter(state=Callback.State.PENDING, next_try_at__lt=Now())
            .select_for_update(skip_locked=True)
            .order_by("next_try_at")[:AT_ONCE]
        )
        Callback.objects.filter(pk__in=[callback.pk for callback in due]).update(next_try_at=Now() + SWEPT)
    sent = publisher.publish_callbacks([(str(callback.pk), callback.tries) for callback in due])
    if unsent := due[sent:]:
        Callback.objects.filter(pk__in=[callback.pk for callback in unsent]).update(next_try_at=Now())
    return sent


def send(callback_id: str, tries: int) -> str:
    """One try. The number of tries is the guard: of two messages for the same try one does nothing."""
    delay = DELAYS[min(tries, len(DELAYS) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
    mine = Callback.objects.filter(pk=callback_id, state=Callback.State.PENDING)
    # The time of the next try is set before this one: if the worker dies now, the sweep goes on from there.
    if not mine.filter(tries=tries).update(tries=F("tries") + 1, next_try_at=Now() + timedelta(seconds=delay)):
        return "dropped"
    callback = Callback.objects.select_related("edit", "batch").get(pk=callback_id)
    code, error = _post(callback)
    outcome: dict[str, Any] = {"last_status": code, "last_error": error}
    if not error:
        outcome |= {"state": Callback.State.DELIVERED, "delivered_at": timezone.now()}
    elif tries >= len(DELAYS):
        outcome |= {"state": Callback.State.DEAD}
        log.error("callback given up", extra={"callback": callback_id, "url": callback.url, "error": error})
    mine.filter(tries=tries + 1).update(**outcome)
    return outcome.get("state", "failed")


def requeue(rows: QuerySet[Callback]) -> int:
    """Give those that were given up all their tries again; how many they are. The sweep takes them up."""
    dead = rows.filter(state=Callback.State.DEAD)
    return dead.update(state=Callback.State.PENDING, tries=0, next_try_at=Now())


def _post(callback: Callback) -> tuple[int | None, str]:
    """Deliver once. The status code if there was an answer, and what was wrong if anything."""
    body = json.dumps(_document(callback)).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Callback-ID": str(callback.pk),
        "X-Signature": signature(body, int(time.time())),
    }
    try:
        code = http_client.post(callback.url, body, headers, TIMEOUT)
    except (http_client.Refused, http_client.FetchFailed) as error:
        return None, str(error)
    return code, "" if 200 <= code < 300 else f"the receiver answered {code}"


def _document(callback: Callback) -> dict[str, Any]:
    subject: Edit | Batch | None = callback.edit or callback.batch
    if isinstance(subject, Edit):
        return {"event": "edit.finished", "edit": public(of_row(subject))}
    if isinstance(subject, Batch):
        return {"event": "batch.finished", "batch": batch_document(subject)}
    raise ValueError(f"callback {callback.pk} is about nothing")


def signature(body: bytes, at: int) -> str:
    """The value of X-Signature for a body sent at that unix time."""
    text = str(at).encode() + b"." + body
    digest = hmac.new(settings.CALLBACK_SIGNING_KEY.encode(), text, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
