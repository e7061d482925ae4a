"""An edit from the request to the pixels, on real services and a real worker."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pyvips
import requests
from celery.exceptions import SoftTimeLimitExceeded
from conftest import children, finished

from image_editor.imaging.engines import Edited

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_uploaded_photo_is_edited(api: Any, photo: bytes, start: Callable) -> None:
    start("edit")
    answer = api.post("/api/v1/edits", {"image": io.BytesIO(photo), "prompt": "黑白，旋转90度"})
    assert answer.status_code == 202, answer.content
    accepted = answer.json()
    assert accepted["status"] in ("accepted", "queued")
    assert accepted["status_url"] == f"/api/v1/edits/{accepted['id']}"

    document = finished(api, accepted["id"])
    assert document["status"] == "succeeded", document
    assert (document["result"]["width"], document["result"]["height"]) == (600, 512)
    download = requests.get(document["result_url"], timeout=5)
    assert download.headers["Content-Type"] == "image/jpeg"
    result = pyvips.Image.new_from_buffer(download.content, "")
    original = pyvips.Image.new_from_buffer(photo, "")
    assert (result.width, result.height) == (original.height, original.width)
    expected = original.recomb([[0.2126, 0.7152, 0.0722]]).rot90()
    assert (result.extract_band(0) - expected).abs().avg() < 3
    assert (result.extract_band(0) - result.extract_band(2)).abs().max() < 4


def test_signed_urls_expire_and_cannot_be_forged(photo: bytes) -> None:
    from image_editor import storage

    storage.put("results/x/1.jpg", photo, "image/jpeg")
    good = storage.signed_url("results/x/1.jpg")
    assert requests.get(good, timeout=5).content == photo
    assert requests.get(good.replace("x/1.jpg", "x/2.jpg"), timeout=5).status_code == 403
    assert requests.get(good.split("?")[0], timeout=5).status_code == 403
    assert requests.get(storage.signed_url("results/x/1.jpg", time.time() - 7200), timeout=5).status_code == 410


def test_an_image_by_url_is_fetched_and_edited(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    start("edit")
    url = files.serve("/photo.jpg", photo)
    body = {"image_url": url, "prompt": "resize to 80x60, convert to png"}
    answer = api.post("/api/v1/edits", body, content_type="application/json")
    assert answer.status_code == 202, answer.content
    document = finished(api, answer.json()["id"])
    assert document["status"] == "succeeded", document
    assert document["result"] | {"bytes": 0} == {"content_type": "image/png", "width": 80, "height": 60, "bytes": 0}
    result = pyvips.Image.new_from_buffer(requests.get(document["result_url"], timeout=5).content, "")
    assert (result.width, result.height, result.get("vips-loader")) == (80, 60, "pngload_buffer")


def test_a_worker_stays_small(api: Any, files: Any, start: Callable) -> None:
    """The most memory that a worker process ever had, over 12-megapixel edits that each need the whole image."""
    noise = pyvips.Image.gaussnoise(1000, 750).resize(4).cast("uchar")
    large = noise.bandjoin([noise, noise]).copy(interpretation="srgb").write_to_buffer(".jpg")
    files.serve("/large.jpg", large)
    limits = {"TASK_TIME_LIMIT": "60", "TASK_SOFT_TIME_LIMIT": "50", "VISIBILITY_TIMEOUT": "150"}
    worker = start("edit", **{f"IMAGE_EDITOR_{name}": seconds for name, seconds in limits.items()})
    for prompt in ("sepia", "rotate 90", "rotate 30", "blur 3, flip vertical", "resize to 1600x1200") * 2:
        edit = api.post(
            "/api/v1/edits", {"image_url": files.url("/large.jpg"), "prompt": prompt}, content_type="application/json"
        ).json()
        assert finished(api, edit["id"])["status"] == "succeeded"
    (child,) = children(worker.popen.pid)
    status = Path(f"/proc/{child}/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    assert peak < 250


class Paid:
    """An engine of a provider, which is paid for each call."""

    quick = False

    def __init__(self) -> None:
        self.calls = 0

    def edit(self, source: bytes, *_: Any) -> Edited:
        self.calls += 1
        return Edited(source, "jpg", "image/jpeg", 2, 2)


@pytest.fixture
def attempted(api: Any, photo: bytes) -> Callable[[], tuple[str, Any]]:
    """Uploads a photo and makes one attempt at its edit in this process. Returns the outcome and the row."""
    from image_editor.models import Edit
    from image_editor.pipeline import attempts

    def _attempted() -> tuple[str, Any]:
        edit_id = api.post("/api/v1/edits", {"image": io.BytesIO(photo), "prompt": "sepia"}).json()["id"]
        ran = attempts.run(edit_id, task_id=edit_id, queue="edit", redelivered=False)
        return ran["outcome"], Edit.objects.get(pk=edit_id)

    return _attempted


def test_a_paid_result_is_stored_as_soon_as_the_media_store_is_back(
    attempted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor import storage
    from image_editor.imaging import engines
    from image_editor.pipeline import attempts

    engine, put, refusals = Paid(), storage.put, [1, 2]

    def refuse(name: str, *rest: Any) -> None:
        if name.startswith("results/") and refusals:
            refusals.pop()
            raise storage.StorageUnavailable("down")
        put(name, *rest)

    monkeypatch.setattr(engines, "get", lambda _: engine)
    monkeypatch.setattr(engine, "check", lambda *_: None, raising=False)
    monkeypatch.setattr(storage, "put", refuse)
    monkeypatch.setattr(attempts, "AGAIN", 0.01)
    outcome, edit = attempted()
    assert (outcome, edit.status, engine.calls, refusals) == ("succeeded", "succeeded", 1, [])


def test_a_paid_result_that_is_not_stored_in_time_counts_as_an_attempt(
    attempted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the engine is paid for at most TASK_ATTEMPTS_MAX times."""
    from image_editor import storage
    from image_editor.imaging import engines
    from image_editor.pipeline import attempts

    engine, put, tries = Paid(), storage.put, []

    def refuse(name: str, *rest: Any) -> None:
        if not name.startswith("results/"):
            return put(name, *rest)
        tries.append(name)
        raise SoftTimeLimitExceeded if len(tries) == 3 else storage.StorageUnavailable("down")

    monkeypatch.setattr(engines, "get", lambda _: engine)
    monkeypatch.setattr(engine, "check", lambda *_: None, raising=False)
    monkeypatch.setattr(storage, "put", refuse)
    monkeypatch.setattr(attempts, "AGAIN", 0.01)
    outcome, edit = attempted()
    assert (outcome, edit.status, edit.faults, len(tries)) == ("postponed", "accepted", 0, 3)


