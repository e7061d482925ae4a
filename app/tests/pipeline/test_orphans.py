"""Files without an edit are removed, and files of an edit that is being accepted never are."""

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from conftest import TOKEN
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from helpers import DAY, ended, left, media, upload
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def store(user: Any, services: Services) -> None:
    """An empty store, and an edit: without any edit, nothing is swept."""
    for top in media(services).iterdir():
        shutil.rmtree(top)
    ended(user, timedelta(minutes=30))


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored now is old enough to be swept."""
    from image_editor.pipeline import orphans

    monkeypatch.setattr(orphans, "SAFE", timedelta(minutes=-2))
    monkeypatch.setattr(orphans, "BACK", timedelta(minutes=5))
    monkeypatch.setattr(orphans, "ROUND_SECONDS", 30)


def uploads(services: Services) -> set[Path]:
    return set((media(services) / "uploads").rglob("*.jpg"))


def list_folders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what a sweep lists from now on."""
    from image_editor import storage

    listed: list[str] = []
    real = storage.entries
    monkeypatch.setattr(storage, "entries", lambda folder: listed.append(folder) or real(folder))
    return listed


def minutes(listed: list[str]) -> list[str]:
    """Return the folders of minutes, without those of days."""
    return [folder for folder in listed if folder.count("/") == 3]


