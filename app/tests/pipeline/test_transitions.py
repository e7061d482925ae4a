"""The fence: a worker that was thought dead and comes back cannot change what a later attempt did."""

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from conftest import finished
from django.utils import timezone
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def claims(user: Any) -> tuple[Any, Any, Any]:
    """An edit's message and two claims: of an attempt whose lease has expired, and of the one that holds the edit."""
    from image_editor.models import Edit
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    edit = Edit.objects.create(
        user=user, prompt="sepia", image_url="https://images.example.org/a.jpg", accepted_at=timezone.now()
    )
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
            return transitions.postpone(message, claim)


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
