"""The fence: a worker that was thought dead and comes back cannot change what a later attempt did."""

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from conftest import finished
from django.utils import timezone
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def new_edit(user: Any, **values: Any) -> Any:
    from image_editor.models import Edit

    url = "https://images.example.org/a.jpg"
    return Edit.objects.create(user=user, prompt="sepia", image_url=url, accepted_at=timezone.now(), **values)


@pytest.fixture(params=["", "https://client.example.org/"], ids=["without a callback", "with a callback"])
def claims(request: pytest.FixtureRequest, user: Any) -> tuple[Any, Any, Any]:
    """An edit's message and two claims: of an attempt whose lease has expired, and of the one that holds the edit."""
    from image_editor.models import Edit
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    edit = new_edit(user, callback_url=request.param)
    first = transitions.claim(str(edit.pk), False)
    Edit.objects.filter(pk=edit.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    second = transitions.claim(str(edit.pk), False)
    assert (first.attempt, second.attempt) == (1, 2)
    return EditMessage.of(edit, "alice"), first, second


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


@pytest.mark.parametrize("how", ["claim", "succeed", "fail", "postpone"])
def test_a_transition_is_repeated_on_a_new_connection(
    claims: tuple[Any, Any, Any], services: Services, how: str
) -> None:
    from image_editor.pipeline import transitions

    message, _, second = claims
    services.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    if how == "claim":
        assert transitions.claim(message.task_id, True).attempt == 3
    else:
        assert end(how, message, second) is True


@pytest.mark.parametrize(
    ("attempts_max", "outcome", "status", "code"),
    [(3, "postponed", "accepted", ""), (2, "failed", "failed", "gave_up")],
)
def test_a_fault_of_the_platform_postpones_every_attempt_but_the_last(
    claims: tuple[Any, Any, Any], settings: Any, monkeypatch: pytest.MonkeyPatch,
    attempts_max: int, outcome: str, status: str, code: str,
) -> None:  # fmt: skip
    from image_editor import storage
    from image_editor.models import Edit
    from image_editor.pipeline import attempts

    def down(url: str) -> bytes:
        raise storage.StorageUnavailable(url)

    message, _, second = claims
    settings.TASK_ATTEMPTS_MAX = attempts_max
    monkeypatch.setattr(attempts, "_source", down)
    assert attempts.Attempt(message, second).run() == outcome
    row = Edit.objects.get(pk=message.task_id)
    assert (row.status, row.error_code) == (status, code)


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
    claim = transitions.Claim(attempt, timezone.now())
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
    assert (row.status, row.attempt, row.finished_at, row.error_code) == ("accepted", 0, None, "")
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
    assert Edit.objects.get(pk=edit_id).result_name == f"results/{edit_id}/2.jpg"
