"""Waiting for an edit or a batch: the preference ``Prefer: wait=N`` (RFC 7240), and server-sent events.

Each wait holds a thread of the web service, so only AT_ONCE requests of a process wait at a time: of two threads, one
is always there for other requests. Whoever comes meanwhile is answered at once. A request with the preference gets the
present state, without ``Preference-Applied``. A stream of events gets the present state and ends. Its client asks again
after RETRY milliseconds, as it does after any stream.

A wait ends early, and gives its place back, when its client goes away or the process is asked to stop. After OWN
seconds it gives the place to another user who comes. Otherwise one user who watches many edits would keep all places.
"""

import json
import math
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

from django.db import Error, connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from image_editor import auth
from image_editor.auth import user_of
from image_editor.models import FINAL
from image_editor.postgresql import away
from image_editor.web import deadline

AT_ONCE = 1  # in a process
OWN = 2.0  # seconds for which a wait keeps its place; most edits end within one
SECONDS_MAX = 20  # a restart of the web service gives requests 30 s
PACE, PACE_MAX = 0.1, 0.7  # seconds between two looks, at first and after a while
QUIET = 5.0  # seconds without an event, after which a comment tells the client, and nginx, that the stream lives
RETRY = 2000  # milliseconds
ENDED = {*FINAL, "finished"}  # of an edit, and of a batch

Document = dict[str, Any]
Look = Callable[[], Document | None]  # None: there is no such edit or batch any more

_stopping: int | None = None  # a file descriptor that can be read once this process is asked to stop


@dataclass(eq=False, slots=True)
class _Place:
    """Where one request of a user waits. The file descriptor can be read once another user has taken the place."""

    user: int
    since: float = field(default_factory=time.monotonic)
    taken: int = field(default_factory=partial(os.eventfd, 0))


class _Places:
    """The places of this process."""

    def __init__(self) -> None:
        self._lock, self._held = threading.Lock(), set[_Place]()

    @contextmanager
    def one_for(self, request: HttpRequest) -> Iterator[_Place | None]:
        """A place for the user of the request, or None."""
        place = self._take(user_of(request).pk)
        try:
            yield place
        finally:
            if place:
                with self._lock:
                    self._held.discard(place)
                    os.close(place.taken)

    def _take(self, user: int) -> _Place | None:
        with self._lock:
            if len(self._held) >= AT_ONCE:
                old = time.monotonic() - OWN
                other = next((place for place in self._held if place.user != user and place.since < old), None)
                if other is None:
                    return None
                self._held.discard(other)
                os.eventfd_write(other.taken, 1)
            place = _Place(user)
            self._held.add(place)
            return place


_places = _Places()


def end_with_this_process() -> None:
    """Let waits end when this process is asked to stop. gunicorn calls it in each new process (roles/web).

    The process ends when its requests have ended. Without this, a release would wait for up to SECONDS_MAX.
    """
    global _stopping
    stopping = _stopping = os.eventfd(0)
    former = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        os.eventfd_write(stopping, 1)
        if callable(former):
            former(number, frame)

    signal.signal(signal.SIGTERM, stop)
    signal.siginterrupt(signal.SIGTERM, False)  # as gunicorn has it: requests go on


def has_ended(document: Document) -> bool:
    return document["status"] in ENDED


def wait(request: HttpRequest, response: HttpResponse, document: Document, look: Look) -> Document:
    """The document once its edit or batch has ended, or after the time that the request prefers to wait."""
    found = re.search(r'(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})', request.headers.get("Prefer", ""), re.IGNORECASE)
    seconds = min(int(found[1]), SECONDS_MAX) if found else 0
    if not seconds:
        return document
    if not has_ended(document):
        with _places.one_for(request) as place:
            if place is None:
                return document
            began = time.monotonic()
            try:
                *_, document = [document, *_looks(request, place, look, began + seconds)]
            finally:
                request.waited = time.monotonic() - began  # type: ignore[attr-defined] - the metrics leave it out
        if not has_ended(document) and time.monotonic() < began + seconds:
            return document  # the wait has ended early
    response["Preference-Applied"] = f"wait={seconds}"
    return document


def events(
    request: HttpRequest, kind: str, document: Document, look: Look, shown: Callable[[Document], Document]
) -> HttpResponseBase:
    """A stream of the document, each time that it has changed. ``kind`` is the name of the events.

    A browser's EventSource connects again after the end. It is told to stop (204) if it knows the end already.
    """
    known = request.headers.get("Last-Event-ID", "")
    if has_ended(document) and _id(document) == known:
        return HttpResponse(status=204)

    def event(found: Document) -> str:
        return f"event: {kind}\nid: {_id(found)}\ndata: {json.dumps(shown(found))}\n\n"

    stream = _stream(request, document, look, event, known)
    answer = StreamingHttpResponse(stream, content_type="text/event-stream")
    answer["X-Accel-Buffering"] = "no"  # nginx passes each event on at once
    return answer


def _stream(
    request: HttpRequest, document: Document, look: Look, event: Callable[[Document], str], known: str
) -> Iterator[str]:
    """The events after the one that is ``known``. The place is taken here, where the end of a stream frees it."""
    yield f"retry: {RETRY}\n\n"
    if _id(document) != known:
        yield event(document)
    if has_ended(document):
        return
    with _places.one_for(request) as place:
        if place is None:
            return
        known, heard_at = _id(document), time.monotonic()
        for found in _looks(request, place, look, heard_at + SECONDS_MAX):
            if _id(found) != known:
                yield event(found)
            elif time.monotonic() - heard_at > QUIET:
                yield ":\n\n"
            else:
                continue
            known, heard_at = _id(found), time.monotonic()


def _id(document: Document) -> str:
    """Differs from event to event of a stream."""
    return f"{document['status']}-{document.get('percent', document.get('finished'))}"


def _looks(request: HttpRequest, place: _Place, look: Look, end: float) -> Iterator[Document]:
    """What is seen until the edit or batch has ended or is gone, or until ``end``, in monotonic seconds.

    It ends early if nobody waits for the answer any more, or if another user has taken the place. If PostgreSQL hangs,
    it ends within two seconds after the look before that: the pause counts as time that the look takes.
    """
    pace, seen_at = PACE, time.monotonic()
    while (left := end - seen_at) > 0:
        if not _pause(request, place, min(pace, left)):
            return
        pace = min(pace * 1.5, PACE_MAX)
        document, seen_at = _now(request, look, seen_at), time.monotonic()
        if document is None:
            return
        yield document
        if has_ended(document):
            return


def _pause(request: HttpRequest, place: _Place, seconds: float) -> bool:
    """Wait for so long. False at once when client or place has gone, or when the process is asked to stop."""
    ends = select.poll()
    ends.register(place.taken, select.POLLIN)
    if client := request.META.get("gunicorn.socket"):
        ends.register(client, select.POLLRDHUP)
    if _stopping is not None:
        ends.register(_stopping, select.POLLIN)
    with deadline.resting():
        return not ends.poll(math.ceil(seconds * 1000))


def _now(request: HttpRequest, look: Look, since: float) -> Document | None:
    """What is seen now. None if the token of the request was revoked.

    None also while PostgreSQL is away: what was accepted is accepted, so nobody gets 503.
    """
    try:
        with deadline.watched(since):
            return look() if auth.holds(request) else None
    except Error as error:
        if not away(error):
            raise
        connection.close()
        return None
