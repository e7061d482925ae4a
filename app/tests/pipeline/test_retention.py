"""Edits that ended long ago are removed with everything that belongs to them, and nothing else is."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests
from conftest import APP
from django.db import connection
from django.utils import timezone
from helpers import DAY, ended, left, media, rows_read
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
OLD = 31 * DAY


def ids() -> set[Any]:
    from image_editor.models import Edit

    return set(Edit.objects.values_list("pk", flat=True))


def manage(services: Services, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", *args]
    return subprocess.run(command, cwd=APP, env=services.env, capture_output=True, text=True, timeout=60)


def test_old_edits_are_purged_with_their_images(api: Any, user: Any, services: Services) -> None:
    from django.contrib.sessions.models import Session

    for key, days in ("old", -1), ("new", 1):
        Session.objects.create(session_key=key, expire_date=timezone.now() + timedelta(days=days))
    edits = [ended(user, age, files=True) for age in (OLD, 29 * DAY)]
    documents = [api.get(f"/api/v1/edits/{edit.pk}").json() for edit in edits]  # from now on also in the cache
    urls = [(document["image_url"], document["result_url"]) for document in documents]
    with services.media_down():
        assert manage(services, "purge").returncode != 0, "it does not say that files are left"
    assert ids() == {edits[1].pk}
    assert manage(services, "purge").stdout.strip() == "0 edits removed"
    assert [requests.get(url, timeout=5).status_code for url in urls[0]] == [404, 404]
    assert [requests.get(url, timeout=5).status_code for url in urls[1]] == [200, 200]
    assert [api.get(f"/api/v1/edits/{edit.pk}").status_code for edit in edits] == [404, 200]
    assert [session.session_key for session in Session.objects.all()] == ["new"]


def test_hashes_of_revoked_tokens_are_kept_for_400_days(user: Any) -> None:
    from image_editor.models import RevokedToken
    from image_editor.pipeline import retention

    for digest, days in (("old", 401), ("young", 399)):
        RevokedToken.objects.create(digest=digest)
        RevokedToken.objects.filter(digest=digest).update(revoked_at=timezone.now() - days * DAY)
    retention.purge_round(30)
    assert [row.digest for row in RevokedToken.objects.all()] == ["young"]


def test_the_files_of_every_attempt_are_removed_with_their_folder(user: Any, services: Services) -> None:
    """Also the files of a worker of an earlier release."""
    from image_editor import storage
    from image_editor.pipeline import retention

    edit, young, failed = ended(user, files=True), ended(user, DAY, files=True), ended(user)
    earlier = ended(user, image_url="media:uploads/2026/01/01/x.jpg", status="succeeded", attempt=1, result_name="x")
    storage.put("uploads/2026/01/01/x.jpg", b"picture", "image/jpeg")
    for some in (edit, earlier):
        storage.put(f"results/{some.pk}/1.jpg", b"picture", "image/jpeg")
    assert len(left(services, edit)) == 3
    assert retention.purge(30) == 3
    assert ids() == {young.pk}
    assert [left(services, some) for some in (edit, failed, earlier)] == [[], [], []]
    assert not (media(services) / "uploads/2026/01/01/x.jpg").exists()
    assert len(left(services, young)) == 2


def test_what_is_unfinished_or_ended_later_stays_and_does_not_hold_back_others(user: Any, services: Services) -> None:
    from image_editor.pipeline import retention

    first = ended(user, OLD * 2, files=True, finished_at=timezone.now())
    second = ended(user, OLD * 2, status="queued", finished_at=None)
    ended(user)
    assert retention.purge_round(30) == 1
    assert ids() == {first.pk, second.pk}
    assert len(left(services, first)) == 2


def test_a_requeue_during_a_purge_waits_and_finds_no_row(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.pipeline import retention, transitions

    edit, requeued, done = ended(user), [], threading.Event()

    def requeue() -> None:
        requeued.append(transitions.requeue(edit))
        connection.close()
        done.set()

    thread = threading.Thread(target=requeue)

    def give_up(_: object) -> None:
        thread.start()
        assert not done.wait(0.5), "the row was not locked"

    monkeypatch.setattr(retention, "_give_up", give_up)
    assert retention.purge_round(30) == 1
    thread.join(5)
    assert requeued == [False]
    assert ids() == set()


def test_an_edit_that_was_requeued_before_its_turn_stays_with_its_files(user: Any, services: Services) -> None:
    """The requeue is not committed yet when the purge comes to the row."""
    from django.db import transaction

    from image_editor.pipeline import retention, transitions

    edit = ended(user, files=True, status="failed", error_code="x")
    purged: list[int] = []

    def purge() -> None:
        purged.append(retention.purge_round(30))
        connection.close()

    with transaction.atomic():
        assert transitions.requeue(edit)
        thread = threading.Thread(target=purge)
        thread.start()
        thread.join(5)
        assert purged == [0], "the purge waited"
    assert ids() == {edit.pk}
    assert len(left(services, edit)) == 2


def test_a_pending_callback_keeps_its_edit_until_it_has_ended(user: Any, services: Services) -> None:
    from image_editor.models import Callback
    from image_editor.pipeline import retention

    edit, other = ended(user, files=True), ended(user)
    now = timezone.now()
    callback, _ = (
        Callback.objects.create(user=user, edit=some, url="x", state=state, next_try_at=now, created_at=now - OLD)
        for some, state in ((edit, "pending"), (other, "dead"))
    )
    assert retention.purge(30) == 1
    assert ids() == {edit.pk}
    assert len(left(services, edit)) == 2
    assert list(Callback.objects.all()) == [callback]
    Callback.objects.update(state="delivered")
    assert retention.purge(30) == 1
    assert (ids(), Callback.objects.count()) == (set(), 0)


def test_a_delivery_that_is_repeated_during_a_purge_keeps_its_edit(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repetition comes after the edits were chosen, and before their callbacks are locked."""
    from image_editor.models import Callback
    from image_editor.pipeline import retention
    from image_editor.webhooks import callbacks

    now = timezone.now()
    edit, other = ended(user), ended(user)
    Callback.objects.create(user=user, edit=edit, url="x", state="delivered", next_try_at=now, created_at=now)
    chosen = retention._without_pending_callback

    def redeliver() -> None:
        callbacks.redeliver(Callback.objects.all())
        connection.close()

    def repeated(edits: list[Any]) -> list[Any]:
        thread = threading.Thread(target=redeliver)
        thread.start()
        thread.join(5)
        return chosen(edits)

    monkeypatch.setattr(retention, "_without_pending_callback", repeated)
    assert retention._purge_some(30, {}) == 1
    assert ids() == {edit.pk}
    assert other.pk not in ids()


