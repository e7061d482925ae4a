"""The platform's own stores: nginx with WebDAV for the platform, and with signed URLs that expire for clients.

A write goes to all stores at once, and succeeds if one of them took it. What the others missed is recorded as a gap,
which image_editor.pipeline.healing closes. A read goes to the next store if one has no answer or no such file.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import cache
from urllib.parse import quote, urlsplit

import urllib3
from django.conf import settings
from django.db import Error
from django.utils import timezone

from image_editor.models import MediaGap
from image_editor.storage import NotStored, StorageUnavailable

# Seconds to connect, and between two bytes. With another store there is no reason to wait for long.
TIMEOUT = urllib3.Timeout(connect=3.05, read=10)
TIMEOUT_OF_SEVERAL = urllib3.Timeout(connect=1, read=3)
# Seconds. For so long after a store did not answer, it is asked only if no other store answers.
REST = 10.0
THREADS = 16  # requests to stores at a time, in a process with several stores
# A file is stored before the row of its edit is committed. After this time there is a row, or there will be none.
ROW_WITHIN = timedelta(minutes=5)


class Store:
    """One store. Its connections are kept, and shared by the threads of this process."""

    def __init__(self, url: str, alone: bool) -> None:
        parts = urlsplit(url)
        self.name, self._path = parts.hostname or "", parts.path
        self._rests_until = 0.0  # monotonic
        # The files are read for each new connection, so a renewed certificate needs no restart.
        tls = {
            "cert_reqs": "CERT_REQUIRED",
            "ca_certs": settings.MEDIA_CA or None,
            "cert_file": settings.MEDIA_CERTIFICATE,
            "key_file": settings.MEDIA_KEY,
        }
        account = f"{settings.MEDIA_USER}:{settings.MEDIA_PASSWORD}" if settings.MEDIA_PASSWORD else None
        self.pool = urllib3.connection_from_url(
            url,
            maxsize=8,
            headers=urllib3.make_headers(basic_auth=account),
            timeout=TIMEOUT if alone else TIMEOUT_OF_SEVERAL,
            # All methods may be repeated: a second PUT writes the same bytes to the same name.
            retries=urllib3.Retry(
                total=2,
                connect=None if alone else 0,
                read=1,  # a kept connection that the store has closed; a store that hangs is not asked a third time
                backoff_factor=0.2,
                status_forcelist=(502, 503, 504),
                allowed_methods=("HEAD", "GET", "PUT", "DELETE"),
                raise_on_status=False,
                redirect=False,
            ),
            **(tls if parts.scheme == "https" else {}),
        )

    def __repr__(self) -> str:
        return self.name

    def resting(self) -> bool:
        """Whether the store did not answer a moment ago."""
        return time.monotonic() < self._rests_until

    def _call(
        self, method: str, name: str, data: bytes | None = None, content_type: str = ""
    ) -> urllib3.BaseHTTPResponse:
        """Send a request. Raises NotStored, except for PUT, or StorageUnavailable."""
        if self._rests_until:  # this call tries, and the others wait for what it finds
            self._rests_until = time.monotonic() + REST
        headers = {**self.pool.headers, "Content-Type": content_type} if content_type else self.pool.headers
        path = f"{self._path}/{quote(name)}"
        try:
            response = self.pool.urlopen(method, path, body=data, headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            self._rests_until = time.monotonic() + REST
            raise StorageUnavailable(f"{self.name}: {method} {name}: {type(error).__name__}") from error
        self._rests_until = 0.0
        if response.status == 404 and method != "PUT":
            raise NotStored(name)
        if not 200 <= response.status < 300:
            raise StorageUnavailable(f"{self.name}: {method} {name}: status {response.status}")
        return response

    def put(self, name: str, data: bytes, content_type: str = "") -> None:
        """Store bytes under a name. Raises StorageUnavailable."""
        self._call("PUT", name, data, content_type)

    def get(self, name: str) -> bytes:
        """The bytes stored under a name. Raises NotStored or StorageUnavailable."""
        return self._call("GET", name).data

    def size(self, name: str) -> int:
        """The size of a file in bytes, -1 if it is not there. Raises StorageUnavailable."""
        try:
            return int(self._call("HEAD", name).headers["Content-Length"])
        except NotStored:
            return -1

    def delete(self, names: Iterable[str]) -> None:
        """Remove files and folders, with one request each. What is gone already is fine. Raises StorageUnavailable."""
        for name in names:
            try:
                self._call("DELETE", name)
            except NotStored:
                continue

    def listing(self, folder: str) -> dict[str, int] | None:
        """The names in the folder and their sizes, by nginx's autoindex in JSON; None if there is no such folder.

        A name of a folder ends with a slash. Raises StorageUnavailable.
        """
        try:
            entries = json.loads(self._call("GET", folder).data)
        except NotStored:
            return None
        return {entry["name"] + "/" * (entry["type"] == "directory"): entry.get("size", 0) for entry in entries}


def stores() -> list[Store]:
    """The stores, in the order of the setting."""
    return _stores(tuple(settings.MEDIA_URLS))


@cache
def _stores(urls: tuple[str, ...]) -> list[Store]:
    return [Store(url, alone=len(urls) == 1) for url in urls]


@cache
def _threads() -> ThreadPoolExecutor:
    """They are made when they are first needed, after any fork."""
    return ThreadPoolExecutor(THREADS, "media")


def _by_rest() -> tuple[list[Store], list[Store]]:
    """The stores that are asked first, and those that rest."""
    resting = [store for store in stores() if store.resting()]
    return [store for store in stores() if store not in resting], resting


def _ask_all[Answer](call: Callable[[Store], Answer]) -> dict[Store, Answer]:
    """Ask all stores at once. Returns the answers. Raises StorageUnavailable if no store has one."""
    answers: dict[Store, Answer] = {}
    errors: list[StorageUnavailable] = []

    def ask(store: Store) -> None:
        try:
            answers[store] = call(store)
        except StorageUnavailable as error:
            errors.append(error)

    for group in _by_rest():
        if answers:
            break
        if len(group) > 1:
            list(_threads().map(ask, group))
        else:
            for store in group:
                ask(store)
    if not answers:
        raise errors[0]
    return answers


def _record_gaps(took: Iterable[Store], names: Iterable[str], final_at: datetime) -> None:
    """Record what the stores missed that did not take a write. Raises StorageUnavailable if that is impossible."""
    missed = [store for store in stores() if store not in took]
    gaps = [MediaGap(store=store.name, name=name, final_at=final_at) for store in missed for name in names]
    if not gaps:
        return
    try:
        MediaGap.objects.bulk_create(gaps, ignore_conflicts=True)
    except Error as error:
        raise StorageUnavailable(f"{missed} missed a write, which could not be recorded") from error


def put(name: str, data: bytes, content_type: str) -> None:
    """Store bytes under a name. Raises StorageUnavailable."""
    took = _ask_all(lambda store: store.put(name, data, content_type))
    _record_gaps(took, [name], timezone.now() + ROW_WITHIN)


def get(name: str) -> bytes:
    """The bytes stored under a name. Raises StorageUnavailable, or NotStored if every store says so."""
    problem: Exception = NotStored(name)
    for group in _by_rest():
        for store in group:
            try:
                return store.get(name)
            except NotStored:
                continue
            except StorageUnavailable as error:
                problem = error
    raise problem


def delete(*names: str) -> None:
    """Remove files and folders. What is gone already is fine. Raises StorageUnavailable if no store removes them.

    Remove the rows of the edits in the same transaction: the gaps are then recorded together with it.
    """
    if names:
        took = _ask_all(lambda store: store.delete(names))
        _record_gaps(took, names, timezone.now())


def entries(folder: str) -> list[str]:
    """What is in the folder, on any store that answers. Raises NotStored or StorageUnavailable."""
    found = [listing for listing in _ask_all(lambda store: store.listing(folder)).values() if listing is not None]
    if not found:
        raise NotStored(folder)
    return list({name: None for listing in found for name in listing})


def signed_url(name: str, now: float | None = None) -> str:
    """A public address of the file, good for MEDIA_URL_TTL seconds. The algorithm is nginx's secure_link."""
    expires = int(now or time.time()) + settings.MEDIA_URL_TTL
    text = f"{expires}/media/{name} {settings.MEDIA_SIGNING_KEY}"
    # secure_link uses MD5. The key at the end prevents length extension.
    digest = base64.urlsafe_b64encode(hashlib.md5(text.encode(), usedforsecurity=False).digest()).rstrip(b"=").decode()
    return f"{settings.MEDIA_PUBLIC_URL}/{name}?md5={digest}&expires={expires}&key={_key_name()}"


@cache
def _key_name() -> str:
    """The name of the signing key in URLs. While the key changes, the store knows two keys (role media)."""
    return hashlib.sha256(settings.MEDIA_SIGNING_KEY.encode()).hexdigest()[:8]
