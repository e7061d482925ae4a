"""Where an edit stands: the same answers with and without Celery's result backend, and PostgreSQL has the last word."""

import io
import json
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import finished
from helpers import post, upload
from services import Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["result backend", "own keys"])
def source(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Both sources of transient states, in this process and (as environment) in the workers."""
    from image_editor.pipeline import state_cache

    enabled = request.param == "result backend"
    states = state_cache.ResultBackendStates() if enabled else state_cache.CacheStates()
    monkeypatch.setattr(state_cache.states, "transient", states)
    env = {"IMAGE_EDITOR_CELERY_RESULT_BACKEND_ENABLED": str(enabled).lower()}
    if not enabled:
        env["IMAGE_EDITOR_RESULT_URL"] = ""  # not needed then
    return env


def under_way(api: Any, files: Any, photo: bytes, start: Callable, env: dict[str, str]) -> Any:
    files.serve_held("/slow.jpg", photo)
    worker = start("edit", **env)
    edit = post(api, {"image_url": files.url("/slow.jpg"), "prompt": "sepia"}).json()
    assert api.get(edit["status_url"]).json()["status"] in ("queued", "processing")
    from image_editor.pipeline.state_cache import states

    wait_for(lambda: api.get(edit["status_url"]).json()["status"] == "processing", what="processing")
    # The row says so a moment before the worker's first progress is written.
    wait_for(lambda: states.progress(edit["id"]), what="the worker's progress")
    return worker, edit


def test_states_are_seen_as_they_happen(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services, source: dict[str, str]
) -> None:
    from image_editor.pipeline.state_cache import states

    _, edit = under_way(api, files, photo, start, source)
    document = api.get(edit["status_url"]).json()
    assert (document["attempt"], document["result_url"], document["started_at"] is None) == (1, None, False)
    kept = services.admin(2 if source["IMAGE_EDITOR_CELERY_RESULT_BACKEND_ENABLED"] == "true" else 1)
    assert any(edit["id"].encode() in key for key in kept.scan_iter()), "kept where the switch says"
    assert 0 < kept.ttl(next(key for key in kept.scan_iter() if edit["id"].encode() in key)) <= 3600
    files.release.set()
    assert finished(api, edit["id"])["status"] == "succeeded"
    assert states.get(edit["id"])["status"] == "succeeded", "final answers are cached"


def test_a_task_result_is_compressed_and_expires(api: Any, photo: bytes, start: Callable, services: Services) -> None:
    """Celery marks a compressed result in front of it, with the name of the compression."""
    start("edit")
    edit = api.post("/api/v1/edits", {"image": io.BytesIO(photo), "prompt": "sepia"}).json()
    finished(api, edit["id"])
    kept, key = services.admin(2), f"celery-task-meta-{edit['id']}"

    def result() -> dict[str, Any] | None:
        mark, compression, body = (kept.get(key) or b"\0\0\0").removeprefix(b"\0").split(b"\0", 2)
        if not body:
            return None
        assert (mark, compression) == (b"celery-compressed", b"application/x-gzip")
        found = json.loads(zlib.decompress(body))
        return found if found["status"] == "SUCCESS" else None

    assert wait_for(result, what="the result is stored")["result"]["outcome"] == "succeeded"
    assert 0 < kept.ttl(key) <= 3600


def test_polling_reads_no_row(
    api: Any, photo: bytes, files: Any, start: Callable, django_assert_num_queries: Any, source: dict[str, str]
) -> None:
    _, edit = under_way(api, files, photo, start, source)
    with django_assert_num_queries(0):
        assert api.get(edit["status_url"]).json()["status"] == "processing"
    files.release.set()
    finished(api, edit["id"])
    with django_assert_num_queries(0):
        assert api.get(edit["status_url"]).json()["status"] == "succeeded"


def test_the_row_has_the_last_word(
    api: Any, photo: bytes, files: Any, start: Callable, source: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edit is cancelled and Redis is not told. Redis keeps the old state for an hour, but it counts for seconds."""
    from image_editor.models import Edit
    from image_editor.pipeline import state_cache

    worker, edit = under_way(api, files, photo, start, source)
    worker.kill()
    Edit.objects.filter(pk=edit["id"]).update(status="cancelled")
    monkeypatch.setattr(state_cache, "TRANSIENT_TRUSTED", 1)
    time.sleep(1.1)
    assert api.get(edit["status_url"]).json()["status"] == "cancelled"


def test_cancelling_is_seen_at_once(
    api: Any, photo: bytes, files: Any, start: Callable, source: dict[str, str]
) -> None:
    """Also if the worker, which does not know yet, writes its progress once more."""
    from image_editor.pipeline.state_cache import states

    _, edit = under_way(api, files, photo, start, source)
    progress = states.progress(edit["id"])
    api.post(edit["status_url"] + "/cancel")
    states.set_progress(edit["id"], progress)
    assert api.get(edit["status_url"]).json()["status"] == "cancelled"


def test_a_requeued_edit_does_not_keep_its_former_state(
    api: Any, photo: bytes, start: Callable, services: Services, at_once: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cached state could not be removed when the edit was requeued."""
    from image_editor.models import Edit
    from image_editor.pipeline import transitions
    from image_editor.pipeline.state_cache import states

    edit = upload(api, photo).json()
    assert api.post(edit["status_url"] + "/cancel").status_code == 200
    services.admin().delete("edit")
    with monkeypatch.context() as redis_down:
        redis_down.setattr(states, "forget", lambda edit_id: None)
        assert transitions.requeue(Edit.objects.get(pk=edit["id"]))
    assert api.get(edit["status_url"]).json()["status"] == "accepted"
    start("edit")
    assert at_once()["edit"] == 1
    wait_for(lambda: api.get(edit["status_url"]).json()["status"] == "succeeded", what="the edit is seen to succeed")


@pytest.mark.parametrize(("status", "seconds"), [("succeeded", 24 * 3600), ("failed", 60), ("cancelled", 60)])
def test_an_end_that_a_requeue_can_change_is_cached_briefly(
    clean: None, services: Services, status: str, seconds: int
) -> None:
    """A requeue may not reach Redis."""
    from image_editor.pipeline.state_cache import states

    states.set_final("an-id", {"status": status})
    assert seconds - 10 < services.admin(1).ttl("edit:final:an-id") <= seconds


def test_without_redis_the_database_answers(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services, source: dict[str, str]
) -> None:
    edit = post(api, {"image_url": files.serve("/photo.jpg", photo), "prompt": "sepia"}).json()
    start("edit", **source)
    finished(api, edit["id"])
    services.redis.kill()
    try:
        started = time.monotonic()
        for _ in range(5):
            assert api.get(edit["status_url"]).json()["status"] == "succeeded"
        assert time.monotonic() - started < 3
    finally:
        services.start_redis()


def test_the_soft_time_limit_of_a_task_is_no_failure_of_the_cache(clean: None) -> None:
    from celery.exceptions import SoftTimeLimitExceeded

    from image_editor.pipeline.state_cache import states

    def late() -> None:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        states.attempt(late, None)


def test_progress_moves(api: Any, files: Any, start: Callable, source: dict[str, str]) -> None:
    import pyvips

    noise = pyvips.Image.gaussnoise(3000, 3000).cast("uchar").write_to_buffer(".jpg")
    prompt = "blur 50, " * 4 + "convert to png"  # about two seconds on an idle machine
    edit = post(api, {"image_url": files.serve("/large.jpg", noise), "prompt": prompt}).json()
    limits = {"TASK_TIME_LIMIT": "30", "TASK_SOFT_TIME_LIMIT": "25", "VISIBILITY_TIMEOUT": "60"}
    start("edit", **source, **{f"IMAGE_EDITOR_{name}": value for name, value in limits.items()})
    seen: list[int] = []

    def ended() -> bool:
        document = api.get(edit["status_url"]).json()
        seen.append(document["percent"])
        return document["status"] == "succeeded"

    wait_for(ended, 30, "the edit succeeds")
    assert seen == sorted(seen)
    assert len(set(seen)) > 3, seen


def test_a_long_success_is_answered_from_the_row(services: Services) -> None:
    """Else one user could fill Redis, which also carries the queue, with the prompts of a day."""
    from image_editor.pipeline.state_cache import states

    for prompt, cached in (("sepia", True), ("😀" * 2000, False)):
        states.set_final("an-id", {"status": "succeeded", "prompt": prompt})
        assert bool(services.admin(1).delete("edit:final:an-id")) is cached
    states.set_final("an-id", {"status": "cancelled", "prompt": "😀" * 2000})
    assert states.get("an-id")["status"] == "cancelled", "for a minute, and at once"
