"""The media store, which keeps uploads and results. IMAGE_EDITOR_MEDIA_BACKEND names the module: webdav or s3.

The contents of a name never change. Clients download by signed URLs, which expire. A name that ends with a slash is a
folder: that of the names that begin with it.
"""

from importlib import import_module
from typing import Protocol
from urllib.parse import urlsplit

from django.conf import settings


class StorageUnavailable(Exception):
    """The media store did not answer, or refused the request. The same call may succeed later."""


class NotStored(Exception):
    """There is no such file."""


class Backend(Protocol):
    def put(self, name: str, data: bytes, content_type: str) -> None: ...

    def get(self, name: str) -> bytes: ...

    def delete(self, *names: str) -> None: ...

    def entries(self, folder: str) -> list[str]: ...

    def signed_url(self, name: str, now: float | None = None) -> str: ...


def _backend() -> Backend:
    return import_module(f"{__name__}.{settings.MEDIA_BACKEND}")  # type: ignore[return-value]


def put(name: str, data: bytes, content_type: str) -> None:
    """Store bytes under a name. Raises StorageUnavailable."""
    _backend().put(name, data, content_type)


def get(name: str) -> bytes:
    """The bytes stored under a name. Raises NotStored or StorageUnavailable."""
    return _backend().get(name)


def delete(*names: str) -> None:
    """Remove files, and folders with all that is in them. What is gone already is fine. Raises StorageUnavailable."""
    _backend().delete(*names)


def entries(folder: str) -> list[str]:
    """The names in the folder, those of folders with a slash at the end. Raises NotStored or StorageUnavailable."""
    return _backend().entries(folder)


def signed_url(name: str, now: float | None = None) -> str:
    """A public address of the file, good for MEDIA_URL_TTL seconds (from `now`, a unix time)."""
    return _backend().signed_url(name, now)


def public_origin() -> str:
    """Scheme, host and port of signed URLs, for a content security policy."""
    parts = urlsplit(signed_url("results/x/1.jpg"))
    return f"{parts.scheme}://{parts.netloc}"
