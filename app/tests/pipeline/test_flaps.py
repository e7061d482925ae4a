"""Connections to the broker are cut: a worker hoards no messages, and every edit ends once.

`make test` runs 300 edits. With SOAK, as `make soak` sets it, there are 10,000, under production's time limits.
FUZZ_SEED decides when the connections are cut.
"""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pyvips
from conftest import FUZZ_SEED, Files
from helpers import post, upload
from services import Process, Proxy, Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

SOAK = bool(os.environ.get("SOAK"))
# Edits, edits from one slow edit of each process to the next, and seconds between two cuts at most.
COUNT, SLOW_EVERY, CALM = (10_000, 250, 6.0) if SOAK else (300, 100, 3.0)
PROCESSES = 2
BACKLOG = 200  # messages in the queue: more than a worker should take
SLOW = 5.0  # seconds; most reconnections take less, so a slow edit goes on after them
# Seconds. Production's limits, or limits with which an abandoned message comes back soon.
TIME_LIMIT, VISIBILITY_TIMEOUT = (120, 300) if SOAK else (12, 15)


def limits(time_limit: int, visibility_timeout: int) -> dict[str, str]:
    """Settings of a worker, in seconds."""
    return {
        "IMAGE_EDITOR_TASK_TIME_LIMIT": str(time_limit),
        "IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT": str(time_limit * 5 // 6),
        "IMAGE_EDITOR_VISIBILITY_TIMEOUT": str(visibility_timeout),
    }


class Held:
    """The messages of a queue that its only worker has taken and not acknowledged, in samples."""

    def __init__(self, services: Services, queue: str) -> None:
        self.broker, self.queue = services.admin(), queue
        self.cut_at = 0.0  # when all connections of the worker were last cut
        self.samples: list[tuple[float, set[tuple[bytes, float]]]] = []  # cut_at; tag and time of each delivery
        self.seen_until: dict[tuple[bytes, float], float] = {}

    def sample(self) -> None:
        from image_editor.pipeline.broker import UNACKNOWLEDGED, UNACKNOWLEDGED_INDEX

        cut_at = self.cut_at
        pipe = self.broker.pipeline().hgetall(UNACKNOWLEDGED).zrange(UNACKNOWLEDGED_INDEX, 0, -1, withscores=True)
        entries, index = pipe.execute()
        times = dict(index)
        deliveries = {(tag, times[tag]) for tag, entry in entries.items() if json.loads(entry)[2] == self.queue}
        self.samples.append((cut_at, deliveries))
        self.seen_until |= dict.fromkeys(deliveries, time.time())

    def most(self) -> int:
        """The most messages that the worker held at a time.

        A worker that loses its connection returns its messages to the queue. If it cannot reach the broker, the entries
        stay. The worker forgets the messages that it has not started. After the visibility timeout, any worker returns
        them. So an entry was abandoned, and does not count, if it was delivered before a cut and stayed that long. The
        entry of an edit that goes on counts: the edit acknowledges it earlier.
        """
        abandoned = {(tag, at) for (tag, at), end in self.seen_until.items() if end - at >= VISIBILITY_TIMEOUT}
        return max(
            sum(delivery not in abandoned or delivery[1] >= cut_at for delivery in deliveries)
            for cut_at, deliveries in self.samples
        )


@contextlib.contextmanager
def repeating(call: Callable[[], None], pause: Callable[[], float]) -> Iterator[None]:
    """Call a function again and again in a thread, with a pause in seconds before each call."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(pause()):
            call()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ends(files: Files) -> dict[str, list[tuple[str, str]]]:
    """The ends of each edit that the receiver got: the id of the delivery, and the edit without signatures of URLs."""
    got = defaultdict(list)
    for path, headers, body in list(files.seen):
        if path == "/callback":
            edit = json.loads(body)["edit"]
            unsigned = {name: str(value).partition("?")[0] for name, value in edit.items()}
            got[edit["id"]].append((headers["webhook-id"], json.dumps(unsigned)))
    return got


def test_a_worker_takes_no_message_after_a_cut_while_its_processes_are_busy(
    api: Any, photo: bytes, files: Files, start: Callable, services: Services
) -> None:
    from image_editor.models import Edit

    proxy, admin = Proxy(services.redis_port), services.admin()
    proxy.start()
    worker = start("edit", **limits(60, 150), **services.through(proxy))
    post(api, {"image_url": files.serve_held("/held.jpg", photo), "prompt": "sepia"})
    wait_for(lambda: files.seen, what="the edit is under way")
    for _ in range(3):
        upload(api, photo)
    proxy.cut()
    wait_for(lambda: worker.log.read_text().count("Connected to") == 2, what="the worker has connected again")
    time.sleep(1)
    assert (admin.llen("edit"), admin.hlen("unacked")) == (4, 0)
    files.release.set()
    wait_for(lambda: Edit.objects.filter(status="succeeded").count() == 4, what="all edits end")


def test_cut_connections_hoard_nothing_lose_nothing_and_repeat_nothing(
    api: Any, files: Files, start: Callable, services: Services, settings: Any, at_once: Callable, figure: Callable
) -> None:
    """An effect is an end of an edit, as the receiver of the callbacks sees it.

    Another ``webhook-id`` or another document about the same edit is a doubled effect. The same delivery may come
    again, because a callback is delivered at least once.
    """
    from django.db.models.functions import Now

    from image_editor.models import Callback, Edit

    settings.RATE_PER_MINUTE = settings.QUOTA_PER_DAY = 0
    tiny = pyvips.Image.black(64, 64).write_to_buffer(".jpg")
    url, callback_url = files.serve("/tiny.jpg", tiny), files.serve("/callback", b"")

    def late(handler: Any) -> None:
        time.sleep(SLOW)
        files.routes["/tiny.jpg"](handler)

    files.routes["/late.jpg"] = late
    admin, chance, held, restarts = services.admin(), random.Random(FUZZ_SEED), Held(services, "edit"), 0
    proxy = Proxy(services.redis_port)
    proxy.start()
    worker = start("edit", concurrency=PROCESSES, **limits(TIME_LIMIT, VISIBILITY_TIMEOUT), **services.through(proxy))
    start("callback", concurrency=2, **limits(TIME_LIMIT, VISIBILITY_TIMEOUT))

    def flap() -> None:
        if outage := chance.choice((0, 0, 0, 0.5, 2)):
            proxy.down.set()
        held.cut_at = time.time()
        proxy.cut()
        time.sleep(outage)
        proxy.down.clear()

    def restart() -> None:
        """Start a worker that ended, as its unit does: a cut at the wrong moment ends Celery."""
        nonlocal restarts
        if worker.popen.poll() is not None:
            restarts += 1
            worker.signal_all(signal.SIGKILL)  # its pool processes
            held.cut_at = time.time()
            Process.start(worker)  # without waiting until it is ready

    def submit(number: int) -> str:
        wait_for(lambda: admin.llen("edit") < BACKLOG, 120, "the worker takes messages")
        body = {"prompt": "sepia", "callback_url": callback_url}
        if number % SLOW_EVERY < PROCESSES:
            answer = post(api, body | {"image_url": files.url("/late.jpg")})
        else:
            answer = upload(api, tiny, **body) if number % 4 else post(api, body | {"image_url": url})
        assert answer.status_code == 202, answer.content
        return answer.json()["id"]

    def all_ended() -> bool:
        if any((admin.llen("edit"), admin.llen("callback"), admin.hlen("unacked"))):
            return False
        Callback.objects.filter(state="pending").update(next_try_at=Now())
        at_once()
        return accepted <= ends(files).keys()

    with repeating(held.sample, lambda: 0.01), repeating(restart, lambda: 0.1):
        with repeating(flap, lambda: chance.uniform(0.2, CALM)):
            accepted = {submit(number) for number in range(COUNT)}
            wait_for(lambda: not admin.llen("edit"), 120, "the queue is empty")
        with contextlib.suppress(AssertionError):  # the figure tells what is lost
            wait_for(all_ended, VISIBILITY_TIMEOUT + 60)
    got = ends(files)
    succeeded = {edit for edit, deliveries in got.items() if '"status": "succeeded"' in deliveries[0][1]}
    repeated = sum(len(deliveries) - len(set(deliveries)) for deliveries in got.values())
    cuts = worker.log.read_text().count("Connection to broker lost")
    print(f"{COUNT} edits, {cuts} lost connections, {restarts} restarts, {repeated} repeated deliveries")
    lost = Edit.objects.filter(pk__in=accepted - succeeded)
    print("lost:", *lost.values_list("pk", "status", "error_code", "dispatches"))
    print("on the broker:", admin.hgetall("unacked"), "unacked_mutex", admin.ttl("unacked_mutex"))
    figure("unacked_over_concurrency_max", held.most() - PROCESSES, "messages", 1)
    figure("pipeline_accepted_lost", len(accepted - succeeded), "edits", 0)
    figure("pipeline_effects_doubled", sum(len(set(deliveries)) - 1 for deliveries in got.values()), "effects", 0)
