"""The S3 backend on moto, a stand-in for S3 that runs as a server of its own."""

import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import pyvips
import requests
from conftest import APP, children, finished
from django.utils import timezone
from helpers import post, problem, upload
from services import Process, free_port, listening, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BUCKET = "pictures"
KEYS = {"aws_access_key_id": "AKIA0000", "aws_secret_access_key": "stand-in"}


class Moto(Process):
    """A moto server. It keeps data in memory, so after a restart the bucket is empty."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        super().__init__([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)], log)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **KEYS)
        self.env = {
            "MEDIA_BACKEND": "s3",
            "S3_ENDPOINT_URL": self.url,
            "S3_BUCKET": BUCKET,
            "S3_REGION": "us-east-1",
            "S3_ADDRESSING_STYLE": "path",
            "S3_ACCESS_KEY": KEYS["aws_access_key_id"],
            "S3_SECRET_KEY": KEYS["aws_secret_access_key"],
        }

    def start(self) -> None:
        super().start()
        wait_for(lambda: listening(self.port), 60, "moto listens")
        self.client.create_bucket(Bucket=BUCKET)

    def names(self) -> set[str]:
        return {item["Key"] for item in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    moto = Moto(tmp_path_factory.mktemp("moto") / "moto.log")
    moto.start()
    yield moto
    moto.kill()


@pytest.fixture
def moto(server: Moto, settings: Any) -> Moto:
    """An empty bucket, which the API in this process uses."""
    for name, value in server.env.items():
        setattr(settings, name, value)
    for name in server.names():
        server.client.delete_object(Bucket=BUCKET, Key=name)
    return server


@pytest.fixture
def worker(moto: Moto, start: Callable) -> Any:
    # The time limit of the other tests is too short for the time-outs of the S3 client.
    limits = {"TASK_TIME_LIMIT": "30", "TASK_SOFT_TIME_LIMIT": "25", "VISIBILITY_TIMEOUT": "60"}
    return start("edit", **{f"IMAGE_EDITOR_{name}": value for name, value in (moto.env | limits).items()})


def test_an_upload_is_edited_and_downloaded_on_moto(
    api: Any, photo: bytes, moto: Moto, worker: Any, figure: Callable
) -> None:
    document = finished(api, upload(api, photo, "rotate 90, convert to png").json()["id"])
    assert document["status"] == "succeeded", document
    # Attempt 0 if the edit took less than 0.3 s, because then it was never claimed.
    assert re.match(
        rf"{re.escape(moto.url)}/{BUCKET}/results/[-0-9/]+/{document['id']}/[01]\.png\?", document["result_url"]
    )
    download = requests.get(document["result_url"], timeout=5)
    assert download.status_code == 200
    assert download.headers["Content-Type"] == "image/png"
    assert "immutable" in download.headers["Cache-Control"]
    assert "Content-Disposition" not in download.headers
    result = pyvips.Image.new_from_buffer(download.content, "")
    assert (result.width, result.height) == (600, 512)
    assert requests.get(document["image_url"], timeout=5).content == photo
    (child,) = children(worker.popen.pid)
    status = Path(f"/proc/{child}/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    figure("worker_peak_s3_mib", round(peak), "MiB", 250)
    assert peak < 250


def test_moto_refuses_urls_that_are_unsigned(moto: Moto) -> None:
    """moto requires a signature but verifies neither the signature nor its expiry, so the test cannot check more."""
    from image_editor import storage

    storage.put("results/x/1.jpg", b"picture", "image/jpeg")
    storage.put("results/x/page.html", b"<script>", "text/html")
    signed = storage.signed_url("results/x/1.jpg")
    assert requests.get(signed, timeout=5).content == b"picture"
    assert "X-Amz-Expires=3600" in signed
    assert requests.get(signed.partition("?")[0], timeout=5).status_code == 403
    assert storage.public_origin() == moto.url
    page = requests.get(storage.signed_url("results/x/page.html"), timeout=5)
    assert page.headers["Content-Disposition"] == "attachment", "a browser would show the file"


def test_old_edits_are_purged_with_their_images_on_moto(api: Any, photo: bytes, moto: Moto, worker: Any) -> None:
    from image_editor.pipeline import retention

    edit = finished(api, upload(api, photo).json()["id"])
    assert len(moto.names()) == 2
    assert retention.purge(0) == 1
    assert moto.names() == set()
    assert requests.get(edit["result_url"], timeout=5).status_code == 404
    assert api.get(edit["status_url"]).status_code == 404


def test_folders_are_listed_and_removed_on_moto(moto: Moto) -> None:
    from image_editor import storage

    for name in ("results/a/b/1.jpg", "results/a/b/c/2.png", "results/a/3.jpg", "results/ab/1.jpg"):
        storage.put(name, b"picture", "image/jpeg")
    assert set(storage.entries("results/a/")) == {"b/", "3.jpg"}
    storage.delete("results/a/b/", "results/a/3.jpg", "results/a/never/", "results/a/never.jpg")
    assert moto.names() == {"results/ab/1.jpg"}
    with pytest.raises(storage.NotStored):
        storage.entries("results/a/")


def test_files_without_an_edit_are_removed_on_moto(
    api: Any, photo: bytes, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor import storage
    from image_editor.pipeline import orphans
    from image_editor.storage import names

    monkeypatch.setattr(orphans, "SAFE", timedelta(minutes=-2))
    monkeypatch.setattr(orphans, "BACK", timedelta(minutes=5))
    monkeypatch.setattr(orphans, "ROUND_SECONDS", 30)
    kept, lost, now = upload(api, photo).json()["id"], uuid.uuid4(), timezone.now()
    for name in (names.upload(lost, now, "jpg"), f"{names.results(lost, now)}1.jpg"):
        storage.put(name, b"picture", "image/jpeg")
    assert orphans.sweep() == 2
    assert [names.owner(name) for name in moto.names()] == [kept]


def test_while_moto_is_down_uploads_are_refused_and_edits_postponed(
    api: Any, photo: bytes, files: Any, moto: Moto, worker: Any
) -> None:
    from django.db.models.functions import Now

    from image_editor.models import Edit
    from image_editor.pipeline import reconciler

    files.serve("/photo.jpg", photo)
    moto.kill()
    try:
        started = time.monotonic()
        answer = upload(api, photo)
        problem(answer, 503, "storage_unavailable")
        assert answer["Retry-After"]
        assert time.monotonic() - started < 10
        edit = post(api, {"image_url": files.url("/photo.jpg"), "prompt": "sepia"}).json()
        row = Edit.objects.filter(pk=edit["id"])
        wait_for(lambda: row.get().retry_at, 20, "the edit is postponed")
        assert row.get().status == "accepted"
    finally:
        moto.start()
    row.update(retry_at=Now())
    wait_for(lambda: reconciler.reconcile() and row.get().status != "accepted", 15, "the edit is published again")
    assert finished(api, edit["id"])["status"] == "succeeded"


def test_a_missing_object_is_distinguished_from_a_missing_bucket(moto: Moto, settings: Any) -> None:
    from image_editor import storage
    from image_editor.storage import s3

    with pytest.raises(storage.NotStored):
        storage.get("results/x/1.jpg")
    storage.delete("results/x/1.jpg")
    settings.S3_BUCKET = "misspelt"
    del s3._local.store
    for call in (lambda: storage.get("x"), lambda: storage.put("x", b"", "image/png")):
        with pytest.raises(storage.StorageUnavailable, match="NoSuchBucket"):
            call()
    del s3._local.store


def test_boto3_is_loaded_only_for_s3() -> None:
    code = """
from backend import celery
import django, sys
django.setup()
from image_editor import storage
from image_editor.api import v1
from image_editor.pipeline import tasks
storage.public_origin()
assert "boto3" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=APP, check=True)
