"""Prove the platform from outside, as a client: edit an image, edit a batch of ten, receive a callback, try private addresses.

Prints a line for each part. The last line is ``smoke: ok edit=<id> seconds=<t>`` (of the single edit) or
``smoke: failed layer=<layer>: <what failed and what to do>``. The token is in the environment variable SMOKE_TOKEN.

The batch fetches its images by URL, and a callback needs a server to call. With ``--receiver HOST:PORT`` this script is that
server while it runs. The workers must be able to reach the address, and must be allowed to open it (FETCH_ALLOWED_HOSTS).
SMOKE_CALLBACK_KEY is the key of the callbacks' signatures. Without ``--receiver``, the batch fetches its images from the
platform's public address, and the callback is not tested.

Needs only the standard library, `requests` and Pillow, as any client would.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import json
import os
import queue
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from PIL import Image, ImageChops, ImageStat
from requests.adapters import HTTPAdapter

PROMPT = "greyscale, rotate 90, resize to 300x200"
BATCH_SIZE = 10
# URLs that must be refused: cloud metadata, a local service, a private address in another notation.
PRIVATE_URLS = ("http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:6379/", "http://[::ffff:10.0.0.1]/cat.jpg")
# A name that every Debian host resolves to its own loopback address.
PRIVATE_NAME_URL = "http://ip6-loopback/cat.jpg"
# Headers of a request without the client's token: a signed URL needs none, and may lead to another service.
WITHOUT_TOKEN = {"Authorization": None}


class SmokeFailed(Exception):
    """A layer of the platform failed."""

    def __init__(self, layer: str, detail: str) -> None:
        super().__init__(f"layer={layer}: {detail}")


class Receiver(ThreadingHTTPServer):
    """Serves the image and receives callbacks, under paths that cannot be guessed."""

    daemon_threads = True

    def __init__(self, address: str, photo: bytes) -> None:
        host, _, port = address.rpartition(":")
        try:
            super().__init__((host, int(port)), _Handler)
        except (OSError, ValueError) as error:
            raise SmokeFailed(
                "controller", f"cannot listen on {address} ({error}): free it, or change smoke_receiver in the inventory"
            ) from error
        self.photo = photo
        self.photo_path, self.callback_path = (f"/{secrets.token_urlsafe(16)}" for _ in range(2))
        self.base = f"http://{address}"
        self.callbacks: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 10  # seconds

    def do_GET(self) -> None:
        self._answer(*((200, self.server.photo) if self.path == self.server.photo_path else (404, b"")))

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != self.server.callback_path or length > 2**20:
            self._answer(404, b"")
            return
        self.server.callbacks.put((dict(self.headers), self.rfile.read(length)))
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def listening(address: str | None, photo: bytes) -> Iterator[Receiver | None]:
    """Run a receiver during the block. Yields None if there is no address."""
    if not address:
        yield None
        return
    with Receiver(address, photo) as receiver:
        threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True).start()
        yield receiver
        receiver.shutdown()


class _SystemTrust(HTTPAdapter):
    """Trusts the system's CAs. requests adds the file that ``verify`` names."""

    def init_poolmanager(self, *args: object, **kwargs: object) -> None:
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **kwargs)


def client(token: str, ca: str | None = None, connections: int = 10) -> requests.Session:
    """Return a session with the user's token. It trusts the system's CAs and ``ca``, because either may have signed."""
    session = requests.Session()
    session.trust_env = False
    session.verify = ca or True
    session.mount("https://", _SystemTrust(pool_maxsize=connections))
    session.headers["Authorization"] = f"Bearer {token}"
    return session


def check_edge(session: requests.Session, url: str) -> None:
    """Check that the edge answers over TLS, and that a web host behind it reads the database."""
    try:
        answer = session.get(f"{url}/healthz", timeout=10)
    except requests.exceptions.SSLError as error:
        raise SmokeFailed("edge", f"TLS at {url} cannot be verified: {error}") from error
    except requests.exceptions.RequestException as error:
        raise SmokeFailed("edge", f"{url} does not answer ({type(error).__name__}): check nginx on the edge") from error
    if answer.status_code != 200:
        raise SmokeFailed("edge", f"/healthz answered {answer.status_code}")
    edits = session.get(f"{url}/api/v1/edits?limit=1", timeout=10)
    check_token(edits)
    if edits.status_code != 200:
        raise SmokeFailed("web", f"GET /api/v1/edits answered {edits.status_code}: {edits.text[:300] or 'no web host answers'}")


