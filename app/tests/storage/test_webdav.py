"""The WebDAV backend on nginx: folders are listed, and removed with one request."""

import uuid
from datetime import datetime, timedelta, timezone

import pytest
from services import Services

from image_editor import storage
from image_editor.storage import names

pytestmark = pytest.mark.usefixtures("services")


@pytest.fixture
def folder() -> str:
    return f"results/{uuid.uuid4()}/"


def test_a_folder_is_listed(folder: str) -> None:
    for name in ("1.jpg", "猫 a.png", "more/1.jpg"):
        storage.put(folder + name, b"picture", "image/jpeg")
    assert set(storage.entries(folder)) == {"1.jpg", "猫 a.png", "more/"}
    with pytest.raises(storage.NotStored):
        storage.entries(f"{folder}never/")


def test_files_and_folders_are_removed_and_others_stay(folder: str, services: Services) -> None:
    for name in ("a/1.jpg", "a/b/2.jpg", "aa/1.jpg", "file.jpg"):
        storage.put(folder + name, b"picture", "image/jpeg")
    storage.delete(f"{folder}a/", f"{folder}file.jpg", f"{folder}never/", f"{folder}never.jpg")
    assert storage.entries(folder) == ["aa/"]
    storage.delete(folder)
    assert not (services.dir / "nginx/media" / folder).exists()


def test_all_results_cannot_be_removed_at_once(folder: str) -> None:
    storage.put(f"{folder}1.jpg", b"picture", "image/jpeg")
    for top in ("", "results/", "results"):
        with pytest.raises(storage.StorageUnavailable):
            storage.delete(top)
    assert storage.get(f"{folder}1.jpg") == b"picture"


def test_the_owner_of_a_file_is_in_its_name() -> None:
    edit_id = str(uuid.uuid4())
    at = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    upload, folder = names.upload(edit_id, at, "jpg"), names.results(edit_id, at)
    assert upload == f"uploads/2025-12-31/23-30/{edit_id}.jpg"
    assert folder == f"results/2025-12-31/23-30/{edit_id}/"
    earlier = (f"uploads/2025/12/31/{edit_id}.jpg", f"results/{edit_id}/1.jpg", f"results/{edit_id}/")
    for name in (upload, folder, f"{folder}1.jpg", *earlier):
        assert names.owner(name) == edit_id, name
    shared = names.shared(edit_id, at, "jpg")
    assert (shared, names.owner(shared)) == (f"uploads/2025-12-31/23-30/shared-{edit_id}.jpg", edit_id)
    for name in ("", "uploads/2026-01-01/", "results/2026-01-01/12-00/notes.txt", "results/1.jpg"):
        assert names.owner(name) == "", name
