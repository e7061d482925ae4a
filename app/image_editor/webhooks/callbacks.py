"""Callbacks tell clients how their edits and batches ended: signed, at least once, tried for about a day.

A client recognises a repeated delivery by ``webhook-id``, which is the id of the row.
"""

import json
import logging
import random
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import F, QuerySet, Subquery, Window
from django.db.models.functions import Now, RowNumber
from django.utils import timezone

from image_editor import http_client
from image_editor.models import Batch, Callback, Edit
from image_editor.pipeline import publisher
from image_editor.pipeline.documents import of_batch, of_row, public
from image_editor.pipeline.outage import outlasted
from image_editor.webhooks import receivers, signature, signing_secrets

log = logging.getLogger(__name__)

TIMEOUT = 10  # seconds for one try, from connecting to the end of the answer
# Seconds between tries: 8 tries in about 23 hours.
DELAYS = (15, 60, 300, 1800, 7200, 21600, 52200)
UNSENT = timedelta(seconds=30)  # after this, a callback whose first message was never published is due
# If the worker dies during a try, the next one comes after this. It is longer than a task takes (webhooks.tasks).
TRY_MAX = timedelta(seconds=60)
REPEATED = timedelta(minutes=5)  # after this, a callback that `publish_due` published is due again
ROUND_MAX = 500  # callbacks in a round
ATTEMPTS_KEPT = 20  # in the row


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, as the delivery log keeps it. The body of the answer is not read, so nobody can read it here."""

    at: str  # ISO 8601
    milliseconds: int
    status: int | None  # of the answer, if there was one
    error: str  # empty if the receiver took the callback


def new(url: str, *, edit_id: Any = None, batch_id: Any = None) -> Callback:
    """An unsaved row about an edit or a batch. Save it in the transaction that ends the edit or batch."""
    now = timezone.now()
    subject = Edit.objects.filter(pk=edit_id) if edit_id else Batch.objects.filter(pk=batch_id)
    return Callback(
        user_id=Subquery(subject.values("user")),
        edit_id=edit_id,
        batch_id=batch_id,
        url=url,
        created_at=now,
        next_try_at=now + UNSENT,
    )


def test_event(user: User, url: str) -> Callback:
    """Save and publish a callback that is about nothing. It is signed, sent and repeated like any other."""
    now = timezone.now()
    callback = Callback.objects.create(user=user, url=url, created_at=now, next_try_at=now + UNSENT)
    publisher.publish_callbacks([(str(callback.pk), 0)])
    return callback


def publish_due() -> int:
    """Publish the callbacks that are due: the first message was lost, or the next try has come. Returns how many.

    Users take turns, so one whose receiver is slow does not delay the callbacks of the others.
    """
    are_due = Callback.objects.filter(state=Callback.State.PENDING, next_try_at__lt=Now())
    turns = Window(RowNumber(), partition_by="user", order_by="next_try_at")
    chosen = are_due.annotate(turn=turns).order_by("turn", "next_try_at").values("pk")[:ROUND_MAX]
    with transaction.atomic():
        due = list(are_due.filter(pk__in=chosen).select_for_update(skip_locked=True))
        Callback.objects.filter(pk__in=[callback.pk for callback in due]).update(next_try_at=Now() + REPEATED)
    sent = publisher.publish_callbacks([(str(callback.pk), callback.tries) for callback in due])
    if unsent := due[sent:]:
        Callback.objects.filter(pk__in=[callback.pk for callback in unsent]).update(next_try_at=Now())
    return sent


def send(callback_id: str, tries: int) -> str:
    """Make one try, if the receiver may be called. Returns delivered, failed, dead, dropped or waiting.

    The number of tries is the guard: of two messages for the same try, one does nothing.
    """
    this_try = Callback.objects.filter(pk=callback_id, state=Callback.State.PENDING, tries=tries)
    callback = outlasted(lambda: this_try.select_related("edit", "batch").first())
    if callback is None:
        return "dropped"
    with receivers.turn(_owner(callback), callback.url, callback_id, tries) as turn:
        if turn.state == "busy":
            return "waiting"
        # The time of the next try is set before this try, so that the callback is due again if the worker dies now.
        if not outlasted(lambda: this_try.update(tries=F("tries") + 1, next_try_at=Now() + TRY_MAX)):
            return "dropped"
        return _record(callback, *_try(callback, turn))


def _record(callback: Callback, attempt: Attempt, final: bool) -> str:
    """Write down how the try went. ``final`` gives up after an error. Returns the outcome."""
    tries = callback.tries + 1
    attempts = [*callback.attempts, asdict(attempt)][-ATTEMPTS_KEPT:]
    outcome: dict[str, Any] = {"last_status": attempt.status, "last_error": attempt.error, "attempts": attempts}
    if not attempt.error:
        outcome |= {"state": Callback.State.DELIVERED, "delivered_at": timezone.now()}
    elif final or tries > len(DELAYS):
        outcome |= {"state": Callback.State.DEAD}
        details = {"callback": str(callback.pk), "url": callback.url, "error": attempt.error}
        log.error("callback given up", extra=details)
    else:
        delay = DELAYS[callback.tries] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        outcome |= {"next_try_at": Now() + timedelta(seconds=delay)}
    tried = Callback.objects.filter(pk=callback.pk, state=Callback.State.PENDING, tries=tries)
    outlasted(lambda: tried.update(**outcome))  # or the receiver would be called again
    return outcome.get("state", "failed")


def requeue(rows: QuerySet[Callback]) -> int:
    """Give dead callbacks all their tries again. Returns how many. The reconciler publishes them."""
    return redeliver(rows.filter(state=Callback.State.DEAD))


def redeliver(rows: QuerySet[Callback]) -> int:
    """Deliver again, with all tries, what was delivered or given up. Returns how many. The reconciler publishes them.

    The ids stay the same, so a receiver can tell that it has seen a callback.
    """
    ended = rows.exclude(state=Callback.State.PENDING)
    return ended.update(state=Callback.State.PENDING, tries=0, next_try_at=Now())


# By the index of each user's callbacks. Where retention has passed, hardly any others are left.
_OLD_TEST_EVENTS = """
DELETE FROM callback WHERE id IN (
    SELECT old.id FROM auth_user CROSS JOIN LATERAL (
        SELECT id FROM callback
         WHERE callback.user_id = auth_user.id AND created_at < now() - %s
           AND edit_id IS NULL AND batch_id IS NULL AND state <> 'pending'
         ORDER BY created_at LIMIT 1000) AS old)
