"""Prove the platform from outside, as a client: upload a photograph, wait, download the edit, look at its pixels.

The last line is ``smoke: ok edit=<id> seconds=<t>`` or ``smoke: failed layer=<layer>: <what and what to do>``.
The token is read from SMOKE_TOKEN. Only the standard `requests` and Pillow: a client has no more.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from pathlib import Path

import requests
from PIL import Image, ImageChops, ImageStat

PROMPT = "greyscale, rotate 90, resize to 300x200"


class SmokeFailed(Exception):
    """A layer of the platform did not do its part."""

    def __init__(self, layer: str, detail: str) -> None:
        super().__init__(f"layer={layer}: {detail}")


def check_edge(session: requests.Session, url: str) -> None:
    """The edge answers over TLS, and everything behind it says that it is ready."""
    try:
        answer = session.get(f"{url}/healthz", timeout=10)
    except requests.exceptions.SSLError as error:
        raise SmokeFailed("edge", f"TLS at {url} cannot be verified: {error}") from error
    except requests.exceptions.RequestException as error:
        raise SmokeFailed("edge", f"{url} does not answer ({type(error).__name__}): is nginx running on the edge?") from error
    if answer.status_code != 200:
        raise SmokeFailed("edge", f"/healthz answered {answer.status_code}")
    ready = session.get(f"{url}/readyz", timeout=10)
    if ready.status_code != 200:
        try:
            checks = ready.json().get("checks", {})
            detail = ", ".join(f"{name} {result}" for name, result in checks.items() if result != "ok")
        except ValueError:
            detail = ready.text[:200]
        raise SmokeFailed("web", f"/readyz answered {ready.status_code}: {detail or 'no web host answers'}")


def submit(session: requests.Session, url: str, photo: Path) -> dict:
    """Upload the photograph; return the accepted edit."""
    with photo.open("rb") as stream:
        answer = session.post(
            f"{url}/api/v1/edits", files={"image": (photo.name, stream, "image/jpeg")}, data={"prompt": PROMPT}, timeout=30
        )
    if answer.status_code == 401:
        raise SmokeFailed("web", "the token of the user smoke was refused: run playbooks/smoke.yml, which sets it")
    if answer.status_code != 202:
        raise SmokeFailed("web", f"POST /api/v1/edits answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def wait(session: requests.Session, url: str, edit: dict, seconds: float) -> dict:
    """Poll until the edit has ended; return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = session.get(url + edit["status_url"], timeout=10)
        if answer.status_code != 200:
            raise SmokeFailed("web", f"GET {edit['status_url']} answered {answer.status_code}: {answer.text[:300]}")
        edit = answer.json()
        if edit["status"] == "succeeded":
            return edit
        if edit["status"] in ("failed", "cancelled"):
            raise SmokeFailed("worker", f"edit {edit['id']} {edit['status']}: {edit.get('error')}")
        time.sleep(0.2)
    layer = {"accepted": "broker", "queued": "worker"}.get(edit["status"], "worker")
    raise SmokeFailed(
        layer,
        f"edit {edit['id']} is still {edit['status']} after {seconds:g} s: "
        + ("it never reached Redis" if layer == "broker" else "journalctl -u 'image-editor-worker@edit' on the workers"),
    )


def check_pixels(original: Path, content: bytes) -> None:
    """The edit really is the photograph: grey, turned clockwise by 90 degrees, 300 by 200 pixels."""
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
    expected = Image.open(original).convert("L").transpose(Image.Transpose.ROTATE_270).resize((300, 200))
    difference = ImageStat.Stat(ImageChops.difference(expected, result.convert("L"))).mean[0]
    if difference > 8:
        raise SmokeFailed("engine", f"the result differs from the expected edit by {difference:.1f} of 255 on average")


def download(session: requests.Session, edit: dict) -> bytes:
    """Fetch the result by its signed URL, which needs no token, and see that an unsigned one is refused."""
    answer = requests.get(edit["result_url"], verify=session.verify, timeout=10)
    if answer.status_code != 200:
        raise SmokeFailed("media", f"the signed URL answered {answer.status_code}: nginx on the media host")
    unsigned = requests.get(edit["result_url"].partition("?")[0], verify=session.verify, timeout=10)
    if unsigned.status_code != 403:
        raise SmokeFailed("media", f"the same URL without its signature answered {unsigned.status_code}, not 403")
    return answer.content


def main() -> int:
    """Run the proof; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="public URL of the platform")
    parser.add_argument("--ca", help="CA certificate that signed the edge's")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60, help="how long an edit may take")
    parser.add_argument("--report", type=Path, help="also write the last line here")
    arguments = parser.parse_args()

    session = requests.Session()
    session.trust_env = False
    session.verify = arguments.ca or True
    session.headers["Authorization"] = f"Bearer {os.environ['SMOKE_TOKEN']}"
    started = time.monotonic()
    try:
        check_edge(session, arguments.url)
        edit = wait(session, arguments.url, submit(session, arguments.url, arguments.photo), arguments.seconds)
        check_pixels(arguments.photo, download(session, edit))
    except SmokeFailed as error:
        line, status = f"smoke: failed {error}", 1
    else:
        line, status = f"smoke: ok edit={edit['id']} seconds={time.monotonic() - started:.2f}", 0
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(line + "\n")
    print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
