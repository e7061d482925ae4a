"""The HTTP client for addresses that clients name: images to fetch, callbacks to deliver.

Nobody may reach our own network through it. It resolves a name once, refuses addresses that are not public, and
connects to the address that it checked. It bounds schemes, ports, user names, redirects (each one is checked again),
bytes and time, and uses no proxy.
"""

import ipaddress
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from django.conf import settings
from requests.adapters import HTTPAdapter
from urllib3.util import parse_url

from image_editor.addresses import is_public

REDIRECTS_MAX = 3
ADDRESSES_MAX = 3  # of one host
RESOLVE_SECONDS = 5
TIMEOUT = (3.05, 10)  # seconds to connect, and between two bytes
USER_AGENT = "image-editor"
# A name that does not exist is refused in the same words. Else strangers could ask which names our own network has.
NOT_PUBLIC = "the host of the URL has no public address"
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)
# Nothing can interrupt the resolver of the system. So a look-up runs in a thread, and the caller can stop waiting. The
# thread is busy until the resolver gives up. If all threads are busy, a look-up waits for one until its deadline.
_LOOKUPS = ThreadPoolExecutor(8, "look-up")
_REDIRECTS = (301, 302, 303, 307, 308)


class Refused(Exception):
    """We do not open this address. ``str()`` tells the client why."""


class FetchFailed(Exception):
    """The other server did not answer as it should. ``str()`` tells the client how."""


class TooLarge(FetchFailed):
    """The body has more bytes than wanted."""


class TooSlow(FetchFailed):
    """The deadline passed."""


# A URL that all parsers read alike: a host name that ends in a word, no port, no user, no escapes.
_PLAIN = re.compile(r"https?://(?:[a-z0-9][a-z0-9-]{0,62}\.)+[a-z][a-z0-9-]{1,62}/[A-Za-z0-9/._~=&?+-]*")


def check_url(url: str) -> None:
    """Check an address without looking its name up, quickly enough for the API. Raises Refused."""
    if len(url) <= settings.URL_MAX_CHARS and _PLAIN.fullmatch(url) and ".localhost/" not in url:
        return  # most are plain; the worker checks every address in full
    _target(url)


def _target(url: str) -> tuple[str, bool]:
    """The URL as requests sends it, and whether its host is one of the operator's own. Raises Refused."""
    if len(url) > settings.URL_MAX_CHARS:
        raise Refused(f"the URL is longer than {settings.URL_MAX_CHARS} characters")
    if not url.isprintable() or "\\" in url or " " in url:
        raise Refused("the URL has characters that do not belong in one")
    try:
        request = requests.PreparedRequest()
        request.prepare_url(url, None)
        prepared = request.url or ""
        parts = parse_url(prepared)  # requests connects with the same parser, so the two cannot disagree
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError, ValueError) as error:
        raise Refused("the URL is not valid: give http://host/path or https://host/path") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise Refused("the URL must begin with http:// or https:// and a host")
    if parts.auth:
        raise Refused("the URL must not hold a user name or password")
    host = parts.host.strip("[]").rstrip(".").lower()
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    own = host in settings.FETCH_ALLOWED_HOSTS or f"{host}:{port}" in settings.FETCH_ALLOWED_HOSTS
    if not own:
        if port not in (80, 443):
            raise Refused(f"port {port} is not allowed: use 80 or 443")
        if host == "localhost" or host.endswith(".localhost") or _is_private_literal(host):
            raise Refused(NOT_PUBLIC)
    return prepared, own


def _is_private_literal(host: str) -> bool:
    """True for an address, however it is written (127.1, 0x7f000001, ::ffff:10.0.0.1), that is not public."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return False
    return not is_public(address)


def _resolve(host: str, own: bool) -> list[str]:
    """The addresses to connect to, the best first. Raises Refused or FetchFailed."""
    lookup = _LOOKUPS.submit(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    try:
        found = lookup.result(RESOLVE_SECONDS)
    except TimeoutError as error:
        raise TooSlow(f"the name of the host was not resolved within {RESOLVE_SECONDS} s") from error
    except UnicodeError as error:
        raise Refused(NOT_PUBLIC) from error
    except socket.gaierror as error:
        if own or error.errno not in _NO_SUCH_NAME:
            raise FetchFailed("the name of the host could not be resolved") from error
        raise Refused(NOT_PUBLIC) from error
    finally:
        lookup.cancel()  # if it still waits for a thread
    addresses = [address for *_, (address, *_) in found if own or is_public(ipaddress.ip_address(address))]
    if not addresses:
        raise Refused(NOT_PUBLIC)
    return addresses[:ADDRESSES_MAX]


def _not_connected(error: requests.ConnectionError) -> bool:
    """Whether there was no connection, so that nothing was sent."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError))


