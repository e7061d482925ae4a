"""The clients: one blocks, the other awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Unpack

import urllib3

from image_editor_client.documents import Batch, Edit, Item, Said
from image_editor_client.flows import Answer, Flow, Flows, Image, Request, edits_path


class _Base:
    """``ca`` is the file of the platform's CA, if the system does not trust it. ``pool`` replaces urllib3's, for a proxy."""

    def __init__(self, url: str, token: str, *, ca: str | None = None, pool: urllib3.PoolManager | None = None) -> None:
        self._flows = Flows(url, token)
        timeout = urllib3.Timeout(connect=5, read=60)
        self._pool = pool or urllib3.PoolManager(timeout=timeout, ca_certs=ca, maxsize=16)

    def _send(self, request: Request) -> Answer:
        try:
            answer = self._pool.request(
                request.method, request.url, body=request.body, headers=request.headers, retries=False, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            return Answer(0, {}, str(error).encode())
        return Answer(answer.status, answer.headers, answer.data)


class Client(_Base):
    """Edits images, and blocks meanwhile. Threads may share a client."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

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

    def upload(self, image: Image) -> str:
        """Upload an image once, for several edits. Returns the ``upload_id``."""
        return self._run(self._flows.upload(image))

    def submit_batch(self, items: Sequence[Item], *, callback_url: str = "", key: str = "") -> Batch:
        """Submit 1 to 100 edits, all or none."""
        return self._run(self._flows.submit_batch(items, callback_url, key))

    def get(self, edit_id: str) -> Edit:
        """The edit as it is now."""
        return self._run(self._flows.get(edit_id))

    def get_batch(self, batch_id: str) -> Batch:
        """The batch as it is now."""
        return self._run(self._flows.get_batch(batch_id))

    def wait(self, edit: Edit, timeout: float = 300) -> Edit:
        """The edit once it has ended, in whatever way. Raises StillRunning."""
        return self._run(self._flows.wait(lambda: self._flows.get(edit.id), timeout))

    def wait_batch(self, batch: Batch, timeout: float = 3600) -> Batch:
        """The batch once all items have ended. Raises StillRunning."""
        return self._run(self._flows.wait(lambda: self._flows.get_batch(batch.id), timeout))

    def download(self, edit: Edit) -> bytes:
        """The edited image. Raises EditFailed if there is none."""
        return self._run(self._flows.download(edit))

    def cancel(self, edit: Edit) -> Edit:
        """Cancel an edit. Raises ApiError, code ``already_ended``, if it has succeeded or failed."""
        return self._run(self._flows.cancel(edit.id))

    def cancel_batch(self, batch: Batch) -> Batch:
        """Cancel the items that have not ended."""
        return self._run(self._flows.cancel_batch(batch.id))

    def edits(self, status: str = "") -> Iterator[Edit]:
        """Your edits, the newest first, page by page."""
        path: str | None = edits_path(status)
        while path:
            page, path = self._run(self._flows.page(path))
            yield from page

    def webhook_secret(self) -> str:
        """The secret that `verify` needs."""
        return self._run(self._flows.secret())

    def _run(self, flow: Flow) -> Any:
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = self._send(step) if isinstance(step, Request) else time.sleep(step)


class AsyncClient(_Base):
    """Edits images with ``async`` and ``await``. A request runs in a thread; waiting needs none."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    async def run(self, prompt: str = "", *, image: Image | None = None, timeout: float = 300, **said: Unpack[Said]) -> bytes:
        """See Client.run."""
        return await self._run(self._flows.run(Item(prompt=prompt, **said), image, timeout))

    async def submit(self, prompt: str = "", *, image: Image | None = None, key: str = "", **said: Unpack[Said]) -> Edit:
        """See Client.submit."""
        return await self._run(self._flows.submit(Item(prompt=prompt, **said), image, key))

    async def upload(self, image: Image) -> str:
        """See Client.upload."""
        return await self._run(self._flows.upload(image))

    async def submit_batch(self, items: Sequence[Item], *, callback_url: str = "", key: str = "") -> Batch:
        """See Client.submit_batch."""
        return await self._run(self._flows.submit_batch(items, callback_url, key))

    async def get(self, edit_id: str) -> Edit:
        """See Client.get."""
        return await self._run(self._flows.get(edit_id))

    async def get_batch(self, batch_id: str) -> Batch:
        """See Client.get_batch."""
        return await self._run(self._flows.get_batch(batch_id))

    async def wait(self, edit: Edit, timeout: float = 300) -> Edit:
        """See Client.wait."""
        return await self._run(self._flows.wait(lambda: self._flows.get(edit.id), timeout))

    async def wait_batch(self, batch: Batch, timeout: float = 3600) -> Batch:
        """See Client.wait_batch."""
        return await self._run(self._flows.wait(lambda: self._flows.get_batch(batch.id), timeout))

    async def download(self, edit: Edit) -> bytes:
        """See Client.download."""
        return await self._run(self._flows.download(edit))

    async def cancel(self, edit: Edit) -> Edit:
        """See Client.cancel."""
        return await self._run(self._flows.cancel(edit.id))

    async def cancel_batch(self, batch: Batch) -> Batch:
        """See Client.cancel_batch."""
        return await self._run(self._flows.cancel_batch(batch.id))

    async def edits(self, status: str = "") -> AsyncIterator[Edit]:
        """See Client.edits."""
        path: str | None = edits_path(status)
        while path:
            page, path = await self._run(self._flows.page(path))
            for edit in page:
                yield edit

    async def webhook_secret(self) -> str:
        """See Client.webhook_secret."""
        return await self._run(self._flows.secret())

    async def _run(self, flow: Flow) -> Any:
        answer: Any = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return end.value
            answer = await (asyncio.to_thread(self._send, step) if isinstance(step, Request) else asyncio.sleep(step))
