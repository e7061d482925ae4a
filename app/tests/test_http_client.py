"""Addresses that clients name: the address that is checked is the address that is connected to."""

import errno
import gzip
import http.server
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from services import certificates

from image_editor import http_client


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A resolver of our own: ``asked = resolve("name", "1.2.3.4", …)`` answers with each address in turn."""
    real = socket.getaddrinfo

    def _resolve(name: str, *addresses: str) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host != name:
                return real(host, port, *args, **kwargs)
            asked.append(host)
            return real(addresses[min(len(asked), len(addresses)) - 1], port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return _resolve


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that a socket was connected to. Only connections to this machine are really made."""
    seen: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> Any:
        seen.append(address)
        if address[0] != "127.0.0.1":
            raise OSError(errno.ENETUNREACH, "tests stay on this machine")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return seen


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "168.63.129.16", "::1", "fec0::1", "::10.0.0.1"])
def test_a_name_that_leads_inside_is_refused(resolve: Callable, connected: list[Any], address: str) -> None:
    """tests/test_addresses.py has all addresses that are not public."""
    resolve("innocent.example", address)
    with pytest.raises(http_client.Refused, match="no public address"):
        http_client.get("http://innocent.example/a.jpg", 1000, 5)
    with pytest.raises(http_client.Refused, match="no public address"):
        http_client.post("https://innocent.example/", b"", {}, 5)
    assert connected == []


def test_a_name_that_does_not_exist_is_refused_in_the_same_words(names: dict[str, str], connected: list[Any]) -> None:
    names["inside.example"] = "10.0.0.5"
    for host in ("inside.example", "no-such-name.example", "10.0.0.5", "localhost", f"{'a' * 64}.example"):
        with pytest.raises(http_client.Refused) as refused:
            http_client.get(f"http://{host}/", 1000, 5)
        assert str(refused.value) == "the host of the URL has no public address"
    assert connected == []


def test_a_failure_to_resolve_is_no_refusal(names: dict[str, str], settings: Any) -> None:
    """The resolver is down, or does not know the operator's own host at the moment."""
    names["unreachable.example"] = ""
    settings.FETCH_ALLOWED_HOSTS = ["own.example"]
    for host in ("unreachable.example", "own.example"):
        with pytest.raises(http_client.FetchFailed, match="could not be resolved"):
            http_client.get(f"http://{host}/", 1000, 5)


