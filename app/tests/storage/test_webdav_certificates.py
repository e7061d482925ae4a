"""The media store of the platform: the application shows its certificate, and sends no password."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services import certificates

from image_editor import storage
from image_editor.storage import webdav


@pytest.fixture(autouse=True)
def new_connections() -> Iterator[None]:
    webdav._stores.cache_clear()
    yield
    webdav._stores.cache_clear()


def test_a_file_is_stored_read_and_removed() -> None:
    storage.put("results/a b/猫.jpg", b"content", "image/jpeg")
    assert storage.get("results/a b/猫.jpg") == b"content"
    storage.delete("results/a b/猫.jpg")
    storage.delete("results/a b/猫.jpg")
    with pytest.raises(storage.NotStored):
        storage.get("results/a b/猫.jpg")


def test_a_certificate_of_another_ca_is_refused(settings: Any, tmp_path: Path) -> None:
    certificates(tmp_path, "other")
    settings.MEDIA_CERTIFICATE, settings.MEDIA_KEY = f"{tmp_path}/other.crt", f"{tmp_path}/other.key"
    with pytest.raises(storage.StorageUnavailable):
        storage.put("results/x.jpg", b"content", "image/jpeg")


def test_a_media_host_of_another_ca_is_not_trusted(settings: Any, tmp_path: Path) -> None:
    certificates(tmp_path, "other")
    settings.MEDIA_CA = f"{tmp_path}/ca.crt"
    with pytest.raises(storage.StorageUnavailable):
        storage.get("results/x.jpg")


def test_a_missing_key_makes_the_store_unavailable(settings: Any, tmp_path: Path) -> None:
    settings.MEDIA_KEY = str(tmp_path / "missing")
    with pytest.raises(storage.StorageUnavailable):
        storage.get("results/x.jpg")


def test_a_media_host_of_the_former_release_still_gets_the_password(settings: Any) -> None:
    assert "authorization" not in webdav.stores()[0].pool.headers
    webdav._stores.cache_clear()
    settings.MEDIA_USER, settings.MEDIA_PASSWORD = "application", "p@ss"
    assert webdav.stores()[0].pool.headers["authorization"] == "Basic YXBwbGljYXRpb246cEBzcw=="
