"""A worker's heartbeat, from the loop that takes its messages.

A worker whose pool hangs, or that takes no messages after a reconnection, still answers ping. So the heartbeat asks for
more: while the worker has something to do (messages taken, or waiting in one of its queues), tasks must keep starting.
If none does, the heartbeat stops.
"""

import logging
import time
from typing import Any

import redis
from celery import bootsteps
from celery.worker import WorkController, state
from django.conf import settings
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.multiprocess import MultiProcessCollector

from image_editor.observability import metrics, metrics_server
from image_editor.pipeline import broker

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds between two heartbeats
FORGOTTEN = 15  # seconds without a heartbeat until a worker no longer counts
# A worker is stuck if it has something to do and no task started for this many seconds. A task takes no longer than the
# hard time limit.
STUCK = settings.TASK_TIME_LIMIT + 30

# Redis hashes with a field for each worker. Redis removes a field when it expires.
WORKERS = "image_editor:workers:%s"


class Heartbeat(bootsteps.StartStopStep):
    """Serves the metrics of a worker and all its pool processes, and sends the heartbeat."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: WorkController, **_: Any) -> None:
        self.started = 0  # tasks
        self.moved_at = time.monotonic()
        self.timer: Any = None

    def start(self, worker: WorkController) -> None:
        self.queues = list(worker.app.amqp.queues.consume_from)
        self.gauge = Gauge(
            "image_editor_worker_heartbeat_seconds",
            "Unix time of the last heartbeat of the worker's main loop.",
            ["queue"],
            multiprocess_mode="max",
        )
        self.broker = broker.client(seconds=1)
        metrics.begin(self.queues)
        if settings.METRICS_LISTEN:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
            metrics_server.serve(registry)
        self.timer = worker.timer.call_repeatedly(EVERY, self.beat, (worker.hostname,))
        self.beat(worker.hostname)

    def stop(self, worker: WorkController) -> None:
        if self.timer:
            self.timer.cancel()

    def beat(self, worker: str) -> None:
        """Send a heartbeat for each queue, unless the worker is stuck."""
        started = sum(state.total_count.values())
        if started != self.started or not self._has_work():
            self.started, self.moved_at = started, time.monotonic()
        if time.monotonic() - self.moved_at > STUCK:
            log.error("worker is stuck: it has messages and no task starts", extra={"queues": self.queues})
            return
        for queue in self.queues:
            self._sign(queue, worker)

    def _has_work(self) -> bool:
        if state.reserved_requests:
            return True
        try:
            return any(self.broker.llen(queue) for queue in self.queues)
        except redis.RedisError:
            return False

    def _sign(self, queue: str, worker: str) -> None:
        self.gauge.labels(queue).set(time.time())
        try:
            self.broker.execute_command("HSETEX", WORKERS % queue, "EX", FORGOTTEN, "FIELDS", 1, worker, 1)
        except redis.RedisError as error:
            log.debug("heartbeat not written", extra={"error": repr(error)})
