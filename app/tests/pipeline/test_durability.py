"""Whichever process dies, every edit answered with 202 ends with exactly one result and one callback."""

import io
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from conftest import TOKEN, children, finished
from helpers import post, upload
from services import Proxy, Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


# No time limit passes within a test. The lease is renewed every 5 s.
PATIENT = {
    "IMAGE_EDITOR_TASK_TIME_LIMIT": "60",
    "IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT": "50",
    "IMAGE_EDITOR_VISIBILITY_TIMEOUT": "150",
}


def submit(api: Any, files: Any, path: str, prompt: str = "greyscale") -> str:
    body = {"image_url": files.url(path), "prompt": prompt, "callback_url": files.url("/callback")}
    answer = api.post("/api/v1/edits", body, content_type="application/json")
    assert answer.status_code == 202, answer.content
    return answer.json()["id"]


def rows(edit_id: str) -> Any:
    from image_editor.models import Edit

    return Edit.objects.get(pk=edit_id)


def one_effect(api: Any, edit_id: str, seconds: float = 15) -> Any:
    """Check that the edit succeeded exactly once: one row, a stored result and one callback. Returns the row."""
    from image_editor.models import Callback

    document = finished(api, edit_id, seconds)
    assert document["status"] == "succeeded", document
    assert requests.get(document["result_url"], timeout=5).status_code == 200
    assert Callback.objects.filter(edit=edit_id).count() == 1
    return rows(edit_id)


def in_progress(edit_id: str, attempt: int = 1) -> None:
    wait_for(lambda: (row := rows(edit_id)).status == "processing" and row.attempt == attempt, what="processing")


