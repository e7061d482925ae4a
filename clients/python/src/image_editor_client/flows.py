"""The logic of the client without input and output: what to ask, what to repeat, how long to wait.

A flow is a generator. It yields a Request and is sent the Answer, or it yields seconds to wait. Both clients run the same
flows: one blocks, the other awaits.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from urllib3 import encode_multipart_formdata

from image_editor_client.documents import Batch, D, Edit, Item, Limit, Stored, Token, Upload, W
from image_editor_client.errors import ApiError, EditFailed, NotReached, StillRunning

TRIES = 5
AGAIN = (0, 429, 500, 502, 503, 504)  # statuses; 0: no answer
NOT_DONE = (429, 503)  # statuses that say that nothing was done
PATIENCE = 60.0  # seconds; a longer Retry-After, such as that of a daily quota, is for the caller to decide
HELD = 20  # seconds; the platform holds the answer to one request back for no longer
PAUSES = (0.2, 2.0)  # seconds between two looks: the first, and the longest


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    stream: bool = False  # read the answer as events


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; ``status`` 0: there was none, and ``body`` says why. ``events``: each with its id and its data."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    events: Iterator[tuple[str, Any]] = field(default_factory=lambda: iter(()))


T = TypeVar("T")
Flow = Generator[Request | float, Answer, T]
Image = Path | str | bytes


class Flows:
    """The flows of one platform and one user."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def submit(self, item: Item, image: Image | None, key: str) -> Flow[Edit]:
        """Submit an edit of a file, of a URL or of an upload."""
        fields = _said(item)
        if [image is not None, "image_url" in fields, "upload_id" in fields].count(True) != 1:
            raise ValueError("give one of image, image_url and upload_id")
        body, kind = _json(fields) if image is None else _form(fields, [image])
        return Edit.read((yield from self._create(Edit.PATH, body, kind, key)))

    def submit_batch(self, items: Sequence[Item], callback_url: str, key: str) -> Flow[Batch]:
        """Submit a batch of URLs or uploads."""
        asked = {"items": [_said(item) for item in items]} | ({"callback_url": callback_url} if callback_url else {})
        return Batch.read((yield from self._create(Batch.PATH, *_json(asked), key)))

    def submit_images(self, images: Sequence[Image], item: Item, key: str) -> Flow[Batch]:
        """Submit a batch of files. The item is said of each."""
        return Batch.read((yield from self._create(Batch.PATH, *_form(_said(item), images), key)))

    def upload(self, image: Image) -> Flow[Upload]:
        """Upload an image for several edits. A repetition after a lost answer leaves two uploads."""
        body, kind = _form({}, [image])
        return Upload.read((yield from self.call("POST", Upload.PATH, body, {"Content-Type": kind})))

    def get(self, kind: type[D], its_id: str) -> Flow[D]:
        return kind.read((yield from self.call("GET", f"{kind.PATH}/{its_id}")))

    def page(self, kind: type[D], path: str) -> Flow[tuple[list[D], str | None]]:
        """The documents of a page, and the path of the next page or None."""
        found = yield from self.call("GET", path)
        return [kind.read(document) for document in found["items"]], found.get("next")

    def cancel(self, work: W) -> Flow[W]:
        return type(work).read((yield from self.call("POST", f"{work.path}/cancel")))

    def delete(self, stored: Stored) -> Flow[None]:
        """Remove it. If it is gone already, for example because an answer was lost, that is fine."""
        try:
            yield from self.call("DELETE", stored.path)
        except ApiError as error:
            if error.status != 404:
                raise

    def wait(self, work: W, timeout: float) -> Flow[W]:
        """Look until the edit or batch has ended. Raises StillRunning."""
        end, pause = time.monotonic() + timeout, PAUSES[0]
        while True:
            seconds = max(0, min(HELD, int(end - time.monotonic())))
            work = type(work).read((yield from self.call("GET", work.path, headers={"Prefer": f"wait={seconds}"})))
            if work.ended:
                return work
            if time.monotonic() + pause > end:
                raise StillRunning(work)
            yield pause
            pause = min(pause * 1.5, PAUSES[1])

    def events(self, work: Edit | Batch, known: str) -> Flow[Iterator[tuple[str, Any]]]:
        """The events of a stream after the one that is known. A stream can end before the work has."""
        sent = self._headers({"Last-Event-ID": known} if known else {})
        answer = yield from self._repeated(Request("GET", f"{self._url}{work.path}/events", sent, stream=True), AGAIN)
        if answer.status not in (200, 204):
            raise _error(answer)
        return answer.events

    def download(self, edit: Edit) -> Flow[bytes]:
        """The bytes of the result. Raises EditFailed if there is none."""
        for fresh in (False, True):  # the signed URL of an edit that was read long ago has expired
            found = (yield from self.get(Edit, edit.id)) if fresh or not edit.result_url else edit
            if not found.result_url:
                raise EditFailed(found)
            # Without the token: the URL may lead to another server.
            answer = yield from self._repeated(Request("GET", found.result_url), AGAIN)
            if answer.status == 200:
                return answer.body
        raise _error(answer)

    def run(self, item: Item, image: Image | None, timeout: float) -> Flow[bytes]:
        """Submit an edit, wait, and download the result. Raises EditFailed."""
        edit = yield from self.submit(item, image, "")
        return (yield from self.download((yield from self.wait(edit, timeout))))

    def usage(self) -> Flow[list[Limit]]:
        return [Limit.read(limit) for limit in (yield from self.call("GET", "/api/v1/usage"))["limits"]]

    def make_token(self, name: str, scope: str, manages: bool, seconds: float | None) -> Flow[Token]:
        """It is not repeated after a lost answer: nobody would know of the first token."""
        wanted = {"name": name, "scope": scope, "expires_in_seconds": seconds}
        if not manages:  # an earlier platform does not know this field
            wanted["manages_tokens"] = False
        body, kind = _json(wanted)
        return Token.read((yield from self.call("POST", Token.PATH, body, {"Content-Type": kind}, NOT_DONE)))

    def rotate_token(self, token: Token, overlap: float) -> Flow[Token]:
        body, kind = _json({"overlap_seconds": overlap})
        return Token.read((yield from self.call("POST", f"{token.path}/rotate", body, {"Content-Type": kind}, NOT_DONE)))

    def secret(self) -> Flow[str]:
        return (yield from self.call("GET", "/api/v1/webhooks/secret"))["secret"]

    def _create(self, path: str, body: bytes, kind: str, key: str) -> Flow[Any]:
        """Create something. With a key, a repetition creates nothing twice."""
        return self.call("POST", path, body, {"Content-Type": kind, "Idempotency-Key": key or str(uuid.uuid4())})

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        again: Sequence[int] = AGAIN,
    ) -> Flow[Any]:
        """The document that the API answers; None if there is none. ``again``: after which statuses to repeat."""
        answer = yield from self._repeated(Request(method, self._url + path, self._headers(headers or {}), body), again)
        if not 200 <= answer.status < 300:
            raise _error(answer)
        return json.loads(answer.body) if answer.body else None

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", **more}

    def _repeated(self, request: Request, again: Sequence[int]) -> Flow[Answer]:
        """The answer to the request, which is repeated after faults of the platform or the network."""
        for tries in range(1, TRIES + 1):
            answer = yield request
            wait = _pause(answer, tries)
            if answer.status not in again or tries == TRIES or wait > PATIENCE:
                break
            yield wait
        return answer


