"""Batches: accepted as a whole or refused, processed from their own queue, counted, and announced by one callback."""

from collections.abc import Callable
from typing import Any

import pytest
from helpers import post, problem
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BATCHES = "/api/v1/batches"


def items(files: Any, count: int, **more: str) -> list[dict[str, str]]:
    return [{"image_url": files.url("/photo.jpg"), "prompt": f"resize to {10 + n}x10", **more} for n in range(count)]


def batch_finished(api: Any, batch: dict[str, Any], seconds: float = 20) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        document = api.get(batch["status_url"]).json()
        return document if document["status"] == "finished" else None

    return wait_for(ended, seconds, "the batch finishes")


def test_every_edit_of_a_batch_succeeds_and_the_batch_callback_is_sent_once(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    from image_editor.models import Edit

    files.serve("/photo.jpg", photo)
    files.serve("/item", b"")
    files.serve("/batch", b"")
    body = {"items": items(files, 10, callback_url=files.url("/item")), "callback_url": files.url("/batch")}
    answer = post(api, body, BATCHES)
    assert answer.status_code == 202, answer.content
    batch = answer.json()
    assert (batch["total"], batch["finished"], batch["status"]) == (10, 0, "processing")
    assert (services.admin().llen("batch"), services.admin().llen("edit")) == (10, 0)
    assert list(Edit.objects.values_list("status", "dispatches").distinct()) == [("queued", 1)]
    start("batch", concurrency=2)
    start("callback")
    done = batch_finished(api, batch)
    assert done["finished"] == 10
    assert [item["result"]["width"] for item in done["items"]] == list(range(10, 20))
    assert {item["status"] for item in done["items"]} == {"succeeded"}
    wait_for(lambda: [path for path, _, _ in files.seen].count("/batch") == 1, what="the batch's callback")
    wait_for(lambda: [path for path, _, _ in files.seen].count("/item") == 10, what="the items' callbacks")
    assert api.get(BATCHES).json()["items"][0]["id"] == batch["id"]
    assert len(api.get("/api/v1/edits").json()["items"]) == 10


def test_a_batch_with_an_invalid_item_is_refused_as_a_whole(api: Any, files: Any, services: Services) -> None:
    from image_editor.models import Batch, Edit

    good = items(files, 2)
    bad = [{"image_url": "http://10.0.0.1/", "prompt": "sepia"}, {"image_url": good[0]["image_url"], "prompt": "smile"}]
    errors = problem(post(api, {"items": [*good, *bad]}, BATCHES), 422, "items_invalid")["errors"]
    assert [(error["index"], error["code"]) for error in errors] == [(2, "image_url_refused"), (3, "prompt_unknown")]
    problem(post(api, {"items": []}, BATCHES), 422)
    problem(post(api, {"items": good * 51}, BATCHES), 422)
    problem(post(api, {"items": [{"prompt": "sepia"}]}, BATCHES), 422)
    problem(post(api, {"items": good, "callback_url": "http://10.0.0.1/"}, BATCHES), 422)
    assert Batch.objects.count() == Edit.objects.count() == services.admin().llen("batch") == 0
    assert post(api, {"items": good * 50}, BATCHES).status_code == 202


@pytest.mark.parametrize("prompt", ["blur 3.217", "make it nice"])
def test_a_prompt_of_many_items_is_parsed_once(api: Any, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is not understood: every item of the batch names it."""
    from image_editor.imaging import prompts
    from image_editor.imaging.engines import local

    for cache in (prompts._remembered, local.parse):
        cache.cache_clear()
    parsed, folded = [], prompts._folded
    monkeypatch.setattr(prompts, "_folded", lambda text: parsed.append(text) or folded(text))
    item = {"image_url": "https://example.org/a.jpg", "prompt": prompt}
    answer = post(api, {"items": [item] * 100}, BATCHES)
    assert parsed == [prompt]
    if answer.status_code == 422:
        assert len(problem(answer, 422, "items_invalid")["errors"]) == 100
    else:
        assert len(answer.json()["items"]) == 100


def test_a_running_batch_does_not_delay_a_single_edit(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    from conftest import finished

    files.serve_held("/photo.jpg", photo)
    files.serve("/quick.jpg", photo)
    start("batch")
    start("edit")
    assert post(api, {"items": items(files, 100)}, BATCHES).status_code == 202
    edit = post(api, {"image_url": files.url("/quick.jpg"), "prompt": "sepia"}).json()
    assert finished(api, edit["id"], 5)["status"] == "succeeded"


def test_a_failed_item_counts_as_finished_and_has_an_error(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    files.serve("/photo.jpg", photo)
    files.serve("/broken.jpg", photo[: len(photo) // 2])
    body = {"items": [*items(files, 1), {"image_url": files.url("/broken.jpg"), "prompt": "sepia"}]}
    batch = post(api, body, BATCHES).json()
    start("batch")
    done = batch_finished(api, batch)
    assert [item["status"] for item in done["items"]] == ["succeeded", "failed"]
    assert done["items"][1]["error"]["code"] == "image_truncated"


def test_a_repeated_batch_is_accepted_once_and_can_be_cancelled(api: Any, user: Any, files: Any) -> None:
    from image_editor.models import Callback
    from image_editor.pipeline.state_cache import states

    body = {"items": items(files, 3), "callback_url": files.url("/batch")}
    first, again = post(api, body, BATCHES, Idempotency_Key="b"), post(api, body, BATCHES, Idempotency_Key="b")
    assert first.json()["id"] == again.json()["id"]
    assert again["Idempotency-Replayed"] == "true"
    problem(post(api, {"items": items(files, 2)}, BATCHES, Idempotency_Key="b"), 422, "idempotency_key_reused")
    for _ in range(2):
        cancelled = api.post(first.json()["status_url"] + "/cancel").json()
        assert (cancelled["status"], cancelled["finished"]) == ("finished", 3)
    # A worker that does not know yet reports progress once more.
    item = cancelled["items"][0]
    states.set_progress(item["id"], item | {"status": "processing", "percent": 50, "user_id": user.pk})
    assert api.get(item["status_url"]).json()["status"] == "cancelled"
    assert Callback.objects.filter(batch=first.json()["id"]).count() == 1


def test_a_batch_survives_a_broker_that_is_down(
    api: Any,
    photo: bytes,
    files: Any,
    start: Callable,
    services: Services,
    at_once: Callable,
) -> None:
    files.serve("/photo.jpg", photo)
    services.redis.kill()
    batch = post(api, {"items": items(files, 5)}, BATCHES).json()
    assert {item["status"] for item in batch["items"]} == {"accepted"}
    services.start_redis()
    assert at_once()["batch"] == 5
    start("batch")
    assert batch_finished(api, batch)["finished"] == 5
