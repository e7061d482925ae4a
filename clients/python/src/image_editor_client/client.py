"""The clients: one blocks, the other awaits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, Unpack

import urllib3

from image_editor_client.documents import Batch, D, Edit, Item, Limit, Said, Stored, Token, Upload, W
from image_editor_client.flows import PAUSES, Answer, Flow, Flows, Image, Request, T, first_page

AT_ONCE = 32  # connections, and threads of an AsyncClient


class _Base:
    """``ca`` is the file of the platform's CA, if the system does not trust it. ``pool`` replaces urllib3's, for a proxy."""

    def __init__(self, url: str, token: str, *, ca: str | None = None, pool: urllib3.PoolManager | None = None) -> None:
        self._flows = Flows(url, token)
        timeout = urllib3.Timeout(connect=5, read=60)
        self._pool = pool or urllib3.PoolManager(timeout=timeout, ca_certs=ca, maxsize=AT_ONCE)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _send(self, request: Request) -> Answer:
        options: dict[str, Any] = {"retries": False, "redirect": False, "preload_content": not request.stream}
        try:
            answer = self._pool.request(request.method, request.url, body=request.body, headers=request.headers, **options)
            if request.stream and answer.status == 200:
                return Answer(answer.status, answer.headers, b"", _events(answer))
            return Answer(answer.status, answer.headers, answer.data)
        except urllib3.exceptions.HTTPError as error:
            return Answer(0, {}, str(error).encode())


class Client(_Base):
    """Edits images, and blocks meanwhile. Threads may share a client."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def run(self, prompt: str = "", *, image: Image | None = None, timeout: float = 300, **said: Unpack[Said]) -> bytes:
        """Edit an image, wait, and return the edited image. Raises EditFailed, StillRunning or ApiError.

        ``said``: ``image_url``, ``upload_id``, ``operations``, ``output`` and other fields of an Item.
        """
        return self._run(self._flows.run(Item(prompt=prompt, **said), image, timeout))

    def submit(self, prompt: str = "", *, image: Image | None = None, key: str = "", **said: Unpack[Said]) -> Edit:
        """Submit an edit. ``said`` are other fields of an Item.

        ``key`` is the Idempotency-Key; without it, the client makes one for its own repetitions.
        """
        return self._run(self._flows.submit(Item(prompt=prompt, **said), image, key))

    def submit_batch(self, items: Sequence[Item], *, callback_url: str = "", key: str = "") -> Batch:
        """Submit 1 to 100 edits of URLs or uploads, all or none."""
        return self._run(self._flows.submit_batch(items, callback_url, key))

    def submit_images(self, images: Sequence[Image], prompt: str = "", *, key: str = "", **said: Unpack[Said]) -> Batch:
        """Submit 1 to 100 images, all or none, with the same prompt or operations."""
        return self._run(self._flows.submit_images(images, Item(prompt=prompt, **said), key))

    def upload(self, image: Image) -> Upload:
        """Upload an image once. Any number of edits take its id as ``upload_id``."""
        return self._run(self._flows.upload(image))

    def get(self, kind: type[D], its_id: str) -> D:
        """An Edit, Batch or Upload by its id, as it is now."""
        return self._run(self._flows.get(kind, its_id))

    def list(self, kind: type[D], **filters: str) -> Iterator[D]:
        """Your edits, batches, uploads or tokens, the newest first. ``filters``: such as ``status="failed"``."""
        path: str | None = first_page(kind, filters)
        while path:
            page, path = self._run(self._flows.page(kind, path))
            yield from page

    def wait(self, work: W, timeout: float = 300) -> W:
        """The edit or batch once it has ended, in whatever way. Raises StillRunning."""
        return self._run(self._flows.wait(work, timeout))

    def watch(self, work: W) -> Iterator[W]:
        """The edit or batch as it is now, and each time that it has changed, until it has ended."""
        known = ""
        while True:
            for its_id, document in self._run(self._flows.events(work, known)):
                known, work = its_id, type(work).read(document)
                yield work
            if work.ended:
                return
            time.sleep(PAUSES[1])

    def download(self, edit: Edit) -> bytes:
        """The edited image. Raises EditFailed if there is none."""
        return self._run(self._flows.download(edit))

    def cancel(self, work: W) -> W:
        """Cancel an edit or the rest of a batch. Raises ApiError, code ``already_ended``, if the edit has ended otherwise."""
        return self._run(self._flows.cancel(work))

    def delete(self, stored: Stored) -> None:
        """Remove an edit, a batch or an upload with its files, or revoke a token: now and for ever."""
        return self._run(self._flows.delete(stored))

    def usage(self) -> Sequence[Limit]:
        """What is left of your limits. It counts as nothing."""
        return self._run(self._flows.usage())

    def make_token(
        self,
        name: str,
        *,
        scope: str = "write",
        manages_tokens: bool = True,
        expires_in_seconds: float | None = None,
    ) -> Token:
        """Make a token. ``token`` of the answer is shown once."""
        return self._run(self._flows.make_token(name, scope, manages_tokens, expires_in_seconds))

    def rotate_token(self, token: Token, *, overlap_seconds: float = 86400) -> Token:
        """Replace a token. The former one works until the overlap ends."""
        return self._run(self._flows.rotate_token(token, overlap_seconds))

    def webhook_secret(self) -> str:
        """The secret that `verify` needs."""
        return self._run(self._flows.secret())

    def call(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        """Anything else: ``call("POST", "/api/v1/edits/dry_run", {"prompt": "sepia"})``. It is repeated like every request."""
        return self._run(self._flows.call(method, path, *_sent(document)))

    def _run(self, flow: Flow[T]) -> T:
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = self._send(step) if isinstance(step, Request) else time.sleep(step)


class AsyncClient(_Base):
    """Edits images with ``async`` and ``await``. Each request runs in a thread."""

    def __init__(self, url: str, token: str, *, ca: str | None = None, pool: urllib3.PoolManager | None = None) -> None:
        super().__init__(url, token, ca=ca, pool=pool)
        self._threads = ThreadPoolExecutor(AT_ONCE)  # the platform holds answers back, and asyncio's own threads are few

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        super().close()

    async def run(self, prompt: str = "", *, image: Image | None = None, timeout: float = 300, **said: Unpack[Said]) -> bytes:
        """See Client.run."""
        return await self._run(self._flows.run(Item(prompt=prompt, **said), image, timeout))

    async def submit(self, prompt: str = "", *, image: Image | None = None, key: str = "", **said: Unpack[Said]) -> Edit:
        """See Client.submit."""
        return await self._run(self._flows.submit(Item(prompt=prompt, **said), image, key))

    async def submit_batch(self, items: Sequence[Item], *, callback_url: str = "", key: str = "") -> Batch:
        """See Client.submit_batch."""
        return await self._run(self._flows.submit_batch(items, callback_url, key))

    async def submit_images(self, images: Sequence[Image], prompt: str = "", *, key: str = "", **said: Unpack[Said]) -> Batch:
        """See Client.submit_images."""
        return await self._run(self._flows.submit_images(images, Item(prompt=prompt, **said), key))

    async def upload(self, image: Image) -> Upload:
        """See Client.upload."""
        return await self._run(self._flows.upload(image))

    async def get(self, kind: type[D], its_id: str) -> D:
        """See Client.get."""
        return await self._run(self._flows.get(kind, its_id))

    async def list(self, kind: type[D], **filters: str) -> AsyncIterator[D]:
        """See Client.list."""
        path: str | None = first_page(kind, filters)
        while path:
            page, path = await self._run(self._flows.page(kind, path))
            for one in page:
                yield one

    async def wait(self, work: W, timeout: float = 300) -> W:
        """See Client.wait."""
        return await self._run(self._flows.wait(work, timeout))

    async def watch(self, work: W) -> AsyncIterator[W]:
        """See Client.watch."""
        known = ""
        while True:
            events = await self._run(self._flows.events(work, known))
            while event := await self._in_thread(next, events, None):
                known, work = event[0], type(work).read(event[1])
                yield work
            if work.ended:
                return
            await asyncio.sleep(PAUSES[1])

    async def download(self, edit: Edit) -> bytes:
        """See Client.download."""
        return await self._run(self._flows.download(edit))

    async def cancel(self, work: W) -> W:
        """See Client.cancel."""
        return await self._run(self._flows.cancel(work))

    async def delete(self, stored: Stored) -> None:
        """See Client.delete."""
        return await self._run(self._flows.delete(stored))

    async def usage(self) -> Sequence[Limit]:
        """See Client.usage."""
        return await self._run(self._flows.usage())

    async def make_token(
        self,
        name: str,
        *,
        scope: str = "write",
        manages_tokens: bool = True,
        expires_in_seconds: float | None = None,
    ) -> Token:
        """See Client.make_token."""
        return await self._run(self._flows.make_token(name, scope, manages_tokens, expires_in_seconds))

    async def rotate_token(self, token: Token, *, overlap_seconds: float = 86400) -> Token:
        """See Client.rotate_token."""
        return await self._run(self._flows.rotate_token(token, overlap_seconds))

    async def webhook_secret(self) -> str:
        """See Client.webhook_secret."""
        return await self._run(self._flows.secret())

    async def call(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        """See Client.call."""
        return await self._run(self._flows.call(method, path, *_sent(document)))

    async def _run(self, flow: Flow[T]) -> T:
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = await (self._in_thread(self._send, step) if isinstance(step, Request) else asyncio.sleep(step))

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _events(answer: urllib3.BaseHTTPResponse) -> Iterator[tuple[str, Any]]:
    """The events of a stream. One that breaks off ends, as any stream does after a while."""
    known = ""
    with contextlib.closing(answer), contextlib.suppress(urllib3.exceptions.HTTPError):
        for line in answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                known = value
            elif name == "data":
                yield known, json.loads(value)


def _sent(document: Mapping[str, Any] | None) -> tuple[bytes | None, dict[str, str]]:
    """The body and the header fields of a document."""
    return (None, {}) if document is None else (json.dumps(document).encode(), {"Content-Type": "application/json"})
