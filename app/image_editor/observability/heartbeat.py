"""A worker's sign of life, from the loop that takes its messages.

A worker whose pool hangs, or that has gone deaf after a reconnection, still answers ping. So this asks more: as long as
there is something to do (messages taken, or waiting in a queue of this worker), something has to begin every now and
then. If nothing does, the sign stays away.
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

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds
FORGOTTEN = 15  # seconds without a sign until a worker no longer counts
# Seconds without anything beginning, though there is something to do, until a worker counts as stuck. A task of ours
# takes no longer than the hard limit.
STUCK = settings.TASK_TIME_LIMIT + 30

# Redis hashes with a field for each worker, which Redis forgets by itself.
WORKERS = "image_editor:workers:%s"


class Heartbeat(bootsteps.StartStopStep):
    """Serves the metrics of a worker and all its pool processes, and beats."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: WorkController, **_: Any) -> None:
        self.began = 0  # tasks
        self.moved_at = time.monotonic()
        self.timer: Any = None

    def start(self, worker: WorkController) -> None:
        self.queues = list(worker.app.amqp.queues.consume_from)
        self.gauge = Gauge(
            "image_editor_worker_heartbeat_seconds",
            "Unix time of the last sign of life of the worker's main loop.",
            ["queue"],
            multiprocess_mode="max",
        )
        self.broker = redis.Redis.from_url(
            settings.BROKER_URL, socket_timeout=1, socket_connect_timeout=1, retry=None, protocol=2
        )
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
        began = sum(state.total_count.values())
        if began != self.began or not self._something_to_do():
            self.began, self.moved_at = began, time.monotonic()
        if time.monotonic() - self.moved_at > STUCK:
            log.error("worker is stuck: there is something to do and nothing begins", extra={"queues": self.queues})
            return
        for queue in self.queues:
            self._sign(queue, worker)

    def _something_to_do(self) -> bool:
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