def first_page(kind: type[Stored], filters: Mapping[str, str]) -> str:
    """The path of the first page of a list."""
    return f"{kind.PATH}?{urlencode({'limit': 100, **filters})}"


def _said(item: Item) -> dict[str, Any]:
    """The fields of an edit that have a value."""
    return {name: value for name, value in asdict(item).items() if value}


def _json(document: dict[str, Any]) -> tuple[bytes, str]:
    return json.dumps(document).encode(), "application/json"


def _form(fields: dict[str, Any], images: Sequence[Image]) -> tuple[bytes, str]:
    """A form with files. The platform looks at the bytes of a file only, not at its name and type."""
    texts = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in fields.items()]
    files = [image if isinstance(image, bytes) else Path(image).read_bytes() for image in images]
    parts = [("image", ("image", data, "application/octet-stream")) for data in files]
    return encode_multipart_formdata([*texts, *parts])


def _pause(answer: Answer, tries: int) -> float:
    """Seconds until the next try: those of Retry-After, or else more after each try, with jitter."""
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isdecimal() else min(0.5 * 2**tries, 10.0) * random.uniform(0.5, 1.0)


def _error(answer: Answer) -> Exception:
    if answer.status == 0:
        return NotReached(answer.body.decode())
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = {}
    return ApiError(answer.status, problem if isinstance(problem, dict) else {}, answer.headers.get("X-Request-ID", ""))
