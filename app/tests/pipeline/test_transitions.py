"""One owner at a time: who may claim an edit, and what a worker that was thought dead can no longer change."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from conftest import finished
from django.db import OperationalError
from django.utils import timezone
from services import Services, wait_for

from image_editor import storage
from image_editor.imaging import engines, inspection

pytestmark = pytest.mark.django_db(transaction=True)


ENDED = "ended"  # the name of a process that ended on this host


def new_edit(user: Any, **values: Any) -> Any:
    from image_editor.models import Edit

    url = "https://images.example.org/a.jpg"
    return Edit.objects.create(user=user, prompt="sepia", image_url=url, accepted_at=timezone.now(), **values)


@pytest.fixture
def edit(user: Any) -> Any:
    return new_edit(user)


@pytest.fixture
def claim_as(edit: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Returns a function: claim the edit as the process of this name."""
    from image_editor.pipeline import holder, transitions

    monkeypatch.setattr(holder, "gone", lambda name: name == ENDED)

    def _claim_as(name: str, redelivered: bool = False) -> Any:
        monkeypatch.setattr(holder, "me", lambda: name)
        return transitions.claim(str(edit.pk), redelivered)

    return _claim_as


def change(edit: Any, **columns: Any) -> None:
    type(edit).objects.filter(pk=edit.pk).update(**columns)


