"""The state of an edit, kept in Redis so that polling clients do not read the database.

PostgreSQL has the final word. A success is cached for a day, because it no longer changes. A requeue changes every
other final state, and Redis may not hear of it, so these are cached for a minute. A transient state is trusted for a
few seconds. While Redis is down, every answer comes from PostgreSQL.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

import redis
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

from image_editor.observability import metrics

log = logging.getLogger(__name__)

Document = dict[str, Any]
SUCCESS_TTL = 24 * 3600  # seconds
# Seconds. A worker stops within TASK_LEASE / 6 after a cancellation, so its last progress is older than that.
REQUEUABLE_TTL = 60
TRANSIENT_TTL = 3600  # seconds
# Most documents have less than 2,000. A longer success is read from the row, so that no user can fill Redis with them.
SUCCESS_MAX = 4096  # characters
TRANSIENT_TRUSTED = 5  # seconds; an older state is ignored and the row is read
ROW: Document = {"status": "row"}  # of an edit that was cancelled: whatever a worker still reports, the row is read
GONE: Document = {"status": "gone", "user_id": None}  # of an edit that its owner removed: the document of nobody
PAUSE = 5.0  # seconds without Redis after a failure, so that a Redis that hangs does not delay every request

# Short time-outs: PostgreSQL can answer instead.
OPTIONS = {"socket_timeout": 1, "socket_connect_timeout": 1, "health_check_interval": 30}
client = redis.Redis.from_url(settings.CACHE_URL, **OPTIONS)


class States(Protocol):
    """A place for transient states."""

    def set(self, edit_id: str, document: Document) -> None: ...

    def get(self, edit_id: str) -> Document | None: ...

    def delete(self, edit_id: str) -> None: ...


class CacheStates:
    """Transient states as keys in the cache database."""

    @staticmethod
    def _key(edit_id: str) -> str:
        return f"edit:now:{edit_id}"

    def set(self, edit_id: str, document: Document) -> None:
        client.set(self._key(edit_id), json.dumps(document), ex=TRANSIENT_TTL)

    def get(self, edit_id: str) -> Document | None:
        found = client.get(self._key(edit_id))
        return json.loads(found) if found else None

    def delete(self, edit_id: str) -> None:
        client.delete(self._key(edit_id))


class ResultBackendStates:
    """Transient states in Celery's result backend. Celery overwrites them when the task ends."""

    STATE = "PROCESSING"

    @staticmethod
    def _backend() -> Any:
        from backend.celery import app

        return app.backend

    def set(self, edit_id: str, document: Document) -> None:
        self._backend().store_result(edit_id, document, self.STATE)

    def get(self, edit_id: str) -> Document | None:
        meta = self._backend().get_task_meta(edit_id, cache=False)
        return meta["result"] if meta["status"] == self.STATE else None

    def delete(self, edit_id: str) -> None:
        self._backend().forget(edit_id)


class TaskCacheManager:
    """Final documents in the cache, transient ones in ``transient``. Only a task's soft time limit is raised."""

    def __init__(self, transient: States) -> None:
        self.transient = transient
        self._paused_until = 0.0

    def attempt[T](self, call: Callable[[], T], otherwise: T) -> T:
        """The result of a call to Redis, or ``otherwise`` if it fails, or failed less than PAUSE seconds ago."""
        if time.monotonic() < self._paused_until:
            return otherwise
        try:
            return call()
        except SoftTimeLimitExceeded:  # it can arrive during the call, and ends the edit
            raise
        except Exception as error:  # redis, kombu and decoding errors alike mean "not cached"
            self._paused_until = time.monotonic() + PAUSE
            metrics.cache_failed()
            log.warning("cache unavailable", extra={"error": repr(error)})
            return otherwise

    def resume(self) -> None:
        """End a pause early."""
        self._paused_until = 0.0

    @staticmethod
    def _key(edit_id: str | UUID) -> str:
        return f"edit:final:{edit_id}"

    def get(self, edit_id: str | UUID) -> Document | None:
        """The final document, or a transient one that is fresh. None if the row must be read."""
        found = self._get(edit_id)
        metrics.cache_answered(found is not None)
        return found

    def _get(self, edit_id: str | UUID) -> Document | None:
        if found := self.attempt(lambda: client.get(self._key(edit_id)), None):
            document = json.loads(found)
            return None if document == ROW else document
        found = self.progress(edit_id)
        return found if found and found["at"] > time.time() - TRANSIENT_TRUSTED else None

    def progress(self, edit_id: str | UUID) -> Document | None:
        """The last transient document, however old."""
        return self.attempt(lambda: self.transient.get(str(edit_id)), None)

    def set_progress(self, edit_id: str | UUID, document: Document) -> None:
        self.attempt(lambda: self.transient.set(str(edit_id), document | {"at": time.time()}), None)

    def set_final(self, edit_id: str | UUID, document: Document, replace: bool = True) -> None:
        """Without ``replace``, a final document that is there stays: the caller may have read the row before it."""
        succeeded, text = document["status"] == "succeeded", json.dumps(document)
        if succeeded and len(text) > SUCCESS_MAX:
            return
        seconds = SUCCESS_TTL if succeeded else REQUEUABLE_TTL
        self.attempt(lambda: client.set(self._key(edit_id), text, ex=seconds, nx=not replace) and None, None)

    def set_gone(self, edit_ids: Iterable[str | UUID]) -> bool:
        """Let nobody see the edits any more. False if Redis may not know that they are gone.

        A worker that does not know yet may report progress once more.
        """

        def tell() -> bool:
            for edit_id in edit_ids:
                self.transient.delete(str(edit_id))
                client.set(self._key(edit_id), json.dumps(GONE), ex=REQUEUABLE_TTL)
            return True

        return self.attempt(tell, False)

    def set_cancelled(self, edit_id: str | UUID) -> None:
        """Believe the row alone for a while: the worker may report progress until it knows."""
        self.attempt(lambda: client.set(self._key(edit_id), json.dumps(ROW), ex=REQUEUABLE_TTL) and None, None)

    def forget_final(self, edit_ids: Sequence[str | UUID]) -> None:
        """Remove the final documents of edits that are gone. Their transient ones have expired long ago."""
        self.attempt(lambda: client.delete(*map(self._key, edit_ids)) and None, None)

    def forget(self, edit_id: str | UUID) -> None:
        """Remove both documents, because the row has changed."""
        self.attempt(lambda: client.delete(self._key(edit_id)) and None, None)
        self.attempt(lambda: self.transient.delete(str(edit_id)), None)


states = TaskCacheManager(ResultBackendStates() if settings.RESULT_BACKEND_ENABLED else CacheStates())