"""


def purge(days: float) -> None:
    """Remove old test events. Other callbacks are removed with their edit or batch."""
    with connection.cursor() as cursor:
        cursor.execute(_OLD_TEST_EVENTS, [timedelta(days=days)])


def _owner(callback: Callback) -> int:
    """The id of the user whom the callback tells something."""
    owned = callback if callback.user_id else callback.edit or callback.batch
    return owned.user_id


def _try(callback: Callback, turn: receivers.Turn) -> tuple[Attempt, bool]:
    """Call the receiver once, unless its breaker is open. Returns the attempt, and whether its error is final."""
    at, began = timezone.now(), time.monotonic()
    if turn.state == "free":
        code, error, final = _post(callback, turn)
    else:
        code, error, final = None, "not called: earlier calls timed out", False
    return Attempt(at.isoformat(), round((time.monotonic() - began) * 1000), code, error), final


def _post(callback: Callback, turn: receivers.Turn) -> tuple[int | None, str, bool]:
    """Deliver once. Returns the status code if there was an answer, the error or "", and whether the error is final."""
    body = json.dumps(_document(callback)).encode()
    message_id, now = str(callback.pk), int(time.time())
    secrets = signing_secrets.valid(outlasted(lambda: signing_secrets.row(_owner(callback))))
    headers = {"Content-Type": "application/json"}
    headers |= signature.headers(message_id, body, now, secrets) | signature.former(message_id, body, now)
    turn.outcome = "timed out"  # also if the task's time ends
    try:
        code = http_client.post(callback.url, body, headers, TIMEOUT)
    except http_client.TooSlow as error:
        return None, str(error), False
    except (http_client.Refused, http_client.FetchFailed) as error:
        turn.outcome = "answered"
        return None, str(error), isinstance(error, http_client.Refused)
    turn.outcome = "answered"
    return code, "" if 200 <= code < 300 else f"the receiver answered {code}", False


def _document(callback: Callback) -> dict[str, Any]:
    """The body. ``event`` is the name that earlier releases gave to ``type``."""
    subject: Edit | Batch | None = callback.edit or callback.batch
    if isinstance(subject, Edit):
        about = {"type": "edit.finished", "event": "edit.finished", "edit": public(of_row(subject))}
    elif isinstance(subject, Batch):
        about = {"type": "batch.finished", "event": "batch.finished", "batch": of_batch(subject)}
    else:
        about = {"type": "webhook.test"}
    return about | {"timestamp": callback.created_at.isoformat()}
