"""The logic of the client without input and output: what to ask, what to repeat, how long to wait.

A flow is a generator. It yields a Request and is sent the Answer, or it yields seconds to wait. Both clients run the same
flows: one blocks, the other awaits.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from urllib3 import encode_multipart_formdata

from image_editor_client.documents import Batch, Edit, Item
from image_editor_client.errors import ApiError, EditFailed, NotReached, StillRunning

TRIES = 5
AGAIN = (0, 429, 500, 502, 503, 504)  # statuses; 0: no answer
PATIENCE = 60.0  # seconds; a longer Retry-After, such as that of a daily quota, is for the caller to decide
PAUSES = (0.2, 2.0)  # seconds between two looks at an edit: the first, and the longest


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; ``status`` 0: there was none, and ``body`` says why."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Flow = Generator[Request | float, Answer, Any]
Image = Path | str | bytes


class Flows:
    """The flows of one platform and one user."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def submit(self, item: Item, image: Image | None, key: str) -> Flow:
        """Submit an edit of a file, of a URL or of an upload. Returns the edit."""
        fields = _said(item)
        if [image is not None, "image_url" in fields, "upload_id" in fields].count(True) != 1:
            raise ValueError("give one of image, image_url and upload_id")
        if image is None:
            body, kind = _json(fields)
        else:
            texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
            body, kind = encode_multipart_formdata({**texts, "image": _file(image)})
        return Edit.read((yield from self._post("/api/v1/edits", body, kind, key)))

    def submit_batch(self, items: Sequence[Item], callback_url: str, key: str) -> Flow:
        """Submit a batch. Returns the batch."""
        asked = {"items": [_said(item) for item in items]} | ({"callback_url": callback_url} if callback_url else {})
        return Batch.read((yield from self._post("/api/v1/batches", *_json(asked), key)))

    def upload(self, image: Image) -> Flow:
        """Upload an image for several edits. Returns its id. A repetition after a lost answer leaves two uploads."""
        body, kind = encode_multipart_formdata({"image": _file(image)})
        return (yield from self._call("POST", "/api/v1/uploads", {"Content-Type": kind}, body))["id"]

    def get(self, edit_id: str) -> Flow:
        """Returns the edit."""
        return Edit.read((yield from self._call("GET", f"/api/v1/edits/{edit_id}")))

    def get_batch(self, batch_id: str) -> Flow:
        """Returns the batch with its items."""
        return Batch.read((yield from self._call("GET", f"/api/v1/batches/{batch_id}")))

    def cancel(self, edit_id: str) -> Flow:
        """Returns the cancelled edit."""
        return Edit.read((yield from self._call("POST", f"/api/v1/edits/{edit_id}/cancel")))

    def cancel_batch(self, batch_id: str) -> Flow:
        """Returns the batch."""
        return Batch.read((yield from self._call("POST", f"/api/v1/batches/{batch_id}/cancel")))

    def page(self, path: str) -> Flow:
        """Returns the edits of a page, and the path of the next page or None."""
        found = yield from self._call("GET", path)
        return [Edit.read(document) for document in found["items"]], found["next"]

    def secret(self) -> Flow:
        """Returns the webhook secret."""
        return (yield from self._call("GET", "/api/v1/webhooks/secret"))["secret"]

    def wait(self, look: Callable[[], Flow], timeout: float) -> Flow:
        """Look until the edit or batch has ended. Returns it. Raises StillRunning."""
        end, pause = time.monotonic() + timeout, PAUSES[0]
        while not (found := (yield from look())).ended:
            if time.monotonic() + pause > end:
                raise StillRunning(found)
            yield pause
            pause = min(pause * 1.5, PAUSES[1])
        return found

    def download(self, edit: Edit) -> Flow:
        """Returns the bytes of the result. Raises EditFailed if there is none."""
        for fresh in (False, True):  # the signed URL of an edit that was read long ago has expired
            found = (yield from self.get(edit.id)) if fresh or not edit.result_url else edit
            if not found.result_url:
                raise EditFailed(found)
            # Without the token: the URL may lead to another server.
            answer = yield from self._repeated(Request("GET", found.result_url))
            if answer.status == 200:
                return answer.body
        raise _error(answer)

    def run(self, item: Item, image: Image | None, timeout: float) -> Flow:
        """Submit an edit, wait, and return the bytes of the result. Raises EditFailed."""
        edit = yield from self.submit(item, image, "")
        ended = yield from self.wait(lambda: self.get(edit.id), timeout)
        return (yield from self.download(ended))

    def _post(self, path: str, body: bytes, kind: str, key: str) -> Flow:
        """Create something. With a key, a repetition creates nothing twice."""
        headers = {"Content-Type": kind, "Idempotency-Key": key or str(uuid.uuid4())}
        return (yield from self._call("POST", path, headers, body))

    def _call(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Flow:
        """Returns the document. Every request of this client is safe to repeat."""
        sent = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", **(headers or {})}
        answer = yield from self._repeated(Request(method, self._url + path, sent, body))
        if not 200 <= answer.status < 300:
            raise _error(answer)
        return json.loads(answer.body)

    def _repeated(self, request: Request) -> Flow:
        """Returns the answer to the request, which is repeated after faults of the platform or the network."""
        for tries in range(1, TRIES + 1):
            answer = yield request
            wait = _pause(answer, tries)
            if answer.status not in AGAIN or tries == TRIES or wait > PATIENCE:
                break
            yield wait
        return answer


def edits_path(status: str) -> str:
    """The path of the first page of edits."""
    return "/api/v1/edits?" + urlencode({"limit": 100} | ({"status": status} if status else {}))


def _said(item: Item) -> dict[str, Any]:
    """The fields of an edit that have a value."""
    return {name: value for name, value in asdict(item).items() if value}


def _json(document: dict[str, Any]) -> tuple[bytes, str]:
    return json.dumps(document).encode(), "application/json"


def _file(image: Image) -> tuple[str, bytes, str]:
    """The part of a form. The platform looks at the bytes only, not at name and type."""
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    return "image", data, "application/octet-stream"


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