def test_a_killed_pool_process_costs_one_attempt(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    worker = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit_id = submit(api, files, "/slow.jpg")
    in_progress(edit_id)
    (child,) = children(worker.popen.pid)
    os.kill(child, signal.SIGKILL)
    in_progress(edit_id, attempt=2)
    files.release.set()
    assert one_effect(api, edit_id).attempt == 2


def test_an_upload_is_claimed_after_the_first_pool_process_was_killed_before_a_claim(
    api: Any, photo: bytes, start: Callable, services: Services, at_once: Callable
) -> None:
    """The first try of an upload writes no row until it is done. The pool process dies before that."""
    edit_id = api.post("/api/v1/edits", {"image": io.BytesIO(photo), "prompt": "sepia"}).json()["id"]
    nginx = next(process for process in services.processes if process.log.name == "nginx.log")
    nginx.signal_all(signal.SIGSTOP)  # the worker's download of the image hangs
    try:
        worker = start("edit")
        wait_for(lambda: services.admin().hlen("unacked") and not services.admin().llen("edit"), what="taken")
        time.sleep(0.3)
        assert (rows(edit_id).status, rows(edit_id).attempt) == ("queued", 0)
        assert at_once()["edit"] == 0, "a message that a worker holds was published again"
        (child,) = children(worker.popen.pid)
        os.kill(child, signal.SIGKILL)
        in_progress(edit_id)
    finally:
        nginx.signal_all(signal.SIGCONT)
    assert finished(api, edit_id)["status"] == "succeeded"
    row = rows(edit_id)
    assert (row.attempt, row.result_name.partition(edit_id)[2]) == (1, "/1.jpg")


def test_an_upload_that_comes_twice_has_one_effect(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    """Two processes work on the same unclaimed edit. The result of one of them is refused."""
    fields = {"image": io.BytesIO(photo), "prompt": "sepia", "callback_url": files.url("/callback")}
    edit_id = api.post("/api/v1/edits", fields).json()["id"]
    (message,) = services.admin().lrange("edit", 0, -1)
    services.admin().lpush("edit", message)
    worker = start("edit", concurrency=2)
    row = one_effect(api, edit_id)
    assert (row.attempt, row.result_name.partition(edit_id)[2]) == (1, "/0.jpg")
    wait_for(lambda: not services.admin().hlen("unacked"), what="both are done")
    assert worker.log.read_text().count('"outcome": "succeeded"') == 1
    assert rows(edit_id).finished_at == row.finished_at


def test_an_edit_of_a_killed_worker_is_done_by_another_worker(
    api: Any, photo: bytes, files: Any, start: Callable, at_once: Callable
) -> None:
    worker = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit_id = submit(api, files, "/slow.jpg")
    in_progress(edit_id)
    worker.kill()
    files.release.set()
    start("edit")
    wait_for(lambda: at_once()["edit"], 15, "the lease ends and the edit is published again")
    assert one_effect(api, edit_id).attempt == 2


def test_a_frozen_worker_that_resumes_cannot_finish_its_edit_any_more(
    api: Any, photo: bytes, files: Any, start: Callable, at_once: Callable
) -> None:
    frozen = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit_id = submit(api, files, "/slow.jpg")
    in_progress(edit_id)
    frozen.signal_all(signal.SIGSTOP)
    start("edit")
    files.release.set()
    wait_for(lambda: at_once()["edit"], 15, "the lease ends and the edit is published again")
    row = one_effect(api, edit_id)
    assert (row.attempt, row.result_name.partition(edit_id)[2]) == (2, "/2.jpg")
    frozen.signal_all(signal.SIGCONT)
    time.sleep(2)
    after = one_effect(api, edit_id)
    assert (after.attempt, after.result_name, after.finished_at) == (2, row.result_name, row.finished_at)


def test_duplicate_messages_have_no_second_effect(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    from image_editor.pipeline import publisher
    from image_editor.pipeline.message import EditMessage

    files.serve("/photo.jpg", photo)
    edit_id = submit(api, files, "/photo.jpg")
    message = EditMessage.load(edit_id)
    publisher.publish_edits([message] * 3)
    worker = start("edit", concurrency=2)
    row = one_effect(api, edit_id)
    wait_for(lambda: worker.log.read_text().count("edit dropped") == 3, what="the other three are dropped")
    assert row.attempt == 1
    assert sum(path == "/photo.jpg" for path, _, _ in files.seen) == 1


def test_a_cut_connection_to_the_broker_starts_no_second_attempt(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    """The broker delivers the message again, to another worker, while the first one works."""
    from image_editor.pipeline import broker

    files.serve_held("/slow.jpg", photo)
    start("edit", **PATIENT)
    edit_id = submit(api, files, "/slow.jpg")
    in_progress(edit_id)
    broker.return_unacknowledged(services.admin())
    other = start("edit", **PATIENT)
    wait_for(lambda: "edit dropped" in other.log.read_text(), what="the message is dropped")
    files.release.set()
    assert one_effect(api, edit_id).attempt == 1
    assert [path for path, *_ in files.seen].count("/slow.jpg") == 1


def test_cancelling_stops_the_work(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    """The image never arrives, and no time limit passes. Then the worker does another edit."""
    files.serve_held("/slow.jpg", photo)
    files.serve("/photo.jpg", photo)
    worker = start("edit", **PATIENT)
    edit_id = submit(api, files, "/slow.jpg")
    in_progress(edit_id)
    assert api.post(f"/api/v1/edits/{edit_id}/cancel").status_code == 200
    wait_for(lambda: '"outcome": "overtaken"' in worker.log.read_text(), what="the worker stops")
    assert not files.release.is_set()
    one_effect(api, submit(api, files, "/photo.jpg"))
    assert rows(edit_id).status == "cancelled"


def test_a_flushed_broker_loses_nothing(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services, at_once: Callable
) -> None:
    files.serve("/photo.jpg", photo)
    edits = [submit(api, files, "/photo.jpg") for _ in range(3)]
    assert at_once()["edit"] == 0, "a message in the queue was published again"
    services.admin().flushall()
    assert at_once()["edit"] == 3
    assert at_once()["edit"] == 0, "the messages were published twice"
    start("edit")
    for edit_id in edits:
        assert one_effect(api, edit_id).dispatches == 2


def test_a_killed_broker_loses_no_edit_and_does_not_slow_down_clients(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services
) -> None:
    """The scheduler runs the reconciler, with its real waiting times."""
    files.serve("/photo.jpg", photo)
    worker, _, _ = start("edit"), start("callback,maintenance"), start(beat=True)
    files.serve("/callback", b"")
    services.redis.kill()
    started = time.monotonic()
    edits = [submit(api, files, "/photo.jpg") for _ in range(3)]
    assert time.monotonic() - started < 3
    assert rows(edits[0]).status == "accepted"
    assert api.get(f"/api/v1/edits/{edits[0]}").json()["status"] == "accepted"
    services.start_redis()
    for edit_id in edits:
        one_effect(api, edit_id, 30)
    wait_for(lambda: sum(path == "/callback" for path, _, _ in files.seen) >= 3, 60, "callbacks arrive")
    assert worker.popen.poll() is None


def test_a_frozen_broker_delays_requests_only_briefly_and_loses_no_edit(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services, at_once: Callable
) -> None:
    files.serve("/photo.jpg", photo)
    start("edit")
    services.redis.signal_all(signal.SIGSTOP)
    try:
        started = time.monotonic()
        first = submit(api, files, "/photo.jpg")
        once = time.monotonic() - started
        second = submit(api, files, "/photo.jpg")
        twice = time.monotonic() - started
    finally:
        services.redis.signal_all(signal.SIGCONT)
    assert once < 3, "the first request waited too long for the broker"
    assert twice - once < 1, "the second request waited for the broker, too"
    wait_for(lambda: at_once()["edit"] == 0 and rows(second).status not in ("accepted", "queued"), 20, "taken up")
    one_effect(api, first)
    one_effect(api, second)


def test_a_lost_reply_of_the_broker_has_no_second_effect(
    api: Any, photo: bytes, files: Any, start: Callable, web: Callable, services: Services, at_once: Callable
) -> None:
    proxy = Proxy(services.redis_port)
    proxy.start()
    # One thread, so that the second request uses the first request's connection to Redis.
    base = web(threads=1, **services.through(proxy))
    files.serve("/photo.jpg", photo)
    body = {"image_url": files.url("/photo.jpg"), "prompt": "sepia", "callback_url": files.url("/callback")}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    warm = requests.post(f"{base}/api/v1/edits", json=body, headers=headers, timeout=10).json()
    proxy.deaf.set()
    started = time.monotonic()
    answer = requests.post(f"{base}/api/v1/edits", json=body, headers=headers, timeout=20)
    assert answer.status_code == 202
    assert time.monotonic() - started < 3
    edit_id = answer.json()["id"]
    assert rows(edit_id).status == "accepted"
    at_once()  # the reconciler publishes the edit again
    assert services.admin().llen("edit") >= 3
    start("edit", concurrency=2)
    one_effect(api, warm["id"])
    assert one_effect(api, edit_id).attempt == 1


def test_a_dead_result_backend_stops_nothing(
    api: Any, photo: bytes, files: Any, start: Callable, web: Callable
) -> None:
    dead = {"IMAGE_EDITOR_RESULT_URL": "redis://127.0.0.1:1/2"}
    base = web(**dead)
    worker = start("edit", **dead)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    files.serve("/photo.jpg", photo)
    body = {"image_url": files.url("/photo.jpg"), "prompt": "sepia"}
    for _ in range(3):
        started = time.monotonic()
        answer = requests.post(f"{base}/api/v1/edits", json=body, headers=headers, timeout=10)
        assert answer.status_code == 202
        assert time.monotonic() - started < 2
        edit_id = answer.json()["id"]

        def succeeded(edit_id: str = edit_id) -> bool:
            document = requests.get(f"{base}/api/v1/edits/{edit_id}", headers=headers, timeout=10).json()
            return document["status"] == "succeeded"

        wait_for(succeeded, 15, "the edit succeeds")
    assert worker.popen.poll() is None
    assert requests.get(f"{base}/readyz", timeout=10).status_code == 200


def test_a_database_that_restarts_costs_no_edit(
    api: Any, photo: bytes, files: Any, start: Callable, web: Callable, services: Services
) -> None:
    """All connections are cut during an edit, and before the next edit."""
    base = web()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    start("edit")
    files.serve_held("/slow.jpg", photo)
    body = {"image_url": files.url("/slow.jpg"), "prompt": "sepia", "callback_url": files.url("/callback")}

    def submit_to_web() -> str:
        return requests.post(f"{base}/api/v1/edits", json=body, headers=headers, timeout=10).json()["id"]

    first = submit_to_web()
    in_progress(first)
    connections = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND pid <> %s"
    from django.db import connection

    connection.close()
    services.psql(connections % 0)
    files.release.set()
    assert one_effect(api, first).attempt == 1
    connection.close()
    services.psql(connections % 0)
    assert one_effect(api, submit_to_web()).attempt == 1


def test_edits_are_postponed_while_the_media_host_is_down(
    api: Any, photo: bytes, start: Callable, services: Services, at_once: Callable
) -> None:
    from django.db.models import F

    from image_editor.models import Edit

    answer = api.post("/api/v1/edits", {"image": io.BytesIO(photo), "prompt": "sepia"})
    edit_id = answer.json()["id"]
    with services.media_down():
        start("edit")
        wait_for(lambda: rows(edit_id).retry_at, 15, "postponed")
        refused = api.post("/api/v1/edits", {"image": io.BytesIO(photo), "prompt": "sepia"})
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        assert refused["Retry-After"] == "10"
    Edit.objects.filter(pk=edit_id).update(retry_at=F("accepted_at"))
    assert at_once()["edit"] == 1
    assert finished(api, edit_id)["status"] == "succeeded"
    assert (rows(edit_id).attempt, rows(edit_id).faults) == (2, 1)


def kill_twice(worker: Any, edit_id: str, by: signal.Signals) -> None:
    """Kill the worker's only pool process during the first attempt at the edit, and during the second one."""
    for attempt in (1, 2):
        in_progress(edit_id, attempt)
        (child,) = children(worker.popen.pid)
        os.kill(child, by)


def test_an_image_that_kills_workers_is_given_up(
    api: Any, photo: bytes, files: Any, start: Callable, at_once: Callable
) -> None:
    from image_editor.models import Callback

    worker = start("edit", IMAGE_EDITOR_TASK_ATTEMPTS_MAX="2")
    files.serve_held("/slow.jpg", photo)
    edit_id = submit(api, files, "/slow.jpg")
    kill_twice(worker, edit_id, signal.SIGKILL)
    from django.conf import settings

    settings.TASK_ATTEMPTS_MAX, before = 2, settings.TASK_ATTEMPTS_MAX
    try:
        wait_for(lambda: at_once()["abandoned"], 15, "given up")
    finally:
        settings.TASK_ATTEMPTS_MAX = before
    document = finished(api, edit_id)
    assert (document["status"], document["error"]["code"]) == ("failed", "gave_up")
    assert Callback.objects.filter(edit=edit_id).count() == 1
    assert worker.popen.poll() is None


def test_an_edit_fails_after_its_pool_process_was_killed_twice(
    api: Any, photo: bytes, files: Any, start: Callable
) -> None:
    """The kernel's OOM killer does the same. The worker itself goes on."""
    from image_editor.models import Callback
    from image_editor.pipeline import killed, transitions

    worker = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit_id = submit(api, files, "/slow.jpg")
    kill_twice(worker, edit_id, signal.SIGKILL)
    document = finished(api, edit_id)
    assert (document["status"], document["error"]["code"]) == ("failed", "too_large")
    assert "smaller image" in document["error"]["detail"]
    assert Callback.objects.filter(edit=edit_id).count() == 1
    files.serve("/photo.jpg", photo)
    assert one_effect(api, submit(api, files, "/photo.jpg")).attempt == 1
    assert worker.popen.poll() is None
    assert transitions.requeue(rows(edit_id))
    assert not any(killed.times(edit_id).values())


def test_an_edit_fails_after_it_reached_the_hard_time_limit_twice(
    api: Any, photo: bytes, files: Any, start: Callable, at_once: Callable
) -> None:
    """The pool process is frozen, as in code that no soft limit interrupts. The worker kills it, and goes on."""
    worker = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit_id = submit(api, files, "/slow.jpg")
    for attempt in (1, 2):
        in_progress(edit_id, attempt)
        (child,) = children(worker.popen.pid)
        os.kill(child, signal.SIGSTOP)
        wait_for(lambda: at_once()["edit"], 30, "the process is killed, and the edit is published again")
    document = finished(api, edit_id)
    assert (document["status"], document["error"]["code"]) == ("failed", "too_slow")
    assert rows(edit_id).attempt == 3
    files.serve("/photo.jpg", photo)
    assert one_effect(api, submit(api, files, "/photo.jpg")).attempt == 1


def test_a_pool_process_that_ends_by_another_signal_is_not_counted(
    api: Any, photo: bytes, files: Any, start: Callable
) -> None:
    from image_editor.pipeline import killed

    worker = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit_id = submit(api, files, "/slow.jpg")
    kill_twice(worker, edit_id, signal.SIGSEGV)
    in_progress(edit_id, 3)
    assert not any(killed.times(edit_id).values())
    files.release.set()
    assert one_effect(api, edit_id).attempt == 3


def test_every_accepted_edit_ends_once_while_processes_are_killed(
    api: Any, photo: bytes, files: Any, start: Callable, services: Services, at_once: Callable
) -> None:
    """Edits are submitted while a pool process, a worker and the broker are killed. Some messages come twice.

    Half of the edits have no callback, because the unique constraint on callbacks would hide a second success.
    """
    from collections import Counter

    from image_editor.models import FINAL, Callback, Edit

    url = files.serve("/photo.jpg", photo)
    workers = [start("edit", concurrency=2), start("edit", concurrency=2)]
    accepted, with_callback = [], set()

    def submit_some(count: int) -> None:
        for number in range(count):
            called = {"callback_url": files.url("/callback")} if number % 4 < 2 else {}
            body = {"image_url": url, "prompt": "sepia", **called}
            answer = post(api, body) if number % 2 else upload(api, photo, **called)
            assert answer.status_code == 202, answer.content
            accepted.append(answer.json()["id"])
            if called:
                with_callback.add(accepted[-1])

    def unfinished() -> int:
        at_once()
        return Edit.objects.exclude(status__in=FINAL).count()

    def left() -> str:
        """What an edit that has not ended waits for: its row, the broker, and what the workers say of it."""
        edits = Edit.objects.exclude(status__in=FINAL)
        lines = [f"{services.admin().llen('edit')} messages wait, workers hold {services.admin().hkeys('unacked')}"]
        lines += map(repr, edits.values())
        ids = "|".join(str(edit.pk) for edit in edits)
        for worker in workers:
            log = worker.log.read_text().splitlines()
            lines += [f"{worker.log.name}:", *filter(re.compile(ids).search, log), *log[-10:]]
        return "all edits end\n" + "\n".join(lines)

    submit_some(8)
    os.kill(children(workers[0].popen.pid)[0], signal.SIGKILL)
    submit_some(8)
    workers[1].kill()
    workers.append(start("edit", concurrency=2))
    submit_some(8)
    for message in services.admin().lrange("edit", 0, 3):
        services.admin().lpush("edit", message)
    services.redis.kill()
    submit_some(6)
    services.start_redis()
    submit_some(2)
    wait_for(lambda: unfinished() == 0, 90, left)
    lost = len(accepted) - Edit.objects.filter(pk__in=accepted, status="succeeded").exclude(result_name="").count()
    logs = "".join(worker.log.read_text() for worker in workers)
    successes = Counter(re.findall(r'"task_id": "(\S+)", "attempt": \d+, "outcome": "succeeded"', logs))
    doubled = sum(count - 1 for count in successes.values())
    assert (len(accepted), lost, doubled) == (32, 0, 0)
    assert successes.keys() - with_callback, "the log has no success that could have come twice"
    assert {str(callback.edit_id) for callback in Callback.objects.all()} == with_callback
