"""The platform's own store: authenticated WebDAV, whose public side serves expiring signed URLs. Both are nginx."""

import base64
import contextlib
import hashlib
import threading
import time
from urllib.parse import quote

import requests
from django.conf import settings
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from image_editor.storage import NotStored, StorageUnavailable

TIMEOUT = (3.05, 20)  # seconds to connect, and between two bytes

_local = threading.local()


def _session() -> requests.Session:
    """A session of this thread, made after any fork, so that no connection is shared."""
    if not hasattr(_local, "session"):
        session = requests.Session()
        session.trust_env = False  # no proxy between hosts of one platform
        session.auth = (settings.MEDIA_USER, settings.MEDIA_PASSWORD)
        session.verify = settings.MEDIA_CA or True
        # A second PUT of the same bytes to the same name changes nothing, so all three methods may be repeated.
        retry = Retry(
            total=2,
            backoff_factor=0.2,
            status_forcelist=(502, 503, 504),
            allowed_methods=("GET", "PUT", "DELETE"),
            raise_on_status=False,
            redirect=0,
        )
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        _local.session = session
    return _local.session


def _call(method: str, name: str, **kwargs: object) -> requests.Response:
    url = f"{settings.MEDIA_STORE_URL}/{quote(name)}"
    try:
        response = _session().request(method, url, timeout=TIMEOUT, allow_redirects=False, **kwargs)
    except requests.RequestException as error:
        raise StorageUnavailable(f"{method} {name}: {type(error).__name__}") from error
    if response.status_code == 404:
        raise NotStored(name)
    if not 200 <= response.status_code < 300:
        raise StorageUnavailable(f"{method} {name}: status {response.status_code}")
    return response


def put(name: str, data: bytes, content_type: str) -> None:
    """Store bytes under a name. Raises StorageUnavailable."""
    _call("PUT", name, data=data, headers={"Content-Type": content_type})


def get(name: str) -> bytes:
    """The bytes stored under a name. Raises NotStored or StorageUnavailable."""
    return _call("GET", name).content


def delete(name: str) -> None:
    """Remove a file; one that is gone already is fine. Raises StorageUnavailable."""
    with contextlib.suppress(NotStored):
        _call("DELETE", name)


def signed_url(name: str, now: float | None = None) -> str:
    """A public address of the file, good for MEDIA_URL_TTL seconds. The algorithm is nginx's secure_link."""
    expires = int(now or time.time()) + settings.MEDIA_URL_TTL
    text = f"{expires}/media/{name} {settings.MEDIA_SIGNING_KEY}"
    # MD5 is what secure_link speaks; the key at the end keeps length extension out.
    digest = base64.urlsafe_b64encode(hashlib.md5(text.encode(), usedforsecurity=False).digest()).rstrip(b"=").decode()
    return f"{settings.MEDIA_PUBLIC_URL}/{name}?md5={digest}&expires={expires}"