class _Pinned(HTTPAdapter):
    """Connects to an address that was checked. The Host header has the name, and TLS verifies the name."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own, self.address = own, ""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send to the first of the host's addresses that can be connected to."""
        *others, last = _resolve((parse_url(request.url or "").host or "").strip("[]"), self.own)
        for self.address in others:
            try:
                return super().send(request, *args, **kwargs)
            except requests.ConnectionError as error:
                if not _not_connected(error):
                    raise
        self.address = last
        return super().send(request, *args, **kwargs)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        host, tls = super().build_connection_pool_key_attributes(request, *args, **kwargs)
        request.headers["Host"] = urlsplit(request.url).netloc
        if host["scheme"] == "https":
            tls["server_hostname"] = host["host"]
        return host | {"host": f"[{self.address}]" if ":" in self.address else self.address}, tls


class Session(requests.Session):
    """Leaves redirects to its caller. Without this, it reads the whole body of one, even if it does not follow it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere."""


def _session(own: bool) -> Session:
    session = Session()
    session.mount("http://", _Pinned(own))
    session.mount("https://", _Pinned(own))
    session.headers["User-Agent"] = USER_AGENT
    session.trust_env = False  # a proxy from the environment would connect to an unchecked address
    if os.path.exists(settings.CA_BUNDLE):
        session.verify = settings.CA_BUNDLE
    return session


@contextmanager
def _opened(method: str, url: str, **kwargs: object) -> Iterator[requests.Response]:
    """One request, no redirect followed, body not read. Raises Refused or FetchFailed."""
    prepared, own = _target(url)
    with _session(own) as session:
        try:
            with session.request(
                method, prepared, stream=True, timeout=TIMEOUT, allow_redirects=False, **kwargs
            ) as response:
                yield response
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise TooSlow("the server did not answer in time") from error
        # ValueError: a Location or a Content-Length that cannot be parsed.
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise FetchFailed(f"the server could not be read: {type(error).__name__}") from error


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TooSlow after ``seconds``, even during a read that gets a byte at a time.

    It needs the main thread, where workers run tasks. In another thread only the time-outs of the look-up and of the
    connection apply.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def get(url: str, max_bytes: int, seconds: float) -> bytes:
    """Download at most ``max_bytes`` (after decompression) within ``seconds``. Raises Refused or FetchFailed."""
    with deadline(seconds):
        for _ in range(REDIRECTS_MAX + 1):
            with _opened("GET", url, headers={"Accept": "image/jpeg,image/png,image/webp"}) as response:
                if response.status_code in _REDIRECTS and "Location" in response.headers:
                    url = urljoin(url, response.headers["Location"])
                    continue
                if response.status_code != 200:
                    raise FetchFailed(f"the server answered {response.status_code}")
                return _body(response, max_bytes)
    raise Refused(f"more than {REDIRECTS_MAX} redirects")


def _body(response: requests.Response, max_bytes: int) -> bytes:
    declared = response.headers.get("Content-Length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"the file is larger than {max_bytes} bytes")
    body = bytearray()
    while chunk := response.raw.read(65536, decode_content=True):
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(f"the file is larger than {max_bytes} bytes")
    return bytes(body)


def post(url: str, body: bytes, headers: dict[str, str], seconds: float) -> int:
    """Send a body. Redirects are not followed, the answer's body is not read. Returns the status code.

    Raises Refused or FetchFailed.
    """
    with deadline(seconds), _opened("POST", url, data=body, headers=headers) as response:
        return response.status_code