def test_the_public_address_of_several_is_connected_to(connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        hosts = ["10.0.0.5", "8.8.8.8", "127.0.0.1"] if host == "several.example" else [host]
        return [found for address in hosts for found in real(address, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(http_client.FetchFailed):
        http_client.get("http://several.example/", 1000, 5)
    assert {address[0] for address in connected} == {"8.8.8.8"}


def test_the_next_address_is_tried_if_the_first_one_cannot_be_connected_to(
    files: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """Nothing listens on the first. What was sent once is never sent again."""
    settings.FETCH_ALLOWED_HOSTS = ["two.example"]
    real, port = socket.getaddrinfo, files.server_port

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        hosts = ["127.0.0.3", "127.0.0.1"] if host == "two.example" else [host]
        return [found for address in hosts for found in real(address, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    files.serve("/a", b"a")
    assert http_client.get(f"http://two.example:{port}/a", 1000, 5) == b"a"
    assert http_client.post(f"http://two.example:{port}/a", b"", {}, 5) == 200

    def hangs_up(handler: Any) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    files.routes["/b"] = hangs_up
    before = len(files.seen)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: real("127.0.0.1", *args[1:], **kwargs) * 2)
    with pytest.raises(http_client.FetchFailed):
        http_client.post(f"http://two.example:{port}/b", b"", {}, 5)
    assert len(files.seen) == before + 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_ipv6_address_is_connected_to_as_it_was_checked(
    resolve: Callable, connected: list[Any], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr("urllib3.util.connection.HAS_IPV6", True)  # also on a host that has no IPv6
    asked = resolve("six.example", "2606:4700:4700::1111", "::1")
    with pytest.raises(http_client.FetchFailed):
        http_client.get(f"{scheme}://six.example/", 1000, 5)
    assert {address[0] for address in connected} == {"2606:4700:4700::1111"}
    assert asked == ["six.example"]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], threading.Event]]:
    """A resolver that answers nothing until the event is set. The names that it was asked for, and the event."""
    asked: list[str] = []
    end = threading.Event()

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        end.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked, end
    end.set()


def test_a_resolver_that_hangs_is_within_the_deadline(
    hanging: tuple[list[str], threading.Event], settings: Any
) -> None:
    """More look-ups than there are threads: the last ones wait for a thread, and end in time as well."""
    asked, end = hanging
    settings.FETCH_ALLOWED_HOSTS = ["own.example"]
    for host in ("slow.example", "own.example"):
        for _ in range(6):
            started = time.monotonic()
            with pytest.raises(http_client.TooSlow, match=r"longer than 0.2 s"):
                http_client.get(f"http://{host}/", 1000, 0.2)
            assert time.monotonic() - started < 1
    assert len(asked) == 8, "the number of threads has no bound"
    end.set()
    with pytest.raises(http_client.FetchFailed, match="could not be resolved"):
        http_client.get("http://next.example/", 1000, 5)
    assert asked[8:] == ["next.example"], "a name was looked up although nobody waited for it any more"


def test_a_resolver_that_hangs_is_within_a_deadline_of_its_own(
    hanging: tuple[list[str], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread that is not the main thread, there is no other deadline."""
    monkeypatch.setattr(http_client, "RESOLVE_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as thread, pytest.raises(http_client.TooSlow, match="not resolved within"):
        thread.submit(http_client.get, "http://slow.example/", 1000, 10).result(5)


def test_no_timer_is_left_when_a_request_ends() -> None:
    """SIGALRM has no handler any more then, so a timer that went on would end the worker."""
    with http_client.deadline(60):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_name_is_what_the_server_sees_and_what_tls_verifies(
    names: dict[str, str], settings: Any, tmp_path: Path
) -> None:
    """The connection goes to an address. Its certificate must be for the name of the URL."""
    certificates(tmp_path, "server", "DNS:right.example")
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    hosts: list[str] = []

    def do_GET(handler: http.server.BaseHTTPRequestHandler) -> None:
        hosts.append(handler.headers["Host"])
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"image")

    server.RequestHandlerClass = type(
        "Handler", (http.server.BaseHTTPRequestHandler,), {"do_GET": do_GET, "log_message": lambda *_: None}
    )
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    names |= {"right.example": "127.0.0.1", "wrong.example": "127.0.0.1"}
    settings.CA_BUNDLE = str(tmp_path / "ca.crt")
    settings.FETCH_ALLOWED_HOSTS = ["right.example", "wrong.example"]
    port = server.server_port
    try:
        assert http_client.get(f"https://right.example:{port}/", 1000, 5) == b"image"
        with pytest.raises(http_client.FetchFailed, match="SSLError"):
            http_client.get(f"https://wrong.example:{port}/", 1000, 5)
    finally:
        server.shutdown()
        server.server_close()
    assert hosts == [f"right.example:{port}"]
    assert asked == ["right.example", "wrong.example"]


def test_a_name_is_resolved_once(resolve: Callable, connected: list[Any]) -> None:
    """Rebinding: public when it is checked, private when it is connected to."""
    asked = resolve("rebinding.example", "192.0.2.200", "127.0.0.1")  # TEST-NET: refused as private by itself
    with pytest.raises(http_client.Refused):
        http_client.get("http://rebinding.example/", 1000, 5)
    asked2 = resolve("rebinding2.example", "8.8.8.8", "127.0.0.1")
    with pytest.raises(http_client.FetchFailed):
        http_client.get("http://rebinding2.example/", 1000, 1)
    assert (len(asked), len(asked2)) == (1, 1)
    assert {address[0] for address in connected} == {"8.8.8.8"}, "another address than the checked one was opened"


@pytest.mark.parametrize("odd", ["\x07", "\\", " "])
def test_characters_that_parsers_read_differently_are_refused(odd: str) -> None:
    with pytest.raises(http_client.Refused, match="characters"):
        http_client.check_url(f"https://example.org/a{odd}b")


@pytest.mark.parametrize("start", ["https://example.org/", "https://example.org:443/"])
def test_the_length_of_a_url_is_limited(settings: Any, start: str) -> None:
    longest = start.ljust(settings.URL_MAX_CHARS, "a")
    http_client.check_url(longest)
    with pytest.raises(http_client.Refused, match="longer"):
        http_client.check_url(longest + "a")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_of_the_environment_is_not_used(
    resolve: Callable, connected: list[Any], files: Any, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """The proxy listens, and would connect to an address that nobody has checked."""
    proxy_for_everything(files, monkeypatch)
    resolve("innocent.example", "8.8.8.8")
    with pytest.raises(http_client.FetchFailed):
        http_client.get(f"{scheme}://innocent.example/", 1000, 2)
    with pytest.raises(http_client.FetchFailed):
        http_client.post(f"{scheme}://innocent.example/", b"", {}, 2)
    assert {address[0] for address in connected} == {"8.8.8.8"}, "the proxy was used"


def test_a_proxy_of_the_environment_is_not_used_for_the_operators_own_hosts(
    files: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is asked for the whole URL, a server for the path alone."""
    proxy_for_everything(files, monkeypatch)
    assert http_client.get(files.serve("/photo.jpg", photo), 10**6, 5) == photo
    assert [path for path, *_ in files.seen] == ["/photo.jpg"]


def proxy_for_everything(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the test's own server as a proxy in the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, files.url("/"))
        monkeypatch.setenv(name.upper(), files.url("/"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_redirects_are_checked_each(files: Any, photo: bytes) -> None:
    files.serve("/photo.jpg", photo)
    files.serve("/1", b"", status=302, Location="/photo.jpg")
    files.serve("/2", b"", status=307, Location=files.url("/1"))
    files.serve("/3", b"", status=301, Location="/2")
    files.serve("/4", b"", status=301, Location="/3")
    assert http_client.get(files.url("/3"), 10**6, 5) == photo
    with pytest.raises(http_client.Refused, match="3 redirects"):
        http_client.get(files.url("/4"), 10**6, 5)
    files.serve("/circle", b"", status=302, Location="/circle")
    with pytest.raises(http_client.Refused, match="redirects"):
        http_client.get(files.url("/circle"), 10**6, 5)
    for inside in ("http://127.0.0.1/", "http://169.254.169.254/", "file:///etc/passwd", "http://u:p@example.org/"):
        files.serve("/inside", b"", status=302, Location=inside)
        with pytest.raises(http_client.Refused):
            http_client.get(files.url("/inside"), 10**6, 5)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed(files: Any, photo: bytes, status: int) -> None:
    files.serve("/photo.jpg", photo)
    files.serve("/moved", b"", status=status, Location="/photo.jpg")
    assert http_client.get(files.url("/moved"), 10**6, 5) == photo


def test_an_answer_that_is_no_redirect_is_not_followed(files: Any, photo: bytes) -> None:
    files.serve("/photo.jpg", photo, Location="/elsewhere")
    assert http_client.get(files.url("/photo.jpg"), 10**6, 5) == photo


@pytest.mark.parametrize("declared", [True, False])
def test_a_file_of_exactly_the_largest_size_is_read(files: Any, declared: bool) -> None:
    def undeclared(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1000)

    files.serve("/file", b"x" * 1000)
    if not declared:
        files.routes["/file"] = undeclared
    assert len(http_client.get(files.url("/file"), 1000, 5)) == 1000
    with pytest.raises(http_client.TooLarge, match="larger"):
        http_client.get(files.url("/file"), 999, 5)


def test_the_operators_certificate_authorities_are_trusted(settings: Any, tmp_path: Path) -> None:
    """With the file, connections are verified against it. Without it, they are verified against the public ones."""
    settings.CA_BUNDLE = str(tmp_path / "ca.crt")
    assert http_client._session(True).verify is True
    (tmp_path / "ca.crt").touch()
    assert http_client._session(True).verify == settings.CA_BUNDLE


def test_size_is_capped_before_and_after_decompression(files: Any) -> None:
    files.serve("/declared", b"", Content_Length=str(200 * 1024 * 1024))
    with pytest.raises(http_client.TooLarge, match="larger"):
        http_client.get(files.url("/declared"), 1000, 5)
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    files.serve("/bomb", bomb, Content_Encoding="gzip")
    with pytest.raises(http_client.TooLarge, match="larger"):
        http_client.get(files.url("/bomb"), 1_000_000, 5)

    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not files.release.is_set():
            handler.wfile.write(b"x" * 65536)

    files.routes["/endless"] = endless
    with pytest.raises(http_client.TooLarge, match="larger"):
        http_client.get(files.url("/endless"), 1_000_000, 5)


@pytest.mark.parametrize("send", ["get", "post"])
def test_the_body_of_a_redirect_is_not_read(files: Any, photo: bytes, send: str) -> None:
    """A body without an end would fill the memory until the deadline."""
    files.serve("/photo.jpg", photo)

    def endless(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/photo.jpg")
        handler.end_headers()
        while not files.release.is_set():
            handler.wfile.write(b"x" * 65536)

    files.routes["/endless"] = endless
    began = time.monotonic()
    if send == "get":
        assert http_client.get(files.url("/endless"), 10**6, 5) == photo
    else:
        assert http_client.post(files.url("/endless"), b"{}", {}, 5) == 302
    assert time.monotonic() - began < 2


def test_time_is_capped_however_it_is_spent(files: Any) -> None:
    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not files.release.wait(0.1):
            handler.wfile.write(b"x")

    files.routes["/drip"] = drip
    files.serve_held("/silent", b"")
    for path in ("/drip", "/silent"):
        started = time.monotonic()
        with pytest.raises(http_client.TooSlow):
            http_client.get(files.url(path), 1_000_000, 1)
        assert time.monotonic() - started < 2


def test_answers_that_are_no_file_are_failures(files: Any) -> None:
    for status in (204, 403, 404, 500):
        files.serve("/status", b"", status=status)
        with pytest.raises(http_client.FetchFailed, match=str(status)):
            http_client.get(files.url("/status"), 1000, 5)
    for status, headers in ((302, {"Location": "http://[::1"}), (200, {"Content_Length": "9" * 5000})):
        files.serve("/headers", b"", status=status, **headers)
        with pytest.raises(http_client.FetchFailed, match="ValueError"):
            http_client.get(files.url("/headers"), 1000, 5)
    files.routes["/garbage"] = lambda handler: handler.wfile.write(b"garbage\r\n\r\n")
    with pytest.raises(http_client.FetchFailed):
        http_client.get(files.url("/garbage"), 1000, 5)
