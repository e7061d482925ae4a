"""Which edits the reconciler publishes again, and when: never one that waits in its queue or that a worker holds."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.utils import timezone
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)


def ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


@pytest.fixture
def insert(user: Any) -> Callable[..., Any]:
    """Returns a function: insert the row of an edit with these columns."""
    from image_editor.models import Edit

    def _insert(**columns: Any) -> Any:
        url = "https://images.example.org/a.jpg"
        return Edit.objects.create(
            **{"user": user, "prompt": "sepia", "image_url": url, "accepted_at": ago(600)} | columns
        )

    return _insert


def reconciled() -> dict[str, int]:
    """One round: the counts that are not 0."""
    from image_editor.pipeline import reconciler

    return {name: count for name, count in reconciler.reconcile().items() if count}


@pytest.mark.parametrize(
    ("columns", "published"),
    [
        ({"status": "accepted", "accepted_at": 1}, True),  # the broker did not take its message
        ({"status": "accepted", "retry_at": -5}, False),  # postponed
        ({"status": "accepted", "retry_at": 1}, True),
        ({"status": "queued", "dispatched_at": 18}, False),  # its message may be on the way
        ({"status": "queued", "dispatched_at": 22}, True),
        ({"status": "queued"}, True),
        ({"status": "processing", "lease_expires_at": -5, "attempt": 1}, False),
        ({"status": "processing", "lease_expires_at": 1, "attempt": 4}, True),
        ({"status": "processing", "attempt": 1}, True),
        ({"status": "succeeded", "result_name": "a.jpg", "dispatched_at": 600}, False),
        ({"status": "failed", "dispatched_at": 600}, False),
        ({"status": "cancelled", "dispatched_at": 600}, False),
    ],
)
def test_an_edit_is_published_again_when_its_message_is_lost(
    insert: Callable, services: Services, columns: dict[str, Any], published: bool
) -> None:
    """Times are seconds before now."""
    times = {name: ago(value) for name, value in columns.items() if name.endswith("_at")}
    edit = insert(**columns | times)
    assert reconciled() == ({"edit": 1} if published else {})
    assert services.admin().llen("edit") == published
    if published:
        edit.refresh_from_db()
        assert (edit.status, edit.dispatches, edit.lease_expires_at, edit.retry_at) == ("queued", 1, None, None)
        assert abs((edit.dispatched_at - timezone.now()).total_seconds()) < 5
        assert reconciled() == {}, "the edit was published twice"


def test_an_edit_whose_message_waits_or_is_with_a_worker_is_not_published_again(
    insert: Callable, services: Services
) -> None:
    from image_editor.pipeline import publisher
    from image_editor.pipeline.message import EditMessage

    edits = [insert(status="queued", dispatched_at=ago(60)) for _ in range(2)]
    publisher.publish_edits([EditMessage.of(edit, "alice") for edit in edits])
    broker = services.admin()
    taken = json.loads(broker.rpop("edit"))
    broker.hset("unacked", "tag", json.dumps([taken, "", "edit"]))
    assert reconciled() == {}
    broker.delete("unacked")
    assert reconciled() == {"edit": 1}


def test_lost_messages_are_found_in_a_queue_that_is_too_long_to_read(
    insert: Callable, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two oldest messages are read. What was published before the younger one and is not there, is lost."""
    from image_editor.models import Edit
    from image_editor.pipeline import publisher, reconciler
    from image_editor.pipeline.message import EditMessage

    monkeypatch.setattr(reconciler, "LONG", 2)
    seconds = (500, 400, 300, 200, 100)
    edits = [insert(status="queued", accepted_at=ago(s), dispatched_at=ago(s)) for s in seconds]
    oldest, lost, next_one, waits, lost_later = edits
    messages = {edit.pk: EditMessage.of(edit, "alice") for edit in edits}
    publisher.publish_edits([messages[edit.pk] for edit in (oldest, next_one, waits)])
    assert reconciled() == {"edit": 1}
    assert waiting_ids(services)[0] == str(lost.pk)
    services.admin().rpop("edit", 2)
    Edit.objects.filter(pk__in=[oldest.pk, next_one.pk]).update(status="cancelled")
    assert reconciled() == {}, "a message that was published again does not tell when the ones before it were"
    assert waiting_ids(services) == [str(lost.pk), str(waits.pk)]
    monkeypatch.setattr(reconciler, "LONG", 3)
    assert reconciled() == {"edit": 1}
    assert waiting_ids(services)[0] == str(lost_later.pk)


def waiting_ids(services: Services) -> list[str]:
    from image_editor.pipeline.broker import waiting

    return [message.task_id for message in waiting(services.admin(), "edit")]


