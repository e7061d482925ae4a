"""Two media hosts: uploads and downloads go on while one is away, and afterwards both hold the same files again."""

import io
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from conftest import finished
from django.db import connection
from django.utils import timezone
from helpers import DAY, ended, problem, upload
from services import MEDIA_HOSTS, Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
FIRST, SECOND = MEDIA_HOSTS
SECOND_HOST = MEDIA_HOSTS[SECOND]


@pytest.fixture(autouse=True)
def hosts(user: Any, services: Services, settings: Any) -> Iterator[None]:
    """Both hosts, empty, and an edit: without any edit, nothing is healed."""
    from image_editor.storage import webdav

    for name in MEDIA_HOSTS:
        shutil.rmtree(services.dir / name / "media", ignore_errors=True)
        (services.dir / name / "media").mkdir(parents=True)
    services.start_media(SECOND)
    settings.MEDIA_URLS = services.media_urls
    webdav._stores.cache_clear()
    ended(user, timedelta(minutes=30))
    yield
    services.stop_media(SECOND)
    (services.dir / SECOND / "full").unlink(missing_ok=True)
    (services.dir / FIRST / "media/identity").unlink(missing_ok=True)  # other tests expect folders alone
    webdav._stores.cache_clear()


@pytest.fixture
def complete(hosts: None) -> None:
    """Both hosts were compared, and are known to hold the same files."""
    heal()


def files(services: Services, name: str) -> dict[str, bytes]:
    """The files on a host by name, with their contents."""
    root = services.dir / name / "media"
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    found.pop("identity", None)
    return found


def rest() -> None:
    """End the time in which a host is left out because it did not answer."""
    from image_editor.storage import webdav

    for store in webdav.stores():
        store._rests_until = 0.0


def heal() -> int:
    """Heal until nothing is left to do. Returns how many gaps were closed."""
    from image_editor.models import MediaGap, MediaStore
    from image_editor.pipeline import healing

    rest()
    closed, end = 0, time.monotonic() + 30
    while time.monotonic() < end:
        closed += healing.heal()
        compared = MediaStore.objects.filter(complete=True).exclude(compared_to="")
        if not MediaGap.objects.exists() and compared.count() == len(MEDIA_HOSTS):
            return closed
    raise AssertionError(list(MediaGap.objects.values()), list(MediaStore.objects.values()))


def gaps() -> set[tuple[str, str]]:
    from image_editor.models import MediaGap

    return set(MediaGap.objects.values_list("store", "name"))


def test_an_upload_is_on_both_hosts_and_nothing_is_recorded(api: Any, photo: bytes, services: Services) -> None:
    assert upload(api, photo).status_code == 202
    assert list(files(services, FIRST).values()) == [photo]
    assert files(services, FIRST) == files(services, SECOND)
    assert gaps() == set()


@pytest.mark.parametrize("name", MEDIA_HOSTS)
def test_while_one_host_is_down_edits_succeed_and_then_it_gets_what_it_missed(
    name: str, api: Any, photo: bytes, services: Services, start: Callable, complete: None
) -> None:
    from image_editor import storage

    start("edit", IMAGE_EDITOR_MEDIA_URLS=",".join(services.media_urls))
    with services.media_down(name):
        edit = finished(api, upload(api, photo).json()["id"])
        assert edit["status"] == "succeeded", edit
        assert storage.get(next(n for n in files(services, FIRST) | files(services, SECOND) if "uploads" in n)) == photo
    assert {store for store, _ in gaps()} == {MEDIA_HOSTS[name]}
    assert heal() == 2, "an upload and a result"
    assert len(files(services, FIRST)) == 2
    assert files(services, FIRST) == files(services, SECOND)


def test_a_frozen_host_delays_one_upload_and_not_the_next(api: Any, photo: bytes, services: Services) -> None:
    upload(api, photo)  # so that the connections to the host are kept
    process = services.media(SECOND)
    process.signal_all(signal.SIGSTOP)
    try:
        seconds = []
        for _ in range(2):
            began = time.monotonic()
            assert upload(api, photo).status_code == 202
            seconds.append(time.monotonic() - began)
    finally:
        process.signal_all(signal.SIGCONT)
    assert 2 < seconds[0] < 8
    assert seconds[1] < 2


