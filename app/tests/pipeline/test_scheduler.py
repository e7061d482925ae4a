"""Of two schedulers, one sends the periodic jobs. The other takes over when the first one is lost, and only then."""

import atexit
import json
import signal
import time
from collections.abc import Callable

import pytest
from conftest import Worker
from services import Proxy, Services, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

# Seconds. The tests' settings send the reconciler every second, and no worker takes it.
TAKEOVER = 30
WATCHED = 6  # longer than a scheduler sleeps


def sent(scheduler: Worker) -> int:
    """How often a scheduler has tried to send the reconciler."""
    return scheduler.log.read_text().count("Sending due task reconcile")


def sends(scheduler: Worker, seconds: float, what: str) -> None:
    """Wait until a scheduler sends more than it has sent."""
    before = sent(scheduler)
    wait_for(lambda: sent(scheduler) > before, seconds, what)


def ticks(services: Services) -> int:
    """How many messages of the reconciler the broker has."""
    messages = services.admin().lrange("maintenance", 0, -1)
    return sum(json.loads(message)["headers"]["task"].endswith(".reconcile") for message in messages)


def only_one_sends(services: Services, active: Worker, idle: Worker) -> None:
    """Both run. The broker gets one message a second, all of them from the active scheduler."""
    began, messages, before, silent = time.monotonic(), ticks(services), sent(active), sent(idle)
    time.sleep(WATCHED)
    new, most = ticks(services) - messages, time.monotonic() - began + 1
    assert sent(idle) == silent, "both send"
    assert 1 <= new <= min(most, sent(active) - before + 1), "a message is from nobody, or came twice"
    assert (active.popen.poll(), idle.popen.poll()) == (None, None), "a scheduler has ended"


@pytest.fixture
def pair(clean: None, start: Callable[..., Worker]) -> Callable[..., tuple[Worker, Worker]]:
    """Starts two schedulers. The first one has the lease. The settings are for the first one."""

    def _pair(**env: str) -> tuple[Worker, Worker]:
        first = start(beat=True, **env)
        sends(first, 20, "the first scheduler has the lease")
        second = start(beat=True)
        wait_for(lambda: "beat: Starting" in second.log.read_text(), 20, "the second scheduler runs")
        return first, second

    return _pair


def test_a_frozen_scheduler_is_replaced_and_sends_nothing_when_it_wakes_up(pair: Callable, services: Services) -> None:
    first, second = pair()
    only_one_sends(services, first, second)
    first.signal_all(signal.SIGSTOP)
    sends(second, TAKEOVER, "the second scheduler takes over")
    first.signal_all(signal.SIGCONT)
    only_one_sends(services, second, first)
    assert "scheduler lease lost" in first.log.read_text()


def test_a_scheduler_that_ends_is_replaced_before_its_lease_ends(pair: Callable, start: Callable) -> None:
    from image_editor.pipeline import scheduler

    first, second = pair()
    first.stop()
    sends(second, scheduler.LEASE - 3, "the second scheduler has the lease that the first one has released")
    second.kill()
    third = start(beat=True)
    sends(third, scheduler.LEASE - 3, "the third scheduler sees that the second one was killed")


def test_a_scheduler_survives_the_loss_of_its_connections_to_the_database(pair: Callable, services: Services) -> None:
    """It keeps the lease on a new connection. Without a connection it sends nothing, and the other one takes over."""
    proxy = Proxy(services.postgres_port)
    proxy.start()
    url = services.env["IMAGE_EDITOR_DATABASE_URL"]
    through = url.replace(f":{services.postgres_port}/", f":{proxy.port}/")
    first, second = pair(IMAGE_EDITOR_DATABASE_URL=through)
    lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%INTO scheduler_lease%'"
    assert services.psql(f"{lost} AND pid <> pg_backend_pid()"), "no scheduler had a session"
    only_one_sends(services, first, second)

    proxy.down.set()
    proxy.cut()
    wait_for(lambda: "scheduler lease lost" in first.log.read_text(), 15, "the first scheduler notices")
    sends(second, TAKEOVER, "the second scheduler takes over")
    proxy.down.clear()
    only_one_sends(services, second, first)


def test_a_scheduler_that_cannot_reach_the_broker_passes_the_lease_on(pair: Callable, services: Services) -> None:
    proxy = Proxy(services.redis_port)
    proxy.start()
    first, second = pair(**services.through(proxy))
    proxy.down.set()
    proxy.cut()
    sends(second, TAKEOVER, "the second scheduler takes over")
    only_one_sends(services, second, first)


def test_a_job_is_not_sent_if_the_lease_has_ended_since_it_was_renewed(clean: None, services: Services) -> None:
    from backend.celery import app
    from image_editor.pipeline.scheduler import LeasedScheduler

    scheduler = LeasedScheduler(app=app)
    atexit.unregister(scheduler.lease.release)
    entry = scheduler.schedule["reconcile"]
    assert scheduler.lease.renew()
    scheduler.lease.ends_at = time.monotonic()
    scheduler.apply_entry(entry, scheduler.producer)
    assert ticks(services) == 0
    assert scheduler.lease.renew()
    scheduler.apply_entry(entry, scheduler.producer)
    assert ticks(services) == 1
    scheduler.close()