def check_token(answer: requests.Response) -> None:
    """Check that the token was accepted."""
    if answer.status_code == 401:
        raise SmokeFailed("web", "the token of user smoke was refused: run playbooks/smoke.yml, which sets the token")


def post(session: requests.Session, url: str, **body: object) -> dict:
    """POST a request that must be accepted; return the answer."""
    answer = session.post(url, timeout=30, **body)
    check_token(answer)
    if answer.status_code != 202:
        raise SmokeFailed("web", f"POST {url} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def edit_photo(session: requests.Session, url: str, photo: bytes, seconds: float) -> dict:
    """Upload the image, wait, and check the pixels of the result; return the edit."""
    upload = {"files": {"image": ("photo.jpg", photo, "image/jpeg")}, "data": {"prompt": PROMPT}}
    edit = wait(session, url, post(session, f"{url}/api/v1/edits", **upload), seconds)
    check_pixels(photo, download(session, edit))
    unsigned = session.get(edit["result_url"].partition("?")[0], headers=WITHOUT_TOKEN, timeout=10)
    if unsigned.status_code != 403:
        raise SmokeFailed("media", f"the result's URL without its signature answered {unsigned.status_code}, not 403")
    return edit


def wait(session: requests.Session, url: str, edit: dict, seconds: float) -> dict:
    """Poll until the edit or batch has ended; return its document."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = session.get(url + edit["status_url"], timeout=10)
        if answer.status_code != 200:
            raise SmokeFailed("web", f"GET {edit['status_url']} answered {answer.status_code}: {answer.text[:300]}")
        edit = answer.json()
        if edit["status"] in ("succeeded", "finished"):
            return edit
        if edit["status"] in ("failed", "cancelled"):
            raise SmokeFailed("worker", f"edit {edit['id']} {edit['status']}: {edit.get('error')}")
        time.sleep(0.2)
    layer = {"accepted": "broker", "queued": "worker"}.get(edit["status"], "worker")
    raise SmokeFailed(
        layer,
        f"{edit['status_url']} is still {edit['status']} after {seconds:g} s: "
        + ("it never reached Redis" if layer == "broker" else "see journalctl -u 'image-editor-worker@*' on the workers"),
    )


def check_pixels(original: bytes, content: bytes) -> None:
    """Check that the result is the image in grey, rotated clockwise by 90 degrees, 300 by 200 pixels."""
    try:
        result = Image.open(io.BytesIO(content))
        result.load()
    except OSError as error:
        raise SmokeFailed("engine", f"the result does not decode: {error}") from error
    if result.size != (300, 200):
        raise SmokeFailed("engine", f"the result is {result.size[0]}x{result.size[1]}, not 300x200")
    rgb = result.convert("RGB")
    red, green, blue = rgb.split()
    if max(ImageChops.difference(red, green).getextrema()[1], ImageChops.difference(green, blue).getextrema()[1]) > 2:
        raise SmokeFailed("engine", "the result is not grey")
    expected = Image.open(io.BytesIO(original)).convert("L").transpose(Image.Transpose.ROTATE_270).resize((300, 200))
    difference = ImageStat.Stat(ImageChops.difference(expected, result.convert("L"))).mean[0]
    if difference > 8:
        raise SmokeFailed("engine", f"the result differs from the expected edit by {difference:.1f} of 255 on average")


def download(session: requests.Session, edit: dict) -> bytes:
    """Download the result by its signed URL, which needs no token."""
    answer = session.get(edit["result_url"], headers=WITHOUT_TOKEN, timeout=10)
    if answer.status_code != 200:
        raise SmokeFailed("media", f"the signed URL answered {answer.status_code}: check nginx on the edge and on the media host")
    return answer.content


def edit_batch(session: requests.Session, url: str, photo: bytes, source: str, receiver: Receiver | None, seconds: float) -> dict:
    """Submit ten edits of an image by URL in one request, and check every result. Return the batch."""
    body = {"items": [{"image_url": source, "prompt": PROMPT}] * BATCH_SIZE}
    if receiver:
        body["callback_url"] = receiver.base + receiver.callback_path
    batch = wait(session, url, post(session, f"{url}/api/v1/batches", json=body), seconds)
    if len(batch["items"]) != BATCH_SIZE:
        raise SmokeFailed("web", f"the batch has {len(batch['items'])} items, not {BATCH_SIZE}")
    for item in batch["items"]:
        if item["status"] != "succeeded":
            raise SmokeFailed(
                "worker",
                f"item {item['id']} {item['status']}: {item['error']}; its image is at {source.partition('?')[0]}, which the "
                "workers must reach; a private address must be in application_settings.FETCH_ALLOWED_HOSTS",
            )
        check_pixels(photo, download(session, item))
    return batch


def check_callback(receiver: Receiver, batch: dict, key: str, seconds: float) -> None:
    """Check that a callback reports the end of the batch, with a fresh signature of our key."""
    try:
        headers, body = receiver.callbacks.get(timeout=seconds)
    except queue.Empty:
        raise SmokeFailed(
            "callback",
            f"no callback within {seconds:g} s: the workers must reach {receiver.base}; see "
            "journalctl -u 'image-editor-worker@callback' on the workers",
        ) from None
    at, _, signature = headers.get("X-Signature", "").removeprefix("t=").partition(",v1=")
    expected = hmac.new(key.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, expected):
        raise SmokeFailed("callback", "the signature does not match the inventory's callback_signing_key")
    if abs(time.time() - int(at)) > 300:
        raise SmokeFailed("callback", f"the signature has the time {at}: the clocks of worker and controller differ")
    told = json.loads(body)
    if (told["event"], told["batch"]["id"], told["batch"]["finished"]) != ("batch.finished", batch["id"], BATCH_SIZE):
        raise SmokeFailed("callback", f"the callback has other contents: {body[:300]!r}")


def check_refusals(session: requests.Session, url: str, seconds: float) -> None:
    """Check that private addresses are refused: by the API if the URL has the address, by the worker if it has a name."""
    for private in PRIVATE_URLS:
        answer = session.post(f"{url}/api/v1/edits", json={"image_url": private, "prompt": PROMPT}, timeout=30)
        if answer.status_code != 422 or "image_url" not in answer.text:
            raise SmokeFailed("web", f"the image_url {private} was answered {answer.status_code}, not 422: {answer.text[:300]}")
    edit = post(session, f"{url}/api/v1/edits", json={"image_url": PRIVATE_NAME_URL, "prompt": PROMPT})
    try:
        wait(session, url, edit, seconds)
    except SmokeFailed as error:
        if "image_url_refused" not in str(error):
            raise
    else:
        raise SmokeFailed("worker", f"{PRIVATE_NAME_URL}, an address of the worker itself, was fetched")


def prove(session: requests.Session, arguments: argparse.Namespace) -> Iterator[str]:
    """Run the parts in turn; yield a line for each."""
    url, photo = arguments.url, arguments.photo.read_bytes()
    check_edge(session, url)
    started = time.monotonic()
    edit = edit_photo(session, url, photo, arguments.seconds)
    verdict = f"smoke: ok edit={edit['id']} seconds={time.monotonic() - started:.2f}"
    yield "smoke: image uploaded, edited and downloaded; unsigned URL refused"
    check_refusals(session, url, arguments.seconds)
    yield f"smoke: {len(PRIVATE_URLS) + 1} private addresses refused"
    with listening(arguments.receiver, photo) as receiver:
        started = time.monotonic()
        source = receiver.base + receiver.photo_path if receiver else edit["image_url"]
        batch = edit_batch(session, url, photo, source, receiver, arguments.seconds)
        yield f"smoke: batch of {BATCH_SIZE} edited in {time.monotonic() - started:.2f} s"
        if receiver:
            check_callback(receiver, batch, os.environ["SMOKE_CALLBACK_KEY"], arguments.seconds)
            yield "smoke: callback received, its signature verified"
        else:
            yield "smoke: callback NOT tested: the inventory has no smoke_receiver that workers can reach"
    yield verdict


def main() -> int:
    """Run the smoke test; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="public URL of the platform")
    parser.add_argument("--ca", help="CA certificate to trust besides the system's")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--receiver", metavar="HOST:PORT", help="address of this machine that the workers can reach")
    parser.add_argument("--seconds", type=float, default=60, help="how long an edit, a batch or a callback may take")
    parser.add_argument("--report", type=Path, help="file to write the lines to")
    arguments = parser.parse_args()

    session = client(os.environ["SMOKE_TOKEN"], arguments.ca)
    lines: list[str] = []
    status = 0
    try:
        for line in prove(session, arguments):
            print(line, flush=True)
            lines.append(line)
    except SmokeFailed as error:
        lines.append(f"smoke: failed {error}")
        print(lines[-1])
        status = 1
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text("\n".join(lines) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
