"""Waiting for an edit or a batch: the preference ``Prefer: wait=N`` (RFC 7240), and server-sent events.

Each wait holds a thread of the web service, so only AT_ONCE requests of a process wait at a time: of two threads, one
is always there for other requests. Whoever comes meanwhile is answered at once. A request with the preference gets the
present state, without ``Preference-Applied``. A stream of events gets the present state and ends. Its client asks again
after RETRY milliseconds, as it does after any stream.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from django.db import Error, connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from image_editor.models import FINAL
from image_editor.postgresql import away
from image_editor.web import deadline

AT_ONCE = 1  # in a process
SECONDS_MAX = 20  # a restart of the web service gives requests 30 s
PACE, PACE_MAX = 0.1, 1.0  # seconds between two looks, at first and after a while
QUIET = 5.0  # seconds without an event, after which a comment finds out whether the client is still there
RETRY = 2000  # milliseconds
ENDED = {*FINAL, "finished"}  # of an edit, and of a batch

Document = dict[str, Any]
Look = Callable[[], Document | None]  # None: there is no such edit or batch any more

_places = threading.BoundedSemaphore(AT_ONCE)


def has_ended(document: Document) -> bool:
    return document["status"] in ENDED


def wait(request: HttpRequest, response: HttpResponse, document: Document, look: Look) -> Document:
    """The document once its edit or batch has ended, or after the time that the request prefers to wait."""
    found = re.search(r'(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})', request.headers.get("Prefer", ""), re.IGNORECASE)
    seconds = min(int(found[1]), SECONDS_MAX) if found else 0
    if not seconds:
        return document
    if not has_ended(document):
        if not _places.acquire(blocking=False):
            return document
        began = time.monotonic()
        try:
            *_, document = [document, *_looks(look, began + seconds)]
        finally:
            _places.release()
            request.waited = time.monotonic() - began  # type: ignore[attr-defined] - the metrics leave it out
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

    answer = StreamingHttpResponse(_stream(document, look, event, known), content_type="text/event-stream")
    answer["X-Accel-Buffering"] = "no"  # nginx passes each event on at once
    return answer


def _stream(document: Document, look: Look, event: Callable[[Document], str], known: str) -> Iterator[str]:
    """The events after the one that is ``known``. The place is taken here, where the end of a stream frees it."""
    yield f"retry: {RETRY}\n\n"
    if _id(document) != known:
        yield event(document)
    if has_ended(document) or not _places.acquire(blocking=False):
        return
    try:
        known, heard_at = _id(document), time.monotonic()
        for found in _looks(look, heard_at + SECONDS_MAX):
            if _id(found) != known:
                yield event(found)
            elif time.monotonic() - heard_at > QUIET:
                yield ":\n\n"
            else:
                continue
            known, heard_at = _id(found), time.monotonic()
    finally:
        _places.release()


def _id(document: Document) -> str:
    """Differs from event to event of a stream."""
    return f"{document['status']}-{document.get('percent', document.get('finished'))}"


def _looks(look: Look, end: float) -> Iterator[Document]:
    """What is seen until the edit or batch has ended or is gone, or until ``end``, in monotonic seconds."""
    pace = PACE
    while (left := end - time.monotonic()) > 0:
        with deadline.resting():
            time.sleep(min(pace, left))
        pace = min(pace * 1.5, PACE_MAX)
        document = _now(look)
        if document is None:
            return
        yield document
        if has_ended(document):
            return


def _now(look: Look) -> Document | None:
    """What is seen now. None also while PostgreSQL is away: what was accepted is accepted, so nobody gets 503."""
    try:
        return look()
    except Error as error:
        if not away(error):
            raise
        connection.close()
        return None
