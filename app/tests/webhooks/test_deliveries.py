"""The log of deliveries: every attempt is in it, its owner alone reads it, and can have a delivery repeated."""

from datetime import timedelta
from typing import Any

import pytest
from conftest import make_user
from django.test import Client
from django.utils import timezone
from helpers import post, problem, rows_read
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)
DELIVERIES = "/api/v1/webhooks/deliveries"
TEST = "/api/v1/webhooks/test"


def send(delivery: dict[str, Any], tries: int = 0) -> str:
    from image_editor.webhooks import callbacks

    return callbacks.send(delivery["id"], tries)


def event(api: Any, url: str) -> dict[str, Any]:
    answer = post(api, {"url": url}, TEST)
    assert answer.status_code == 202, answer.content
    return answer.json()


def test_a_test_event_is_published_at_once(api: Any, files: Any, services: Any) -> None:
    event(api, files.url("/hook"))
    assert services.admin().llen("callback") == 1
    problem(post(api, {"url": "http://10.0.0.1/"}, TEST), 422, "url_refused")
    problem(post(api, {}, TEST), 422)


def test_the_log_has_every_attempt_and_its_answer(api: Any, files: Any) -> None:
    delivery = event(api, files.url("/hook"))
    assert delivery["state"] == "pending"
    assert delivery["attempts"] == []
    files.serve("/hook", b"", status=503)
    assert send(delivery) == "failed"
    files.serve("/hook", b"", status=204)
    assert send(delivery, 1) == "delivered"
    found = api.get(delivery["status_url"]).json()
    assert found["state"] == "delivered"
    assert found["next_try_at"] is None
    assert [attempt["status"] for attempt in found["attempts"]] == [503, 204]
    assert "503" in found["attempts"][0]["error"]
    assert found["attempts"][1]["error"] == ""
    assert all(0 <= attempt["milliseconds"] < 5000 for attempt in found["attempts"])


def test_the_deliveries_that_were_given_up_are_found_without_reading_the_others(
    api: Any, user: Any, services: Services
) -> None:
    from image_editor.models import Callback

    now = timezone.now()
    old = {"user": user, "url": "https://example.org/", "next_try_at": now, "created_at": now - timedelta(days=1)}
    Callback.objects.bulk_create(Callback(**old, state="delivered") for _ in range(5000))
    Callback.objects.bulk_create(
        Callback(**old | {"created_at": now - timedelta(days=2)}, state="dead") for _ in range(3)
    )
    services.psql("VACUUM ANALYZE callback", database="app")
    found = []
    rows = rows_read(services, lambda: found.append(api.get(f"{DELIVERIES}?state=dead").json()), table="callback")
    assert len(found[0]["items"]) == 3
    assert rows <= 20


def test_the_log_of_a_delivery_does_not_grow_without_bound(api: Any, files: Any, monkeypatch: Any) -> None:
    from image_editor.webhooks import callbacks

    monkeypatch.setattr(callbacks, "ATTEMPTS_KEPT", 3)
    delivery = event(api, files.url("/nothing"))
    for tries in range(5):
        send(delivery, tries)
    files.serve("/nothing", b"")
    send(delivery, 5)
    assert [attempt["status"] for attempt in api.get(delivery["status_url"]).json()["attempts"]] == [404, 404, 200]


def test_callbacks_of_edits_and_batches_are_in_the_log_of_their_owner(api: Any, files: Any) -> None:
    from image_editor.models import Callback

    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia", "callback_url": files.url("/hook")}
    edit = post(api, body).json()
    api.post(edit["status_url"] + "/cancel")
    batch = post(api, {"items": [body], "callback_url": files.url("/hook")}, "/api/v1/batches").json()
    api.post(batch["status_url"] + "/cancel")
    document = api.get(DELIVERIES).json()
    subjects = {(found["edit_id"], found["batch_id"]) for found in document["items"]}
    assert subjects == {(edit["id"], None), (batch["items"][0]["id"], None), (None, batch["id"])}
    Callback.objects.filter(edit=edit["id"]).update(state="dead")
    (dead,) = api.get(f"{DELIVERIES}?state=dead").json()["items"]
    assert dead["edit_id"] == edit["id"]
    for subject, found in (("edit_id", edit["id"]), ("batch_id", batch["id"])):
        (one,) = api.get(f"{DELIVERIES}?{subject}={found}").json()["items"]
        assert one[subject] == found
    first = api.get(f"{DELIVERIES}?limit=2").json()
    rest = api.get(first["next"]).json()
    assert [found["id"] for found in first["items"] + rest["items"]] == [found["id"] for found in document["items"]]


def test_a_row_of_an_earlier_release_is_delivered(api: Any, files: Any) -> None:
    from image_editor.models import Callback

    files.serve("/hook", b"")
    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia", "callback_url": files.url("/hook")}
    api.post(post(api, body).json()["status_url"] + "/cancel")
    Callback.objects.update(user=None)
    assert send({"id": str(Callback.objects.get().pk)}) == "delivered"


def test_a_delivery_is_repeated_by_hand_with_the_same_id(api: Any, files: Any) -> None:
    from image_editor.webhooks import callbacks

    files.serve("/hook", b"")
    delivery = event(api, files.url("/hook"))
    problem(api.post(delivery["status_url"] + "/redeliver"), 409, "delivery_pending")
    assert send(delivery) == "delivered"
    again = api.post(delivery["status_url"] + "/redeliver")
    assert again.status_code == 202
    assert again.json()["state"] == "pending"
    assert callbacks.publish_due() == 1
    assert send(delivery) == "delivered"
    assert [headers["webhook-id"] for _, headers, _ in files.seen] == [delivery["id"]] * 2
    assert len(api.get(delivery["status_url"]).json()["attempts"]) == 2


def test_deliveries_of_other_users_answer_404(api: Any, files: Any) -> None:
    delivery = event(api, files.url("/hook"))
    make_user("bob", "b" * 43)
    bob = Client(headers={"Authorization": f"Bearer {'b' * 43}"})
    problem(bob.get(delivery["status_url"]), 404)
    problem(bob.post(delivery["status_url"] + "/redeliver"), 404)
    assert bob.get(DELIVERIES).json()["items"] == []


def test_test_events_and_repetitions_count_against_the_limits(api: Any, files: Any, settings: Any) -> None:
    settings.RATE_PER_MINUTE, settings.QUOTA_PER_DAY = 0, 2
    files.serve("/hook", b"")
    delivery = event(api, files.url("/hook"))
    send(delivery)
    assert api.post(delivery["status_url"] + "/redeliver").status_code == 202
    problem(post(api, {"url": files.url("/hook")}, TEST), 429)
    send(delivery)
    problem(api.post(delivery["status_url"] + "/redeliver"), 429)


def test_old_test_events_are_removed_once_they_have_ended(api: Any, files: Any) -> None:
    from image_editor.models import Callback
    from image_editor.pipeline import retention

    files.serve("/hook", b"")
    pending, ended, new = (event(api, files.url("/hook")) for _ in range(3))
    send(ended)
    send(new)
    long_ago = timezone.now() - timedelta(days=31)
    Callback.objects.filter(pk__in=[pending["id"], ended["id"]]).update(created_at=long_ago)
    retention.purge(30)
    assert {str(callback.pk) for callback in Callback.objects.all()} == {pending["id"], new["id"]}
