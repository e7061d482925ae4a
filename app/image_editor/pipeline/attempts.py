"""One attempt at an edit: claim it, edit the image, record how it ended."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject, SoftTimeLimitExceeded
from django.conf import settings

from image_editor import http_client, postgresql, storage
from image_editor.imaging import engines, inspection
from image_editor.models import Edit, Status
from image_editor.observability import metrics
from image_editor.pipeline import killed, lease, outage, transitions
from image_editor.pipeline.documents import of_message
from image_editor.pipeline.lease import Overtaken
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.outage import outlasted
from image_editor.pipeline.state_cache import states
from image_editor.storage import names

if TYPE_CHECKING:
    from image_editor.imaging.operations import Output

log = logging.getLogger(__name__)

# Seconds until progress is reported for the first time. A report costs a tenth of a small edit. Before the first one,
# a client that asks is answered from the row.
QUICK = 0.3
AGAIN = 1.0  # seconds between two tries to store a paid result while the media store is down
LATE = outage.AGAIN  # seconds; a claim that takes longer has waited for PostgreSQL


def run(payload: dict[str, Any] | str, *, task_id: str, queue: str, redelivered: bool) -> dict[str, str]:
    """Claim the edit and make one attempt. A message about an edit that has ended, or is under way, is dropped.

    Returns the id of the edit and the outcome: succeeded, failed, postponed, overtaken or dropped. Raises Reject if
    PostgreSQL is away for too long.
    """
    began = time.monotonic()
    message = outlasted(lambda: EditMessage.load(payload))
    claim = outlasted(lambda: _claim(message, redelivered)) if message else None
    if message is None or claim is None:
        log.info("edit dropped", extra={"task_id": task_id, "redelivered": redelivered})
        return {"id": task_id, "outcome": "dropped"}
    if claim.accepted_at and not message.accepted_at:
        message = replace(message, accepted_at=claim.accepted_at.isoformat())
    if claim.attempt <= 1 and not redelivered:
        metrics.claimed(queue, message.accepted_at)
    attempt = Attempt(message, claim, late=time.monotonic() - began > LATE)
    repeated = redelivered or claim.attempt > 1
    cause = killed.too_often(message.task_id) if repeated else None
    outcome = attempt.give_up(cause) if cause else attempt.run()
    log.info("edit ended", extra={"task_id": message.task_id, "attempt": attempt.claim.attempt, "outcome": outcome})
    return {"id": message.task_id, "outcome": outcome}


def _claim(message: EditMessage, redelivered: bool) -> transitions.Claim | None:
    """Claim the edit. Put the claim off if the edit will probably end before a client could see it in progress.

    No other worker holds a fresh message on its first delivery. If this process dies, the message comes again,
    redelivered or from the reconciler, and is claimed then. So an edit that kills workers still uses up its attempts.
    """
    if message.fresh and not redelivered and _probably_quick(message):
        return transitions.Claim(0)
    return transitions.claim(message.task_id, redelivered)


def _probably_quick(message: EditMessage) -> bool:
    """False if the edit needs another server, to fetch the image or to edit it."""
    return engines.get(settings.ENGINE).quick and message.image_url.startswith("media:")


class Attempt:
    """One attempt, from the claim to the end. Every failure becomes a state of the edit."""

    def __init__(self, message: EditMessage, claim: transitions.Claim, late: bool = False) -> None:
        self.message, self.claim = message, claim
        self.began, self.reported = time.monotonic(), False
        self.late = late  # a part of the task's time went by while PostgreSQL was away
        self.folder = ""  # of the result, once it may be stored
        self.paid = False  # another attempt would pay the engine again

    def run(self) -> str:
        """Edit the image and record the end. Returns the outcome."""
        try:
            outcome = outlasted(self._work())  # another attempt would pay the engine again
        except Overtaken:
            outcome = "overtaken"
        if outcome == "overtaken" and self.folder:
            self._clean_up(self.folder)
        return outcome

    def give_up(self, cause: killed.Cause) -> str:
        """End the edit without another try, because earlier tries were killed. Returns the outcome."""
        if cause == "time":
            return outlasted(self._too_slow(settings.TASK_TIME_LIMIT))
        return outlasted(self._failed("too_large", killed.DETAIL))

    def _work(self) -> Callable[[], str]:
        """Edit the image. Returns the function that records how the attempt ended."""
        message = self.message
        try:
            return self._edit()
        except SoftTimeLimitExceeded:
            if self.late:
                return self._postponed(fault=engines.get(settings.ENGINE).quick)  # a paid attempt always counts
            return self._too_slow(settings.TASK_SOFT_TIME_LIMIT)
        except (engines.EditError, inspection.Unacceptable) as error:
            return self._failed(error.code, str(error))
        except http_client.Refused as error:
            return self._failed("image_url_refused", str(error))
        except http_client.FetchFailed as error:
            return self._failed("image_url_failed", str(error))
        except storage.NotStored:
            return self._failed("upload_gone", "the uploaded image is no longer stored: send it again")
        except (storage.StorageUnavailable, engines.EngineUnavailable) as error:
            log.warning("edit postponed", extra={"task_id": message.task_id, "error": str(error)})
            return self._postponed(fault=not self.paid)
        except Reject:
            raise
        except Exception as error:  # this edit may be what our code cannot do, so the attempt counts
            log.exception("edit postponed", extra={"task_id": message.task_id})
            return self._postponed(fault=postgresql.away(error))

    def _edit(self) -> Callable[[], str]:
        """Fetch, edit and store, under a lease. Returns the function that records success."""
        message = self.message
        with contextlib.ExitStack() as self.leased:
            if self.claim.attempt:
                self._keep_lease()
            if not _probably_quick(message):
                self._report(0)
            engine = engines.get(settings.ENGINE)
            source, output = _source(message.image_url), _output(message)
            edited = engine.edit(source, message.prompt, self._progress, message.task_id, output)
            self.paid = not engine.quick
            self.folder = names.results(message.task_id, datetime.fromisoformat(message.accepted_at))
            name = f"{self.folder}{self.claim.number}.{edited.extension}"
            self._store(name, edited)

        tries = count()

        def succeeded() -> str:
            done = transitions.succeed(message, self.claim, name, edited, self.reported, again=next(tries) > 0)
            return "succeeded" if done else "overtaken"

        return succeeded

    def _store(self, name: str, edited: engines.Edited) -> None:
        """Store the result. If the engine was paid, go on trying until the soft time limit."""
        with _no_fault_of_the_edit():
            while True:
                try:
                    return storage.put(name, edited.data, edited.content_type)
                except storage.StorageUnavailable as error:
                    if not self.paid:
                        raise
                    log.warning("result not stored yet", extra={"task_id": self.message.task_id, "error": str(error)})
                    time.sleep(AGAIN)

    def _clean_up(self, folder: str) -> None:
        """Remove the result if its edit was removed meanwhile. Without this, the sweep removes it a day later."""
        if not outlasted(lambda: Edit.objects.filter(pk=self.message.task_id).exists()):
            with contextlib.suppress(storage.StorageUnavailable, SoftTimeLimitExceeded):
                storage.delete(folder)

    def _too_slow(self, seconds: int) -> Callable[[], str]:
        detail = f"the edit took longer than {seconds} s: ask for less, or send a smaller image"
        return self._failed("too_slow", detail)

    def _failed(self, code: str, detail: str) -> Callable[[], str]:
        return lambda: "failed" if transitions.fail(self.message, self._held(), code, detail) else "overtaken"

    def _postponed(self, *, fault: bool) -> Callable[[], str]:
        return lambda: "postponed" if transitions.postpone(self.message, self._held(), fault) else "overtaken"

    def _held(self) -> transitions.Claim:
        """Return the claim. Make it now if it was put off. Raises Overtaken."""
        if not self.claim.attempt:
            began = time.monotonic()
            claim = outlasted(lambda: transitions.claim(self.message.task_id, False))
            self.late |= time.monotonic() - began > LATE
            if claim is None:
                raise Overtaken
            self.claim = claim
        return self.claim

    def _keep_lease(self) -> None:
        self.leased.enter_context(lease.kept(self.message.task_id, self.claim))

    def _progress(self, percent: int) -> None:
        """The engine's progress (0 to 100), as a part of the whole: 10 percent for fetching, 10 for storing."""
        if time.monotonic() - self.began > QUICK:
            self._report(10 + percent * 8 // 10)

    def _report(self, percent: int) -> None:
        """Let clients see that the edit is under way."""
        if not self.claim.attempt:
            self._held()
            self._keep_lease()
        claim, self.reported = self.claim, True
        started_at = claim.started_at.isoformat() if claim.started_at else None
        document = of_message(
            self.message, Status.PROCESSING, attempt=claim.attempt, started_at=started_at, percent=percent
        )
        states.set_progress(self.message.task_id, document)


@contextlib.contextmanager
def _no_fault_of_the_edit() -> Iterator[None]:
    """A media store that is too slow for the time limit counts as one that is down. Raises StorageUnavailable."""
    try:
        yield
    except SoftTimeLimitExceeded as error:
        raise storage.StorageUnavailable("the media store took too long") from error


def _output(message: EditMessage) -> "Output | None":
    """How the result is saved. Only an edit loads the operations: pydantic takes 0.3 s, and other tasks do without."""
    if not message.output:
        return None
    from image_editor.imaging.operations import Output

    return Output(**message.output)


def _source(image_url: str) -> bytes:
    """The bytes of the image to edit. What comes from a URL is inspected before a pixel is decoded.

    Raises storage.NotStored, storage.StorageUnavailable, http_client.Refused, http_client.FetchFailed or
    inspection.Unacceptable.
    """
    if image_url.startswith("media:"):
        with _no_fault_of_the_edit():
            return storage.get(image_url.removeprefix("media:"))
    data = http_client.get(image_url, settings.UPLOAD_MAX_BYTES, settings.FETCH_TIMEOUT)
    inspection.check(data, settings.PIXELS_MAX, settings.SIDE_MIN)
    return data