def test_a_file_is_read_from_whoever_has_it(services: Services) -> None:
    from image_editor import storage

    name, never = (f"results/{uuid.uuid4()}/1.jpg" for _ in range(2))
    storage.put(name, b"picture", "image/jpeg")
    (services.dir / FIRST / "media" / name).unlink()
    assert storage.get(name) == b"picture"
    assert storage.entries(name.rpartition("/")[0] + "/") == ["1.jpg"]
    with pytest.raises(storage.NotStored):
        storage.get(never)
    with services.media_down(SECOND):
        for missing in (name, never):
            with pytest.raises(storage.StorageUnavailable):
                storage.get(missing)  # the host that is away may have it
    rest()
    assert storage.get(name) == b"picture"


def test_while_both_hosts_are_down_uploads_are_refused(api: Any, photo: bytes, services: Services) -> None:
    with services.media_down(FIRST), services.media_down(SECOND):
        problem(upload(api, photo), 503, "storage_unavailable")
    assert gaps() == set()


def test_a_full_disk_fails_no_upload_and_still_lets_files_be_removed(
    api: Any, user: Any, photo: bytes, services: Services, complete: None
) -> None:
    from image_editor.pipeline import healing, retention

    ended(user, files=True)
    (services.dir / SECOND / "full").touch()
    assert upload(api, photo).status_code == 202
    assert retention.purge(30) == 1
    assert files(services, SECOND) == {}
    assert healing.heal() == 0
    assert len(gaps()) == 1
    (services.dir / SECOND / "full").unlink()
    assert heal() == 1
    assert list(files(services, SECOND).values()) == [photo]


def test_a_file_that_cannot_be_read_delays_no_other(user: Any, services: Services, complete: None) -> None:
    from image_editor.pipeline import healing

    with services.media_down(SECOND):
        edit = ended(user, DAY, files=True)
    unreadable = services.dir / FIRST / "media" / edit.image_url.removeprefix("media:")
    unreadable.unlink()
    unreadable.mkdir()  # nginx redirects to the name of a folder
    rest()
    assert healing.heal() == 2
    assert gaps() == {(SECOND_HOST, edit.image_url.removeprefix("media:"))}
    unreadable.rmdir()


def test_a_whole_file_is_not_replaced_by_a_part_of_it(user: Any, services: Services, complete: None) -> None:
    """The host took the file, but its answer came too late. Then a power failure took the other host's copy."""
    with services.media_down(SECOND):
        edit = ended(user, DAY, files=True)
    name = edit.image_url.removeprefix("media:")
    (services.dir / SECOND / "media" / name).parent.mkdir(parents=True)
    (services.dir / SECOND / "media" / name).write_bytes(b"picture")
    (services.dir / FIRST / "media" / name).write_bytes(b"")
    assert heal() == 4, "three gaps of the host, and one of the other"
    assert files(services, FIRST) == files(services, SECOND)
    assert set(files(services, FIRST).values()) == {b"picture"}


def test_what_was_removed_while_a_host_was_away_never_comes_back(user: Any, services: Services, complete: None) -> None:
    from image_editor.pipeline import retention

    old, young = ended(user, files=True), ended(user, DAY, files=True)
    with services.media_down(SECOND):
        assert retention.purge(30) == 1
        assert len(files(services, SECOND)) == 6
    assert heal() == 3, "an upload, and two folders for results"
    for name in MEDIA_HOSTS:
        assert not [file for file in files(services, name) if str(old.pk) in file]
        assert len([file for file in files(services, name) if str(young.pk) in file]) == 3


def test_what_its_owner_removed_while_a_host_was_away_never_comes_back(
    api: Any, user: Any, services: Services, complete: None
) -> None:
    from image_editor.pipeline import retention

    edit = ended(user, DAY, files=True)
    with services.media_down(SECOND):
        assert api.delete(f"/api/v1/edits/{edit.pk}").status_code == 204
        retention.remove_files()
        assert (len(files(services, FIRST)), len(files(services, SECOND))) == (0, 3)
    assert heal() == 3, "an upload, and two folders for results"
    assert (files(services, FIRST), files(services, SECOND)) == ({}, {})