@pytest.mark.parametrize("call", ["get", "put"])
def test_a_media_store_that_takes_the_time_of_the_task_is_no_fault_of_the_edit(
    attempted: Callable, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from image_editor import storage

    real = getattr(storage, call)

    def slow(name: str, *rest: Any) -> Any:
        if call == "get" or name.startswith("results/"):
            raise SoftTimeLimitExceeded
        return real(name, *rest)

    monkeypatch.setattr(storage, call, slow)
    outcome, edit = attempted()
    assert (outcome, edit.status, edit.faults) == ("postponed", "accepted", 1)


@pytest.mark.parametrize("host", ["inside.example", "no-such-name.example"])
def test_an_image_at_a_private_address_is_refused_at_once(api: Any, names: dict[str, str], host: str) -> None:
    """The client cannot tell a name inside from a name that does not exist."""
    from image_editor.pipeline import attempts

    names["inside.example"] = "10.0.0.5"
    body = {"image_url": f"http://{host}/a.jpg", "prompt": "sepia"}
    edit = api.post("/api/v1/edits", body, content_type="application/json").json()
    assert attempts.run(edit["id"], task_id=edit["id"], queue="edit", redelivered=False)["outcome"] == "failed"
    error = api.get(edit["status_url"]).json()["error"]
    assert error == {"code": "image_url_refused", "detail": "the host of the URL has no public address"}
