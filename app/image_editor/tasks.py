"""The Celery tasks: claim, call pure code, record."""

import logging
import time
from typing import Any

from celery import shared_task
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

from image_editor import callbacks, engines, fetch, lifecycle, reconciler, retention, sniff, storage
from image_editor.cache import states
from image_editor.context import request_id
from image_editor.message import EditMessage
from image_editor.models import Status
from image_editor.status import of_message

log = logging.getLogger(__name__)

# Seconds that an edit goes on before anybody is told how far it is: a report costs a tenth of a small edit, and until
# the first one whoever asks is answered from the row.
QUICK = 0.3


@shared_task(bind=True, name="image_editor.tasks.edit")
def edit(self: Any, payload: dict[str, Any] | str) -> dict[str, str]:
    """Edit one picture. Takes the whole message or, from an older release, the id of the edit."""
    return run(self.request, payload)


def run(request: Context, payload: dict[str, Any] | str) -> dict[str, str]:
    """Claim the edit and make one attempt. A message for an edit that is done, or under way, is dropped."""
    request_id.set((request.headers or {}).get("request_id") or "")
    message = EditMessage.load(payload)
    redelivered = bool((request.delivery_info or {}).get("redelivered"))
    claim = lifecycle.claim(message.task_id, redelivered) if message else None
    if message is None or claim is None:
        log.info("edit dropped", extra={"task_id": request.id, "redelivered": redelivered})
        return {"id": request.id, "outcome": "dropped"}
    outcome = _attempt(message, claim)
    log.info("edit ended", extra={"task_id": message.task_id, "attempt": claim.attempt, "outcome": outcome})
    return {"id": message.task_id, "outcome": outcome}


def _attempt(message: EditMessage, claim: lifecycle.Claim) -> str:
    """One attempt, to the end. Whatever happens becomes a state of the edit; nothing is raised."""

    began = time.monotonic()
    reported = False

    def report(percent: int) -> None:
        nonlocal reported
        reported = True
        started_at = claim.started_at.isoformat()
        document = of_message(message, Status.PROCESSING, attempt=claim.attempt, started_at=started_at, percent=percent)
        states.set_progress(message.task_id, document)

    def progress(percent: int) -> None:
        if time.monotonic() - began > QUICK:
            report(10 + percent * 8 // 10)

    try:
        engine = engines.get(settings.ENGINE)
        # Somebody else's server, or an engine that is one, takes as long as it likes.
        if not engine.quick or not message.image_url.startswith("media:"):
            report(0)
        edited = engine.edit(_source(message.image_url), message.prompt, progress, message.task_id)
        name = f"results/{message.task_id}/{claim.attempt}.{edited.extension}"
        storage.put(name, edited.data, edited.content_type)
        return "succeeded" if lifecycle.succeed(message, claim, name, edited, reported) else "overtaken"
    except SoftTimeLimitExceeded:
        detail = f"the edit took longer than {settings.TASK_SOFT_TIME_LIMIT} s: ask for less, or send a smaller picture"
        return _failed(message, claim, "too_slow", detail)
    except (engines.EditError, sniff.Unacceptable) as error:
        return _failed(message, claim, error.code, str(error))
    except fetch.Refused as error:
        return _failed(message, claim, "image_url_refused", str(error))
    except fetch.FetchFailed as error:
        return _failed(message, claim, "image_url_failed", str(error))
    except storage.NotStored:
        return _failed(message, claim, "upload_gone", "the uploaded picture is no longer stored: send it again")
    except (storage.StorageUnavailable, engines.EngineUnavailable) as error:
        log.warning("edit postponed", extra={"task_id": message.task_id, "error": str(error)})
        lifecycle.postpone(message, claim, "storage or engine was not available")
        return "postponed"
    except Exception:
        log.exception("edit postponed", extra={"task_id": message.task_id})
        lifecycle.postpone(message, claim, "an internal error")
        return "postponed"


def _failed(message: EditMessage, claim: lifecycle.Claim, code: str, detail: str) -> str:
    return "failed" if lifecycle.fail(message, claim, code, detail) else "overtaken"


def _source(image_url: str) -> bytes:
    """The picture to edit, its size checked before a pixel is decoded."""
    if image_url.startswith("media:"):
        return storage.get(image_url.removeprefix("media:"))
    data = fetch.get(image_url, settings.UPLOAD_MAX_BYTES, settings.FETCH_TIMEOUT)
    sniff.check(data, settings.PIXELS_MAX, settings.SIDE_MIN)
    return data


@shared_task(name="image_editor.tasks.callback", soft_time_limit=2 * callbacks.TIMEOUT, ignore_result=True)
def callback(callback_id: str, tries: int) -> str:
    """Try once to tell a client how its edit or batch ended."""
    return callbacks.send(callback_id, tries)


@shared_task(name="image_editor.tasks.reconcile", acks_late=False, ignore_result=True)
def reconcile() -> dict[str, int]:
    """Publish again what was accepted and is nowhere under way."""
    return reconciler.reconcile()


@shared_task(name="image_editor.tasks.purge", acks_late=False, ignore_result=True)
def purge() -> int:
    """Remove a bounded number of edits that are older than the retention."""
    return retention.purge(settings.RETENTION_DAYS, at_most=2000)