def test_an_upload_for_many_edits_is_healed_and_stays_removed(
    api: Any, photo: bytes, services: Services, complete: None
) -> None:
    from image_editor.pipeline import retention

    with services.media_down(SECOND):
        kept, removed = (api.post("/api/v1/uploads", {"image": io.BytesIO(photo)}).json() for _ in range(2))
    assert heal() == 2
    assert files(services, FIRST) == files(services, SECOND)
    with services.media_down(SECOND):
        assert api.delete(removed["upload_url"]).status_code == 204
        retention.remove_files()
    assert heal() == 1
    for name in MEDIA_HOSTS:
        assert [file for file in files(services, name) if kept["id"] in file]
        assert not [file for file in files(services, name) if removed["id"] in file]


def test_an_edit_that_is_removed_during_its_healing_does_not_come_back(
    user: Any, services: Services, complete: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention leaves the edit for a later round while a file of it is copied."""
    from image_editor.pipeline import healing, retention

    with services.media_down(SECOND):
        ended(user, files=True)
    copied, purged = healing._copy, []

    def purge() -> None:
        purged.append(retention.purge(30))
        connection.close()

    def copy(*args: Any) -> None:
        thread = threading.Thread(target=purge)
        thread.start()
        thread.join(10)
        copied(*args)

    monkeypatch.setattr(healing, "_copy", copy)
    assert heal() == 3
    assert purged == [0, 0, 0]
    assert len(files(services, SECOND)) == 3
    assert retention.purge(30) == 1
    assert files(services, FIRST) == files(services, SECOND) == {}


def test_a_file_whose_row_is_yet_to_be_committed_is_not_removed(user: Any, services: Services, complete: None) -> None:
    from image_editor import storage
    from image_editor.models import Edit
    from image_editor.pipeline import healing
    from image_editor.storage import names

    edit_id, now = uuid.uuid4(), timezone.now()
    name = names.upload(edit_id, now, "jpg")
    with services.media_down(FIRST):
        storage.put(name, b"picture", "image/jpeg")
    rest()
    assert healing.heal() == 0
    assert gaps() == {(MEDIA_HOSTS[FIRST], name)}
    Edit.objects.create(pk=edit_id, user=user, prompt="sepia", accepted_at=now, image_url=f"media:{name}")
    assert heal() == 1
    assert files(services, FIRST) == files(services, SECOND) == {name: b"picture"}


def test_a_host_that_was_replaced_is_filled_and_nothing_else_is_removed(
    user: Any, services: Services, complete: None
) -> None:
    """Also with a file that the other host has in part, as a power failure leaves it."""
    from image_editor.models import MediaStore

    before = [ended(user, age, files=True) for age in (20 * DAY, DAY, timedelta(0))]
    lost = ended(user, timedelta(0), files=True)
    there = files(services, FIRST)
    shutil.rmtree(services.dir / SECOND / "media")
    (services.dir / SECOND / "media").mkdir()
    damaged = next(name for name in there if str(before[0].pk) in name)
    (services.dir / FIRST / "media" / damaged).write_bytes(b"")
    (services.dir / SECOND / "media" / damaged).parent.mkdir(parents=True)
    (services.dir / SECOND / "media" / damaged).write_bytes(there[damaged])
    without = {name for name in there if str(lost.pk) in name}
    assert without
    lost.delete()  # the sweep decides about its files, in a day
    assert heal() == len(there) - len(without) - 1
    assert files(services, SECOND) == {name: data for name, data in there.items() if name not in without}
    MediaStore.objects.filter(name=MEDIA_HOSTS[FIRST]).update(complete=False, compared_to="")
    assert heal() == 1
    assert files(services, FIRST) == there


def test_a_host_that_returns_after_others_forgot_it_loses_what_was_removed(
    user: Any, services: Services, settings: Any, complete: None
) -> None:
    """For example a host that was taken out of the inventory for a month."""
    from image_editor.pipeline import healing, retention

    removed, kept = ended(user, 40 * DAY, files=True), ended(user, DAY, files=True)
    settings.MEDIA_URLS = services.media_urls[:1]
    assert healing.heal() == 0
    assert gaps() == set()
    assert retention.purge(35) == 1
    added = ended(user, timedelta(0), files=True)
    settings.MEDIA_URLS = services.media_urls
    heal()
    assert files(services, FIRST) == files(services, SECOND)
    there = " ".join(files(services, SECOND))
    assert [str(edit.pk) in there for edit in (removed, kept, added)] == [False, True, True]


def test_what_nobody_recorded_is_found_an_hour_later(
    user: Any, services: Services, complete: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example files of a process that did not know the second host yet."""
    from image_editor.pipeline import healing

    ended(user, timedelta(0), files=True)
    shutil.rmtree(services.dir / SECOND / "media/results")
    healing.heal()
    assert gaps() == set()
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + healing.LAG + timedelta(minutes=1))
    healing.heal()
    assert heal() == 2
    assert files(services, FIRST) == files(services, SECOND)