def lose_an_upload(api: Any, photo: bytes, services: Services, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The process dies after it has stored an upload, and before it sends the INSERT."""
    from image_editor.pipeline import transitions

    def dies(*_: Any) -> None:
        raise SystemExit

    before = uploads(services)
    with monkeypatch.context() as patch:
        patch.setattr(transitions, "accept", dies)
        with pytest.raises(SystemExit):
            upload(api, photo)
    (lost,) = uploads(services) - before
    return lost


def test_a_lost_upload_is_removed_and_the_others_stay(
    api: Any, photo: bytes, services: Services, monkeypatch: pytest.MonkeyPatch, long_ago: None
) -> None:
    from image_editor.pipeline import orphans

    kept = upload(api, photo).json()
    lost = lose_an_upload(api, photo, services, monkeypatch)
    assert orphans.sweep() == 1
    assert not lost.exists()
    assert requests.get(kept["image_url"], timeout=5).content == photo
    assert orphans.sweep() == 0


def test_an_upload_for_many_edits_is_no_orphan(api: Any, photo: bytes, services: Services, long_ago: None) -> None:
    from image_editor.models import Upload
    from image_editor.pipeline import orphans

    made = api.post("/api/v1/uploads", {"image": io.BytesIO(photo)}).json()
    assert orphans.sweep() == 0
    assert requests.get(made["image_url"], timeout=5).content == photo
    Upload.objects.all().delete()
    services.admin().flushall()  # or the sweep goes on after this minute
    assert orphans.sweep() == 1
    assert requests.get(made["image_url"], timeout=5).status_code == 404


def test_the_sweep_of_the_previous_release_leaves_uploads_for_many_edits_alone(
    api: Any, photo: bytes, services: Services, monkeypatch: pytest.MonkeyPatch, long_ago: None
) -> None:
    """After a rollback. That release knows no uploads but those of edits, and takes other ids for removed edits."""
    from image_editor.models import Edit
    from image_editor.pipeline import orphans, rows
    from image_editor.storage import names

    def former_owner(name: str) -> str:
        *folders, last = name.rstrip("/").split("/")
        result = bool(folders) and folders[0] == "results" and not name.endswith("/")
        found = folders[-1] if result else last.partition(".")[0]
        return found if names.is_id(found) else ""

    made = api.post("/api/v1/uploads", {"image": io.BytesIO(photo)}).json()
    lost = lose_an_upload(api, photo, services, monkeypatch)
    monkeypatch.setattr(names, "owner", former_owner)
    monkeypatch.setattr(orphans, "owners", lambda ids: rows.existing(Edit, ids))
    assert orphans.sweep() == 1
    assert not lost.exists()
    assert requests.get(made["image_url"], timeout=5).content == photo


def test_a_file_younger_than_the_safe_age_is_never_removed(
    api: Any, photo: bytes, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import orphans

    lost = lose_an_upload(api, photo, services, monkeypatch)
    monkeypatch.setattr(orphans, "BACK", timedelta(minutes=5))
    monkeypatch.setattr(orphans, "ROUND_SECONDS", 30)
    assert orphans.sweep() == 0
    assert lost.exists()
    real = timezone.now
    services.admin().flushall()  # or the sweep goes through the day in between
    monkeypatch.setattr(timezone, "now", lambda: real() + orphans.SAFE - timedelta(minutes=1))
    assert orphans.sweep() == 0
    assert lost.exists()
    monkeypatch.setattr(timezone, "now", lambda: real() + orphans.SAFE + timedelta(minutes=2))
    assert orphans.sweep() == 1
    assert not lost.exists()


def test_an_upload_whose_insert_is_not_committed_is_not_touched(user: Any, photo: bytes, services: Services) -> None:
    from image_editor.pipeline import orphans

    before = uploads(services)

    def submit() -> Any:
        try:
            return upload(Client(headers={"Authorization": f"Bearer {TOKEN}"}), photo)
        finally:
            connection.close()

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            connection.cursor().execute("LOCK TABLE edit IN SHARE MODE")  # which an INSERT waits for
            answer = pool.submit(submit)
            wait_for(lambda: uploads(services) - before, what="the upload is stored")
            assert orphans.sweep() == 0
            assert uploads(services) - before
            assert not answer.done()
        document = answer.result(10).json()
    assert requests.get(document["image_url"], timeout=5).content == photo


def test_a_folder_of_results_without_an_edit_is_removed(user: Any, services: Services, long_ago: None) -> None:
    from image_editor.pipeline import orphans

    gone, kept = (ended(user, timedelta(0), files=True) for _ in range(2))
    gone.delete()
    assert orphans.sweep() == 2, "an upload and a folder of results"
    assert (left(services, gone), len(left(services, kept))) == ([], 2)


def test_empty_folders_of_minutes_and_days_are_removed_once_retention_has_passed(
    user: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last minute of a day long ago: an edit that was requeued keeps its minute for a second retention."""
    from image_editor.pipeline import orphans, retention
    from image_editor.storage import names

    now = timezone.now()
    at = (now - 33 * DAY).replace(hour=23, minute=59, second=30)
    _, requeued = (ended(user, now - moment, files=True) for moment in (at, at - timedelta(minutes=5)))
    type(requeued).objects.filter(pk=requeued.pk).update(finished_at=now)
    assert retention.purge(30) == 1

    def folders() -> list[bool]:
        found = [names.minute(at), names.minute(at - timedelta(minutes=5)), names.day(at)]
        return [(media(services) / "results" / name).exists() for name in found]

    monkeypatch.setattr(orphans, "ROUND_SECONDS", 60)
    monkeypatch.setattr(orphans, "BACK", 2 * DAY)
    assert folders() == [True, True, True]
    orphans.sweep()
    assert folders() == [False, True, True]
    assert left(services, requeued)
    type(requeued).objects.filter(pk=requeued.pk).update(finished_at=at)
    assert retention.purge(30) == 1
    monkeypatch.setattr(timezone, "now", lambda: now + 31 * DAY)
    services.admin().flushall()  # or the sweep goes through the month in between
    orphans.sweep()
    assert folders() == [False, False, False]


def test_an_empty_database_removes_nothing(
    api: Any, photo: bytes, services: Services, monkeypatch: pytest.MonkeyPatch, long_ago: None
) -> None:
    """Such as one that will be restored next."""
    from image_editor.models import Edit
    from image_editor.pipeline import orphans

    lost = lose_an_upload(api, photo, services, monkeypatch)
    Edit.objects.all().delete()
    assert orphans.sweep() == 0
    assert lost.exists()


def test_rounds_are_short_and_go_on_where_the_last_one_ended(
    user: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a round that the media store interrupted. No minute is listed twice."""
    from image_editor.pipeline import orphans, tasks
    from image_editor.storage import names

    listed = list_folders(monkeypatch)
    monkeypatch.setattr(orphans, "BACK", timedelta(minutes=100))
    with services.media_down():
        assert tasks.sweep() == 0
    for age in range(80):
        (media(services) / "uploads" / names.day(timezone.now() - age * DAY)).mkdir(parents=True, exist_ok=True)
    listed.clear()
    monkeypatch.setattr(orphans, "ROUND_SECONDS", 0.05)
    rounds = 0
    while len(minutes(listed)) < 2 * 3 * 100 and rounds < 1000:
        orphans.sweep()
        rounds += 1
    monkeypatch.setattr(orphans, "ROUND_SECONDS", 10)
    orphans.sweep()
    swept = minutes(listed)
    assert rounds > 1
    assert len(set(swept)) == len(swept)
    assert 2 * 3 * 100 <= len(swept) <= 2 * 3 * 103 + 6


def test_a_day_without_a_folder_is_passed_in_one_step(
    user: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A young site has none for the week before its first edit, three times over."""
    from image_editor.pipeline import orphans

    lost = media(services) / "uploads" / f"{timezone.now() - 3 * DAY:%Y-%m-%d/%H-%M}" / f"{uuid4()}.jpg"
    lost.parent.mkdir(parents=True)
    lost.touch()
    listed = list_folders(monkeypatch)
    monkeypatch.setattr(orphans, "ROUND_SECONDS", 60)
    assert orphans.sweep() == 1
    assert len(minutes(listed)) == 2 * 24 * 60
    assert len(listed) - len(minutes(listed)) <= 2 * 3 * 8 + 2
