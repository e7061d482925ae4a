"""The Celery tasks: claim, call pure code, record."""

import logging
import time
from typing import Any

from celery import shared_task
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.utils import timezone

from image_editor import http_client, storage
from image_editor.imaging import engines, inspection
from image_editor.models import Status
from image_editor.observability import metrics
from image_editor.observability.request_id import request_id
from image_editor.pipeline import reconciler, retention, transitions
from image_editor.pipeline.documents import of_message
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.state_cache import states
from image_editor.webhooks import callbacks

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
    claim = _begin(message, redelivered) if message else None
    if message is None or claim is None:
        log.info("edit dropped", extra={"task_id": request.id, "redelivered": redelivered})
        return {"id": request.id, "outcome": "dropped"}
    if claim.attempt <= 1 and not redelivered:
        metrics.claimed(request, message.accepted_at)
    attempt = Attempt(message, claim)
    outcome = attempt.outcome()
    log.info("edit ended", extra={"task_id": message.task_id, "attempt": attempt.claim.attempt, "outcome": outcome})
    return {"id": message.task_id, "outcome": outcome}


def _begin(message: EditMessage, redelivered: bool) -> transitions.Claim | None:
    """Claim the edit, unless it can be done before a claim would tell anybody anything.

    A message that is fresh and comes for the first time is held by nobody else. If this process dies it comes again,
    redelivered or from the reconciler, and is claimed then: what kills workers uses up its attempts all the same.
    """
    if message.fresh and not redelivered and _quick(message):
        return transitions.Claim(0, timezone.now())
    return transitions.claim(message.task_id, redelivered)


def _quick(message: EditMessage) -> bool:
    """Somebody else's server, or an engine that is one, takes as long as it likes."""
    return engines.get(settings.ENGINE).quick and message.image_url.startswith("media:")


class _Overtaken(Exception):
    """The edit has ended, or somebody else is at it."""


class Attempt:
    """One attempt, to the end. Whatever happens becomes a state of the edit; nothing is raised."""

    def __init__(self, message: EditMessage, claim: transitions.Claim) -> None:
        self.message, self.claim = message, claim
        self.began, self.reported = time.monotonic(), False

    def held(self) -> transitions.Claim:
        """The claim, made now if it was not before. Raises _Overtaken."""
        if not self.claim.attempt:
            claim = transitions.claim(self.message.task_id, False)
            if claim is None:
                raise _Overtaken
            self.claim = claim
        return self.claim

    def report(self, percent: int) -> None:
        claim, self.reported = self.held(), True
        started_at = claim.started_at.isoformat()
        document = of_message(
            self.message, Status.PROCESSING, attempt=claim.attempt, started_at=started_at, percent=percent
        )
        states.set_progress(self.message.task_id, document)

    def progress(self, percent: int) -> None:
        if time.monotonic() - self.began > QUICK:
            self.report(10 + percent * 8 // 10)

    def outcome(self) -> str:
        try:
            return self._outcome()
        except _Overtaken:
            return "overtaken"

    def _outcome(self) -> str:
        message = self.message
        try:
            if not _quick(message):
                self.report(0)
            engine = engines.get(settings.ENGINE)
            edited = engine.edit(_source(message.image_url), message.prompt, self.progress, message.task_id)
            name = f"results/{message.task_id}/{self.claim.attempt}.{edited.extension}"
            storage.put(name, edited.data, edited.content_type)
            done = transitions.succeed(message, self.claim, name, edited, self.reported)
            return "succeeded" if done else "overtaken"
        except _Overtaken:
            raise
        except SoftTimeLimitExceeded:
            seconds = settings.TASK_SOFT_TIME_LIMIT
            return self._failed(
                "too_slow", f"the edit took longer than {seconds} s: ask for less, or send a smaller picture"
            )
        except (engines.EditError, inspection.Unacceptable) as error:
            return self._failed(error.code, str(error))
        except http_client.Refused as error:
            return self._failed("image_url_refused", str(error))
        except http_client.FetchFailed as error:
            return self._failed("image_url_failed", str(error))
        except storage.NotStored:
            return self._failed("upload_gone", "the uploaded picture is no longer stored: send it again")
        except (storage.StorageUnavailable, engines.EngineUnavailable) as error:
            log.warning("edit postponed", extra={"task_id": message.task_id, "error": str(error)})
            transitions.postpone(message, self.held(), "storage or engine was not available")
            return "postponed"
        except Exception:
            log.exception("edit postponed", extra={"task_id": message.task_id})
            transitions.postpone(message, self.held(), "an internal error")
            return "postponed"

    def _failed(self, code: str, detail: str) -> str:
        return "failed" if transitions.fail(self.message, self.held(), code, detail) else "overtaken"


def _source(image_url: str) -> bytes:
    """The picture to edit, its size checked before a pixel is decoded."""
    if image_url.startswith("media:"):
        return storage.get(image_url.removeprefix("media:"))
    data = http_client.get(image_url, settings.UPLOAD_MAX_BYTES, settings.FETCH_TIMEOUT)
    inspection.check(data, settings.PIXELS_MAX, settings.SIDE_MIN)
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