def test_files_that_a_restore_brought_back_on_one_host_get_to_the_other(
    user: Any, services: Services, complete: None
) -> None:
    from image_editor.pipeline import after_restore

    ended(user, 2 * DAY, files=True)
    shutil.rmtree(services.dir / SECOND / "media/results")
    assert heal() == 0
    after_restore.reconcile()
    assert heal() == 2
    assert files(services, FIRST) == files(services, SECOND)


def test_after_a_restore_no_file_is_removed(user: Any, services: Services, complete: None) -> None:
    """The wrong backup may have been restored. Its database does not know the file, which one host alone has."""
    from image_editor.pipeline import after_restore

    edit = ended(user, 2 * DAY, files=True)
    name = edit.image_url.removeprefix("media:")
    (services.dir / FIRST / "media" / name).unlink()
    edit.delete()
    after_restore.reconcile()
    assert heal() == 0
    assert name in files(services, SECOND)


def test_an_empty_database_removes_nothing(user: Any, services: Services, complete: None) -> None:
    from image_editor import storage
    from image_editor.models import Edit
    from image_editor.pipeline import healing

    edit = ended(user, files=True)
    with services.media_down(SECOND):
        storage.delete(edit.image_url.removeprefix("media:"))
    rest()
    Edit.objects.all().delete()
    assert healing.heal() == 0
    assert len(files(services, SECOND)) == 3


def test_the_collector_reports_how_far_a_host_is_behind(api: Any, photo: bytes, services: Services) -> None:
    from image_editor.observability.collector import Tables

    def seen() -> dict[tuple[str, str], float]:
        media = "image_editor_media_"
        return {(n.removeprefix(media), *labels): v for n, labels, v in Tables().look() if n.startswith(media)}

    assert seen() == {}
    heal()
    with services.media_down(SECOND):
        upload(api, photo)
    assert seen() == {
        ("missing", MEDIA_HOSTS[FIRST]): 0,
        ("complete", MEDIA_HOSTS[FIRST]): 1,
        ("missing", SECOND_HOST): 1,
        ("complete", SECOND_HOST): 1,
    }


def test_two_hundred_files_are_healed_within_a_minute(
    user: Any, services: Services, start: Callable, figure: Callable, complete: None
) -> None:
    """By worker and scheduler, as on the platform. The host has a new disk, and missed half of the uploads."""
    for _ in range(33):
        ended(user, 2 * DAY, files=True)
    with services.media_down(SECOND):
        for _ in range(34):
            ended(user, timedelta(0), files=True)
        shutil.rmtree(services.dir / SECOND / "media")
    began = time.monotonic()
    start("callback,maintenance", IMAGE_EDITOR_MEDIA_URLS=",".join(services.media_urls))
    start(beat=True, IMAGE_EDITOR_MEDIA_URLS=",".join(services.media_urls))
    there = files(services, FIRST)
    assert len(there) == 201
    wait_for(lambda: files(services, SECOND) == there, 120, "the host has every file")
    figure("media_heal_seconds", round(time.monotonic() - began, 1), "s", 60)