def test_a_batch_is_removed_as_a_whole_when_its_last_item_and_its_callback_are_old(user: Any) -> None:
    from image_editor.models import Batch, Callback
    from image_editor.pipeline import retention

    now = timezone.now()
    batch = Batch.objects.create(user=user, total=2, unfinished=1, accepted_at=now - OLD)
    items = [ended(user, batch=batch, batch_index=index) for index in range(2)]
    alone = ended(user)
    callback = Callback.objects.create(user=user, batch=batch, url="x", next_try_at=now, created_at=now)
    for state in (
        {"unfinished": 1, "finished_at": None},
        {"unfinished": 0, "finished_at": now},
        {"unfinished": 0, "finished_at": now - OLD},  # but its callback is pending
    ):
        Batch.objects.update(**state)
        retention.purge(30)
        assert ids() == {item.pk for item in items}, state
    assert alone.pk not in ids()
    Callback.objects.filter(pk=callback.pk).update(state="dead")
    assert retention.purge(30) == 2
    assert (Batch.objects.count(), Callback.objects.count()) == (0, 0)


def test_the_files_of_purged_edits_are_removed_once_the_media_store_is_back(user: Any, services: Services) -> None:
    from image_editor.pipeline import tasks

    edit = ended(user, files=True)
    with services.media_down():
        assert tasks.purge() == 1
        tasks.heal()
    assert ids() == set()
    assert len(left(services, edit)) == 2
    tasks.heal()
    assert left(services, edit) == []


def test_a_slow_media_store_holds_back_no_row(user: Any, monkeypatch: pytest.MonkeyPatch, figure: Callable) -> None:
    """Each DELETE takes half a second. A round ends in time, and so does a round of files, which comes forward."""
    from image_editor import storage
    from image_editor.models import RemovedFile
    from image_editor.pipeline import retention

    for _ in range(20):
        ended(user, files=True)
    monkeypatch.setattr(storage, "delete", lambda *names: time.sleep(0.5 * len(names)))
    began = time.monotonic()
    figure("purge_slow_store_rows", retention.purge_round(30), "rows", at_least=20)
    waiting = RemovedFile.objects.count()
    assert retention.remove_files() > 0
    assert RemovedFile.objects.count() < waiting
    assert time.monotonic() - began < 10


def test_positions_end_after_an_hour_also_if_it_ends_during_a_round(
    user: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import retention

    cache = services.admin(1)
    ended(user)
    assert retention.purge_round(30) == 1
    assert 3500 < cache.ttl(retention.POSITIONS) <= 3600
    stayed = ended(user, 40 * DAY)
    assert retention.purge_round(30) == 0, "it began at the oldest edit again"
    ended(user, timedelta(days=30, hours=1))
    monkeypatch.setattr(retention, "_give_up", lambda _: cache.delete(retention.POSITIONS))
    assert retention.purge_round(30) == 1
    assert ids() == {stayed.pk}
    assert retention.purge_round(30) == 1


def test_the_scheduler_removes_old_edits(user: Any, start: Callable) -> None:
    ended(user)
    start("callback,maintenance")
    start(beat=True)
    wait_for(lambda: not ids(), 30, "the edit is removed")


def test_a_round_reads_the_old_rows_only_and_no_row_twice(user: Any, services: Services, figure: Callable) -> None:
    """With ten thousand young edits, and a thousand old ones that must stay before those that are removed."""
    from image_editor.pipeline import retention

    services.fill(user.pk, 10_000, "20 days", "1 minute")
    services.fill(user.pk, 1_000, "40 days", "39 days", finished="now()")
    services.fill(user.pk, 300, "38 days", "31 days")
    # Each edit is read to be chosen, to be locked, to be removed, and by the cascade.
    figure("purge_rows_read", rows_read(services, lambda: retention.purge_round(30)), "rows", 1_000 + 5 * 300)
    assert len(ids()) == 11_000
    figure("purge_rows_read_idle", rows_read(services, lambda: retention.purge_round(30)), "rows", 10)