def test_a_long_queue_whose_edits_are_gone_hides_no_message(
    insert: Callable, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import publisher, reconciler
    from image_editor.pipeline.message import EditMessage

    monkeypatch.setattr(reconciler, "LONG", 1)
    gone, _ = insert(status="cancelled"), insert(status="queued", dispatched_at=ago(60))
    publisher.publish_edits([EditMessage.of(gone, "alice")])
    gone.delete()
    assert reconciled() == {}
    services.admin().delete("edit")
    assert reconciled() == {"edit": 1}


def test_each_queue_has_its_own_edits(insert: Callable, user: Any, services: Services, caplog: Any) -> None:
    """A round that did something is logged, any other is not."""
    from image_editor.models import Batch

    assert (reconciled(), "reconciled" in caplog.messages) == ({}, False)
    batch = Batch.objects.create(user=user, total=1, unfinished=1, accepted_at=ago(600))
    insert(status="accepted")
    insert(status="accepted", batch=batch, batch_index=0)
    assert reconciled() == {"edit": 1, "batch": 1}
    assert "reconciled" in caplog.messages
    assert (services.admin().llen("edit"), services.admin().llen("batch")) == (1, 1)


@pytest.mark.parametrize(
    ("columns", "given_up"),
    [
        ({"status": "processing", "attempt": 5, "lease_expires_at": -5}, False),
        ({"status": "processing", "attempt": 5, "lease_expires_at": 1}, True),
        ({"status": "processing", "attempt": 5}, True),
        ({"status": "accepted", "attempt": 5, "retry_at": -5}, True),
        ({"status": "accepted", "attempt": 5, "faults": 1, "retry_at": -5}, False),
        ({"status": "accepted", "attempt": 5, "forgiven": 1, "retry_at": -5}, False),
        ({"status": "queued", "attempt": 6, "dispatched_at": 5}, True),  # the limit was lowered, or a backup restored
        ({"status": "succeeded", "attempt": 6, "result_name": "a.jpg"}, False),
    ],
)
def test_an_edit_without_an_attempt_left_is_given_up_when_nobody_works_on_it(
    insert: Callable, columns: dict[str, Any], given_up: bool
) -> None:
    times = {name: ago(value) for name, value in columns.items() if name.endswith("_at")}
    edit = insert(**columns | times)
    assert reconciled() == ({"abandoned": 1} if given_up else {})
    edit.refresh_from_db()
    expected = ("failed", "gave_up", False) if given_up else (columns["status"], "", False)
    assert (edit.status, edit.error_code, "in time" in edit.error_detail) == expected


@pytest.mark.parametrize(
    ("columns", "given_up"),
    [
        ({"faults": 1, "accepted_at": 3590}, False),
        ({"faults": 1, "accepted_at": 3610}, True),
        ({"faults": 1, "accepted_at": 9000, "requeued_at": 3590}, False),
        ({"faults": 1, "accepted_at": 9000, "requeued_at": 3610}, True),
        ({"faults": 0, "accepted_at": 9000}, False),
        ({"faults": 1, "accepted_at": 9000, "status": "queued", "dispatched_at": 5}, False),  # it is tried once more
    ],
)
def test_an_edit_that_was_postponed_for_too_long_is_given_up(
    insert: Callable, settings: Any, columns: dict[str, Any], given_up: bool
) -> None:
    settings.TASK_MAX_AGE = 3600
    times = {name: ago(value) for name, value in columns.items() if name.endswith("_at")}
    edit = insert(**{"status": "accepted", "attempt": 1, "retry_at": ago(-5)} | columns | times)
    assert reconciled() == ({"abandoned": 1} if given_up else {})
    edit.refresh_from_db()
    assert ("in time" in edit.error_detail) == given_up


def test_the_oldest_edits_of_a_round_come_first(
    insert: Callable, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import reconciler
    from image_editor.pipeline.broker import waiting

    monkeypatch.setattr(reconciler, "ROUND_MAX", 2)
    monkeypatch.setattr(reconciler, "REFILL_SECONDS", -1)  # one round
    ids = [str(insert(status="accepted", accepted_at=ago(seconds)).pk) for seconds in (100, 300, 200)]
    assert reconciled() == {"edit": 2}
    assert {message.task_id for message in waiting(services.admin(), "edit")} == {ids[1], ids[2]}
    assert reconciled() == {"edit": 1}


def test_a_broker_that_has_lost_its_queue_is_refilled_in_one_run(
    user: Any, services: Services, settings: Any, figure: Callable
) -> None:
    """The next run comes after RECONCILE_SECONDS. Until then the workers have to live on what this one publishes."""
    from image_editor.models import Edit
    from image_editor.pipeline.broker import waiting

    url = "https://images.example.org/a.jpg"
    long_ago = {"accepted_at": ago(600), "dispatched_at": ago(600), "status": "queued"}
    lost = 6000
    Edit.objects.bulk_create(Edit(user=user, prompt="sepia", image_url=url, **long_ago) for _ in range(lost))
    began = time.monotonic()
    sent = reconciled()["edit"]
    seconds = max(time.monotonic() - began, settings.RECONCILE_SECONDS)
    figure("refill_edits_per_second", round(sent / seconds, 1), "edits/s", at_least=300)
    published = [message.task_id for message in waiting(services.admin(), "edit")]
    assert len(set(published)) == len(published) == sent
    assert reconciled().get("edit", 0) == lost - sent, "an edit was published twice"


def test_a_broker_that_is_down_changes_no_row(insert: Callable, services: Services) -> None:
    edit = insert(status="accepted")
    services.redis.kill()
    try:
        assert reconciled() == {}
    finally:
        services.start_redis()
    edit.refresh_from_db()
    assert (edit.status, edit.dispatches) == ("accepted", 0)
    assert reconciled() == {"edit": 1}


def test_an_edit_that_the_broker_does_not_take_stays_accepted(
    insert: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.pipeline import publisher

    edit = insert(status="accepted")
    monkeypatch.setattr(publisher, "publish_edits", lambda messages, queue: 0)
    assert reconciled() == {}
    edit.refresh_from_db()
    assert (edit.status, edit.dispatched_at) == ("accepted", None)


def test_an_edit_that_another_reconciler_has_taken_is_left_to_it(insert: Callable, services: Services) -> None:
    edit = insert(status="accepted")
    with psycopg.connect(host="127.0.0.1", port=services.postgres_port, user="super", dbname="app") as other:
        other.execute("SELECT 1 FROM edit WHERE id = %s FOR UPDATE", [edit.pk])
        assert reconciled() == {}
    assert reconciled() == {"edit": 1}
