"""Callbacks tell clients how their edits and batches ended: signed, at least once, tried for about a day.

A client recognises a repeated delivery by ``X-Callback-ID``.
"""

import json
import logging
import random
import time
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from image_editor import http_client
from image_editor.models import Batch, Callback, Edit
from image_editor.pipeline import publisher
from image_editor.pipeline.documents import of_batch, of_row, public
from image_editor.webhooks.signature import signature

log = logging.getLogger(__name__)

TIMEOUT = 10  # seconds for one try, from connecting to the end of the answer
# Seconds between tries: 8 tries in about 23 hours.
DELAYS = (15, 60, 300, 1800, 7200, 21600, 52200)
UNSENT = timedelta(seconds=30)  # after this, a callback whose first message was never published is due
REPEATED = timedelta(minutes=5)  # after this, a callback that `publish_due` published is due again
ROUND_MAX = 500  # callbacks in a round


def new(url: str, **subject: Any) -> Callback:
    """An unsaved row about ``edit_id`` or ``batch_id``. Save it in the transaction that ends the edit or batch."""
    now = timezone.now()
    return Callback(url=url, created_at=now, next_try_at=now + UNSENT, **subject)


def publish_due() -> int:
    """Publish the callbacks that are due: the first message was lost, or the next try has come. Returns how many."""
    with transaction.atomic():
        due = list(
            Callback.objects.filter(state=Callback.State.PENDING, next_try_at__lt=Now())
            .select_for_update(skip_locked=True)
            .order_by("next_try_at")[:ROUND_MAX]
        )
        Callback.objects.filter(pk__in=[callback.pk for callback in due]).update(next_try_at=Now() + REPEATED)
    sent = publisher.publish_callbacks([(str(callback.pk), callback.tries) for callback in due])
    if unsent := due[sent:]:
        Callback.objects.filter(pk__in=[callback.pk for callback in unsent]).update(next_try_at=Now())
    return sent


def send(callback_id: str, tries: int) -> str:
    """Make one try. Returns delivered, failed, dead or dropped.

    The number of tries is the guard: of two messages for the same try, one does nothing.
    """
    delay = DELAYS[min(tries, len(DELAYS) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
    mine = Callback.objects.filter(pk=callback_id, state=Callback.State.PENDING)
    # The time of the next try is set before this try, so that the callback is due again if the worker dies now.
    if not mine.filter(tries=tries).update(tries=F("tries") + 1, next_try_at=Now() + timedelta(seconds=delay)):
        return "dropped"
    callback = Callback.objects.select_related("edit", "batch").get(pk=callback_id)
    code, error, final = _post(callback)
    outcome: dict[str, Any] = {"last_status": code, "last_error": error}
    if not error:
        outcome |= {"state": Callback.State.DELIVERED, "delivered_at": timezone.now()}
    elif final or tries >= len(DELAYS):
        outcome |= {"state": Callback.State.DEAD}
        log.error("callback given up", extra={"callback": callback_id, "url": callback.url, "error": error})
    mine.filter(tries=tries + 1).update(**outcome)
    return outcome.get("state", "failed")


def requeue(rows: QuerySet[Callback]) -> int:
    """Give dead callbacks all their tries again. Returns how many. The reconciler publishes them."""
    dead = rows.filter(state=Callback.State.DEAD)
    return dead.update(state=Callback.State.PENDING, tries=0, next_try_at=Now())


def _post(callback: Callback) -> tuple[int | None, str, bool]:
    """Deliver once. Returns the status code if there was an answer, the error or "", and whether the error is final."""
    body = json.dumps(_document(callback)).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Callback-ID": str(callback.pk),
        "X-Signature": signature(body, int(time.time())),
    }
    try:
        code = http_client.post(callback.url, body, headers, TIMEOUT)
    except http_client.Refused as error:
        return None, str(error), True
    except http_client.FetchFailed as error:
        return None, str(error), False
    return code, "" if 200 <= code < 300 else f"the receiver answered {code}", False


def _document(callback: Callback) -> dict[str, Any]:
    subject: Edit | Batch | None = callback.edit or callback.batch
    if isinstance(subject, Edit):
        return {"event": "edit.finished", "edit": public(of_row(subject))}
    if isinstance(subject, Batch):
        return {"event": "batch.finished", "batch": of_batch(subject)}
    raise ValueError(f"callback {callback.pk} names neither an edit nor a batch")
