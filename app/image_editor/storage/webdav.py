"""The platform's own store: nginx with WebDAV for the platform, and with signed URLs that expire for clients."""

import base64
import contextlib
import hashlib
import json
import time
from functools import cache
from urllib.parse import quote, urlsplit

import urllib3
from django.conf import settings

from image_editor.storage import NotStored, StorageUnavailable

TIMEOUT = urllib3.Timeout(connect=3.05, read=10)  # seconds to connect, and between two bytes


@cache
def _pool() -> urllib3.HTTPConnectionPool:
    """Kept connections, shared by the threads of this process. They are made when first needed, after any fork."""
    # The files are read for each new connection, so a renewed certificate needs no restart.
    tls = {
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": settings.MEDIA_CA or None,
        "cert_file": settings.MEDIA_CERTIFICATE,
        "key_file": settings.MEDIA_KEY,
    }
    account = f"{settings.MEDIA_USER}:{settings.MEDIA_PASSWORD}" if settings.MEDIA_PASSWORD else None
    return urllib3.connection_from_url(
        settings.MEDIA_STORE_URL,
        maxsize=8,
        headers=urllib3.make_headers(basic_auth=account),
        timeout=TIMEOUT,
        # All three methods may be repeated: a second PUT writes the same bytes to the same name.
        retries=urllib3.Retry(
            total=2,
            read=1,  # a kept connection that the store has closed; a store that hangs is not asked a third time
            backoff_factor=0.2,
            status_forcelist=(502, 503, 504),
            allowed_methods=("GET", "PUT", "DELETE"),
            raise_on_status=False,
            redirect=False,
        ),
        **(tls if settings.MEDIA_STORE_URL.startswith("https:") else {}),
    )


@cache
def _path() -> str:
    return urlsplit(settings.MEDIA_STORE_URL).path


def _call(method: str, name: str, data: bytes | None = None, content_type: str = "") -> bytes:
    """Send a request and return the body of the answer. Raises NotStored, except for PUT, or StorageUnavailable."""
    pool = _pool()
    headers = {**pool.headers, "Content-Type": content_type} if content_type else pool.headers
    try:
        response = pool.urlopen(method, f"{_path()}/{quote(name)}", body=data, headers=headers, redirect=False)
    except urllib3.exceptions.HTTPError as error:
        raise StorageUnavailable(f"{method} {name}: {type(error).__name__}") from error
    if response.status == 404 and method != "PUT":
        raise NotStored(name)
    if not 200 <= response.status < 300:
        raise StorageUnavailable(f"{method} {name}: status {response.status}")
    return response.data


def put(name: str, data: bytes, content_type: str) -> None:
    """Store bytes under a name. Raises StorageUnavailable."""
    _call("PUT", name, data, content_type)


def get(name: str) -> bytes:
    """The bytes stored under a name. Raises NotStored or StorageUnavailable."""
    return _call("GET", name)


def delete(*names: str) -> None:
    """Remove files and folders, with one request each. What is gone already is fine. Raises StorageUnavailable."""
    for name in names:
        with contextlib.suppress(NotStored):
            _call("DELETE", name)


def entries(folder: str) -> list[str]:
    """What is in the folder, by nginx's autoindex in JSON. Raises NotStored or StorageUnavailable."""
    found = json.loads(_call("GET", folder))
    return [entry["name"] + "/" * (entry["type"] == "directory") for entry in found]


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