def past(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


@pytest.fixture(params=["", "https://client.example.org/"], ids=["without a callback", "with a callback"])
def claims(request: pytest.FixtureRequest, edit: Any, claim_as: Callable) -> tuple[Any, Any, Any]:
    """An edit's message and two claims: of an attempt whose lease has expired, and of the one that holds the edit."""
    from image_editor.pipeline.message import EditMessage

    edit.callback_url = request.param
    edit.save()
    first = claim_as("first")
    change(edit, lease_expires_at=past(1))
    second = claim_as("second")
    assert (first.attempt, second.attempt) == (1, 2)
    return EditMessage.of(edit, "alice"), first, second


def test_a_claim_names_its_holder_and_has_a_lease(edit: Any, claim_as: Callable, settings: Any) -> None:
    claim = claim_as("first")
    edit.refresh_from_db()
    assert (edit.status, edit.holder, edit.started_at) == ("processing", "first:1", claim.started_at)
    left = (edit.lease_expires_at - timezone.now()).total_seconds()
    assert settings.TASK_LEASE - 5 < left <= settings.TASK_LEASE + 1


def test_a_message_that_is_delivered_again_leaves_the_edit_to_a_process_that_may_live(claim_as: Callable) -> None:
    """The broker delivers it again also if only the connection of a worker was cut."""
    assert claim_as("first").attempt == 1
    assert claim_as("second", redelivered=True) is None


def test_only_a_message_that_is_delivered_again_asks_whether_the_holder_has_ended(claim_as: Callable) -> None:
    claim_as(ENDED)
    assert claim_as("second") is None
    assert claim_as("second", redelivered=True).attempt == 2


def test_a_claim_whose_reply_was_lost_is_made_again_without_a_new_attempt(edit: Any, claim_as: Callable) -> None:
    change(edit, attempt=4)
    assert claim_as("first") == claim_as("first")
    edit.refresh_from_db()
    assert (edit.attempt, edit.holder) == (5, "first:5")


def test_the_holder_of_an_earlier_attempt_holds_nothing(edit: Any, claim_as: Callable) -> None:
    """A worker of the previous release counts the attempt up, and does not change the holder."""
    for name in (ENDED, "first"):
        change(edit, status="processing", holder=f"{name}:1", attempt=2, lease_expires_at=past(-60))
        assert claim_as("first", redelivered=True) is None
    change(edit, attempt=12, holder=f"{ENDED}:2")
    assert claim_as("first", redelivered=True) is None


@pytest.mark.parametrize(
    ("columns", "claimed"),
    [
        ({"attempt": 4}, True),
        ({"attempt": 5}, False),
        ({"attempt": 9, "faults": 3, "forgiven": 2}, True),
        ({"attempt": 9, "faults": 2, "forgiven": 2}, False),
    ],
)
def test_faults_and_forgiven_attempts_do_not_count(
    edit: Any, claim_as: Callable, columns: dict[str, int], claimed: bool
) -> None:
    change(edit, **columns)
    claim = claim_as("first")
    assert bool(claim) == claimed
    if claim:
        assert (claim.attempt, claim.number) == (
            columns["attempt"] + 1,
            columns["attempt"] + 1 - columns.get("faults", 0),
        )


@pytest.mark.parametrize(("fault", "faults"), [(True, 1), (False, 0)])
def test_a_postponed_edit_waits_longer_each_time(edit: Any, claim_as: Callable, fault: bool, faults: int) -> None:
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    for attempt, seconds in ((0, 20), (1, 40), (9, 320)):
        change(edit, status="queued", attempt=attempt, faults=0, forgiven=attempt)
        assert transitions.postpone(EditMessage.of(edit, "alice"), claim_as("first"), fault)
        edit.refresh_from_db()
        assert (edit.status, edit.attempt, edit.faults) == ("accepted", attempt + 1, faults)
        assert (edit.dispatched_at, edit.lease_expires_at) == (None, None)
        assert abs((edit.retry_at - timezone.now()).total_seconds() - seconds) < 5


def test_a_requeue_starts_over_and_fences_off_whoever_held_the_edit(edit: Any, claim_as: Callable) -> None:
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    change(edit, attempt=4, faults=1)
    held = claim_as("first")
    assert transitions.cancel(edit)
    assert transitions.requeue(edit)
    edit.refresh_from_db()
    assert (edit.status, edit.attempt, edit.attempt - edit.faults - edit.forgiven) == ("accepted", 6, 0)
    assert abs((edit.requeued_at - timezone.now()).total_seconds()) < 5
    assert transitions.succeed(EditMessage.of(edit, "alice"), held, "results/4.jpg", edited(), False) is False
    assert claim_as("second").number > held.number, "a name of a file would be used again"


def test_a_requeue_fences_off_a_worker_that_has_not_claimed_the_edit_yet(edit: Any) -> None:
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    assert transitions.cancel(edit)
    assert transitions.requeue(edit)
    unclaimed = transitions.Claim(0)
    assert transitions.succeed(EditMessage.of(edit, "alice"), unclaimed, "results/0.jpg", edited(), False) is False


def test_a_success_whose_reply_was_lost_is_a_success_and_counts_once(
    edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server commits and dies before it answers, as in a failover. The second try finds the result in the row."""
    from django.db import OperationalError, connection

    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    commit, lost = transitions._end, []

    def lose_the_first_reply(*args: Any, **kwargs: Any) -> bool:
        done = commit(*args, **kwargs)
        if not lost:
            lost.append(done)
            raise OperationalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(transitions, "_end", lose_the_first_reply)
    monkeypatch.setattr("image_editor.shortcuts.database.away", lambda error: True)
    message, claim = EditMessage.of(edit, "alice"), transitions.Claim(0)
    connection.ensure_connection()
    assert transitions.succeed(message, claim, "results/0.jpg", edited(), False)
    assert lost == [True]
    # Another attempt with another result has not succeeded, and neither has this one if it did not lose a reply.
    assert not transitions.succeed(message, claim, "results/1.jpg", edited(), False, again=True)
    assert not transitions.succeed(message, claim, "results/0.jpg", edited(), False)
    assert transitions.succeed(message, claim, "results/0.jpg", edited(), False, again=True)


def test_an_edit_without_a_claim_began_when_its_attempt_began(edit: Any) -> None:
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    unclaimed = transitions.Claim(0, began=time.monotonic() - 7)
    assert unclaimed.number == 0, "the number is part of the file's name"
    assert transitions.succeed(EditMessage.of(edit, "alice"), unclaimed, "results/0.jpg", edited(), False)
    edit.refresh_from_db()
    assert edit.attempt == 1
    assert 7 <= (edit.finished_at - edit.started_at).total_seconds() < 12


@pytest.mark.parametrize("status", ["accepted", "queued", "processing"])
def test_an_attempt_renews_its_lease_until_another_one_begins(
    edit: Any, claim_as: Callable, settings: Any, status: str
) -> None:
    """The reconciler may have published the edit because the renewal was late."""
    from image_editor.pipeline import transitions

    claim = claim_as("first")
    change(edit, status=status, lease_expires_at=None)
    assert transitions.renew(str(edit.pk), claim)
    edit.refresh_from_db()
    assert edit.status == "processing"
    assert edit.lease_expires_at > timezone.now() + timedelta(seconds=settings.TASK_LEASE - 5)
    change(edit, attempt=2)
    assert not transitions.renew(str(edit.pk), claim)


def test_an_edit_that_ended_is_not_renewed(edit: Any, claim_as: Callable) -> None:
    from image_editor.pipeline import transitions

    claim = claim_as("first")
    assert transitions.cancel(edit)
    assert not transitions.renew(str(edit.pk), claim)
    edit.refresh_from_db()
    assert edit.status == "cancelled"


def test_an_edit_is_given_up_only_if_it_is_as_it_was_read(edit: Any, claim_as: Callable) -> None:
    from image_editor.pipeline import transitions

    claim_as("first")
    edit.refresh_from_db()
    assert not transitions.give_up(edit, "it is held")
    change(edit, lease_expires_at=past(1), faults=1)
    assert not transitions.give_up(edit, "it was postponed meanwhile")
    change(edit, faults=0, attempt=2)
    assert not transitions.give_up(edit, "it was claimed meanwhile")
    change(edit, attempt=1)
    assert transitions.give_up(edit, "nobody works on it")
    edit.refresh_from_db()
    assert (edit.status, edit.error_code, edit.error_detail) == ("failed", "gave_up", "nobody works on it")


def edited() -> Any:
    from image_editor.imaging.engines import Edited

    return Edited(b"x", "jpg", "image/jpeg", 1, 1)


def end(how: str, message: Any, claim: Any) -> bool:
    from image_editor.pipeline import transitions

    match how:
        case "succeed":
            return transitions.succeed(message, claim, f"results/{claim.attempt}.jpg", edited(), False)
        case "fail":
            return transitions.fail(message, claim, "too_slow", "the edit took too long")
        case _:
            return transitions.postpone(message, claim, fault=True)


@pytest.mark.parametrize("how", ["succeed", "fail", "postpone"])
def test_an_attempt_that_lost_the_edit_changes_nothing(claims: tuple[Any, Any, Any], how: str) -> None:
    from image_editor.models import Edit

    message, first, second = claims
    before = Edit.objects.filter(pk=message.task_id).values().get()
    assert end(how, message, first) is False
    assert Edit.objects.filter(pk=message.task_id).values().get() == before
    assert end("succeed", message, second) is True
    assert Edit.objects.get(pk=message.task_id).result_name == "results/2.jpg"


@pytest.mark.parametrize("how", ["succeed", "fail", "postpone"])
def test_nothing_changes_an_edit_that_has_ended(claims: tuple[Any, Any, Any], how: str) -> None:
    from image_editor.models import Edit

    message, _, second = claims
    assert end("succeed", message, second) is True
    before = Edit.objects.filter(pk=message.task_id).values().get()
    assert end(how, message, second) is False
    assert Edit.objects.filter(pk=message.task_id).values().get() == before


@pytest.mark.parametrize("how", ["claim", "renew", "succeed", "fail", "postpone"])
def test_a_transition_is_repeated_on_a_new_connection(
    claims: tuple[Any, Any, Any], claim_as: Callable, services: Services, how: str
) -> None:
    from image_editor.pipeline import transitions

    message, _, second = claims
    services.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    if how == "claim":
        assert claim_as("second") == second
    elif how == "renew":
        assert transitions.renew(message.task_id, second)
    else:
        assert end(how, message, second) is True


def raising(error: BaseException) -> Callable[..., Any]:
    def _raise(*_: Any) -> None:
        raise error

    return _raise


@pytest.mark.parametrize(
    ("error", "faults"),
    [
        (storage.StorageUnavailable("down"), 1),
        (engines.EngineUnavailable("down"), 1),
        (OperationalError("down"), 1),
        (MemoryError(), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_an_edit_did_counts_as_an_attempt(
    claims: tuple[Any, Any, Any], edit: Any, settings: Any, monkeypatch: pytest.MonkeyPatch, error: Any, faults: int
) -> None:
    """This is the last attempt."""
    from image_editor.pipeline import attempts, reconciler

    message, _, second = claims
    settings.TASK_ATTEMPTS_MAX = 2
    monkeypatch.setattr(attempts, "_source", raising(error))
    assert attempts.Attempt(message, second).run() == "postponed"
    edit.refresh_from_db()
    assert (edit.status, edit.faults) == ("accepted", faults)
    assert reconciler.reconcile()["abandoned"] == 1 - faults


def test_the_end_is_recorded_when_the_database_is_back(
    claims: tuple[Any, Any, Any], edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paid engine is not asked again."""
    from image_editor.pipeline import attempts, outage, transitions

    message, _, second = claims
    monkeypatch.setattr(outage, "AGAIN", 0.01)
    monkeypatch.setattr(attempts, "_source", raising(inspection.Unacceptable("image_corrupt", "send another image")))
    fail, answers = transitions.fail, iter([raising(OperationalError("down")), raising(OperationalError("down"))])
    monkeypatch.setattr(transitions, "fail", lambda *args: next(answers, fail)(*args))
    assert attempts.Attempt(message, second).run() == "failed"
    edit.refresh_from_db()
    assert edit.error_code == "image_corrupt"


@pytest.mark.parametrize(("late", "status"), [(False, "failed"), (True, "accepted")])
def test_an_edit_does_not_fail_because_its_worker_waited_for_postgresql(
    claims: tuple[Any, Any, Any], edit: Any, monkeypatch: pytest.MonkeyPatch, late: bool, status: str
) -> None:
    from image_editor.pipeline import attempts

    message, _, second = claims
    monkeypatch.setattr(attempts, "_source", raising(SoftTimeLimitExceeded()))
    attempts.Attempt(message, second, late).run()
    edit.refresh_from_db()
    assert (edit.status, edit.faults) == (status, int(late))


def test_a_cancelled_edit_stops_the_work_on_it(
    claims: tuple[Any, Any, Any], edit: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work waits for a server. Then it stops, although nothing arrives."""
    from image_editor.pipeline import attempts, transitions

    message, _, second = claims
    settings.TASK_LEASE = 0.6
    monkeypatch.setattr(attempts, "_source", lambda url: transitions.cancel(edit) and time.sleep(30))
    began = time.monotonic()
    assert attempts.Attempt(message, second).run() == "overtaken"
    assert time.monotonic() - began < 15
    assert "lease" not in {thread.name for thread in threading.enumerate()}, "the renewal goes on"


def test_a_lease_is_renewed_while_the_work_goes_on(
    claims: tuple[Any, Any, Any], edit: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a renewal to which the database did not answer."""
    from image_editor.pipeline import attempts, transitions

    message, _, second = claims
    settings.TASK_LEASE = 0.6
    renew, answers = transitions.renew, iter([raising(OperationalError("down"))])
    monkeypatch.setattr(transitions, "renew", lambda *args: next(answers, renew)(*args))

    def slow(url: str) -> bytes:
        change(edit, lease_expires_at=None)
        wait_for(lambda: type(edit).objects.get(pk=edit.pk).lease_expires_at, what="the lease is renewed")
        raise storage.NotStored

    monkeypatch.setattr(attempts, "_source", slow)
    assert attempts.Attempt(message, second).run() == "failed"


def test_a_process_that_outlives_its_time_limit_loses_the_edit(
    claims: tuple[Any, Any, Any], edit: Any, settings: Any
) -> None:
    """Celery did not kill it: it is an orphan."""
    from image_editor.pipeline import lease

    message, _, second = claims
    settings.TASK_LEASE, settings.TASK_TIME_LIMIT = 0.6, 0
    change(edit, lease_expires_at=None)
    with lease.kept(message.task_id, second):
        time.sleep(0.5)
    edit.refresh_from_db()
    assert edit.lease_expires_at is None


def test_an_edit_whose_message_was_not_taken_is_left_to_the_reconciler(
    user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.models import Edit
    from image_editor.pipeline import publisher, transitions
    from image_editor.pipeline.message import EditMessage

    message = EditMessage.of(new_edit(user), "alice")
    Edit.objects.all().delete()
    monkeypatch.setattr(publisher, "publish_edits", lambda messages, queue: 0)
    assert transitions.accept(message) == "accepted"
    row = Edit.objects.get(pk=message.task_id)
    assert (row.status, row.dispatched_at) == ("accepted", None)


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The edits whose state was removed from the cache."""
    from image_editor.pipeline.state_cache import states

    found: list[str] = []
    monkeypatch.setattr(states, "forget", lambda edit_id: found.append(str(edit_id)))
    return found


@pytest.mark.parametrize(
    ("attempt", "fresh", "reported", "cached"),
    [
        pytest.param(0, True, False, False, id="an upload's first delivery"),
        pytest.param(1, True, False, False, id="the first delivery"),
        pytest.param(1, True, True, True, id="its progress was reported"),
        pytest.param(1, False, False, True, id="published again"),
        pytest.param(2, True, False, True, id="delivered again"),
    ],
)
def test_a_success_removes_the_cached_state_if_there_can_be_one(
    user: Any, forgotten: list[str], attempt: int, fresh: bool, reported: bool, cached: bool
) -> None:
    from image_editor.models import Edit, Status
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    edit = new_edit(user, status=Status.PROCESSING if attempt else Status.QUEUED, attempt=attempt)
    message = replace(EditMessage.of(edit, "alice"), fresh=fresh)
    claim = transitions.Claim(attempt, attempt, timezone.now())
    assert transitions.succeed(message, claim, "results/1.jpg", edited(), reported) is True
    assert forgotten == [message.task_id] * cached
    row = Edit.objects.get(pk=edit.pk)
    assert row.attempt == max(attempt, 1)
    assert bool(row.started_at) is (attempt == 0), "the claim of a later attempt has written the time already"


@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_an_end_without_a_result_removes_the_cached_state(user: Any, forgotten: list[str], how: str) -> None:
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    edit = new_edit(user)
    claim = transitions.claim(str(edit.pk), False)
    assert transitions.cancel(edit) if how == "cancel" else end(how, EditMessage.of(edit, "alice"), claim)
    assert forgotten == [str(edit.pk)]


def test_a_requeued_item_counts_in_its_batch_again_and_is_announced_again(user: Any) -> None:
    from image_editor.models import Batch, Callback, Edit
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    batch = Batch.objects.create(
        user=user, total=1, unfinished=1, callback_url="https://client.example.org/batch", accepted_at=timezone.now()
    )
    edit = new_edit(user, batch=batch, callback_url="https://client.example.org/edit")
    message = EditMessage.of(edit, "alice")
    urls = [edit.callback_url, batch.callback_url]

    def announced() -> list[str]:
        return list(Callback.objects.order_by("-url").values_list("url", flat=True))

    assert transitions.requeue(edit) is False, "an edit that has not ended is not requeued"
    assert end("fail", message, transitions.claim(str(edit.pk), False))
    batch.refresh_from_db()
    assert batch.unfinished == 0
    assert batch.finished_at
    assert announced() == urls
    assert transitions.requeue(edit) is True
    batch.refresh_from_db()
    assert (batch.unfinished, batch.finished_at) == (1, None)
    assert announced() == []
    row = Edit.objects.get(pk=edit.pk)
    assert (row.status, row.attempt - row.forgiven, row.finished_at, row.error_code) == ("accepted", 0, None, "")
    assert end("succeed", message, transitions.claim(str(edit.pk), False))
    batch.refresh_from_db()
    assert batch.unfinished == 0
    assert announced() == urls


def test_a_frozen_worker_wakes_up_while_a_later_attempt_is_under_way(
    api: Any, photo: bytes, files: Any, start: Callable
) -> None:
    """The first worker is frozen past its lease. It finishes first, and its result is refused."""
    from image_editor.models import Edit, Status
    from image_editor.pipeline import reconciler

    url = files.serve("/slow.jpg", photo)
    answer, turns = files.routes["/slow.jpg"], [threading.Event(), threading.Event()]
    waiting = iter(turns)

    def in_turn(handler: Any) -> None:
        next(waiting).wait(30)
        answer(handler)

    files.routes["/slow.jpg"] = in_turn
    patient = {
        "IMAGE_EDITOR_TASK_TIME_LIMIT": "60",
        "IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT": "50",
        "IMAGE_EDITOR_VISIBILITY_TIMEOUT": "150",
    }

    def asked(times: int) -> None:
        wait_for(lambda: [path for path, *_ in files.seen].count("/slow.jpg") == times, what=f"{times} fetches")

    frozen = start("edit", **patient)
    body = {"image_url": url, "prompt": "sepia"}
    edit_id = api.post("/api/v1/edits", body, content_type="application/json").json()["id"]
    asked(1)
    frozen.signal_all(signal.SIGSTOP)
    Edit.objects.filter(pk=edit_id).update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    start("edit", **patient)
    reconciler.reconcile()
    asked(2)

    turns[0].set()
    frozen.signal_all(signal.SIGCONT)
    wait_for(lambda: '"overtaken"' in frozen.log.read_text(), what="the first worker's result is refused")
    row = Edit.objects.get(pk=edit_id)
    assert (row.status, row.attempt, row.result_name) == (Status.PROCESSING, 2, "")
    turns[1].set()
    assert finished(api, edit_id)["status"] == "succeeded"
    assert Edit.objects.get(pk=edit_id).result_name.endswith(f"/{edit_id}/2.jpg")
