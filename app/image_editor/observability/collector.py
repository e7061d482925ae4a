"""Metrics of the platform as a whole: the queues, the states of edits and callbacks, and who sends the periodic jobs.

Two threads look every few seconds, one at Redis and one at PostgreSQL. A scrape is answered with what they saw last, so
it never waits. What a source no longer answers is left out, and `image_editor_collector_up` says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from django.db import connection
from django.db.models import Count, F
from django.db.models.functions import Now
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from image_editor.models import FINAL, UNFINISHED, Callback, Edit, MediaGap, MediaStore, SchedulerLease
from image_editor.observability.heartbeat import WORKERS
from image_editor.pipeline import broker, queues

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds between two looks
KNOWN = 3 * EVERY  # seconds; older values are not shown
# Counting ended edits reads the whole table. So it is done once a minute at most, and takes 1% of the time at most.
SELDOM, SHARE = 60.0, 100

_NAMES = {
    "image_editor_queue_length": ("Messages that wait in the queue.", ["queue"]),
    "image_editor_queue_oldest_age_seconds": ("Time since the message that waits longest was accepted.", ["queue"]),
    "image_editor_queue_workers": ("Workers with a recent heartbeat that take messages from the queue.", ["queue"]),
    "image_editor_unacknowledged": ("Messages that workers hold and have not acknowledged.", []),
    "image_editor_edits": ("Edits by status.", ["status"]),
    "image_editor_callbacks": ("Callbacks by state.", ["state"]),
    "image_editor_scheduler_lease_seconds": ("Time until the lease of the scheduler on this host ends.", ["host"]),
    "image_editor_media_missing": ("Files in which the media host may differ from the others.", ["store"]),
    "image_editor_media_complete": ("Whether the media host was compared with the others.", ["store"]),
}
Sample = tuple[str, tuple[str, ...], float]


class Source:
    """Calls ``look`` every few seconds, in a thread of its own, and keeps what it returned."""

    def __init__(self, name: str, look: Callable[[], Iterable[Sample]]) -> None:
        self.name, self.look = name, look
        self.seen: list[Sample] = []
        self.seen_at = -KNOWN  # monotonic

    def run(self) -> None:
        while True:
            try:
                self.seen = list(self.look())
                self.seen_at = time.monotonic()
            except Exception as error:
                self.seen_at = -KNOWN
                log.warning("collector: %s does not answer", self.name, extra={"error": repr(error)})
            time.sleep(EVERY)

    def samples(self) -> list[Sample] | None:
        """What was seen last; None if that is too long ago."""
        return self.seen if time.monotonic() - self.seen_at < KNOWN else None


class Platform(Collector):
    """The metrics of both sources, for a registry."""

    def __init__(self) -> None:
        self.sources = [Source("redis", Queues().look), Source("postgresql", Tables().look)]

    def start(self) -> None:
        for source in self.sources:
            threading.Thread(target=source.run, name=source.name, daemon=True).start()

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("image_editor_collector_up", "Whether the source answers.", labels=["source"])
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in _NAMES.items()}
        for source in self.sources:
            samples = source.samples()
            up.add_metric([source.name], samples is not None)
            for name, labels, value in samples or ():
                families[name].add_metric(labels, value)
        yield up
        yield from (family for family in families.values() if family.samples)


class Queues:
    """Looks at the broker: how many messages wait, for how long, and how many workers take them."""

    def __init__(self) -> None:
        self.client = broker.client(seconds=2)
        self.oldest: dict[str, tuple[str, float]] = {}  # by queue: the next task, and since when it waits

    def look(self) -> Iterator[Sample]:
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hlen(broker.UNACKNOWLEDGED)
            for queue in queues.NAMES:
                pipe.llen(queue)
                pipe.lindex(queue, -1)
                pipe.hkeys(WORKERS % queue)
            unacked, *found = pipe.execute()
        yield "image_editor_unacknowledged", (), unacked
        for queue, length, oldest, workers in zip(queues.NAMES, found[::3], found[1::3], found[2::3], strict=True):
            yield "image_editor_queue_length", (queue,), length
            yield "image_editor_queue_oldest_age_seconds", (queue,), self._age(queue, oldest)
            yield "image_editor_queue_workers", (queue,), len(workers)

    def _age(self, queue: str, raw: bytes | None) -> float:
        """Seconds since the edit was accepted. For a message about no edit: since it became the next to be taken."""
        now = time.time()
        if raw is None:
            self.oldest.pop(queue, None)
            return 0.0
        message = broker.StoredMessage.read(raw, queue)
        known, since = self.oldest.get(queue, ("", now))
        if known != message.task_id:
            since = _accepted_at(message) or now
            self.oldest[queue] = (message.task_id, since)
        return max(now - since, 0.0)


def _accepted_at(message: broker.StoredMessage) -> float | None:
    """Unix time of the acceptance of the edit that a message is about. None if it is about no edit."""
    try:
        if isinstance(message.argument, dict):
            return datetime.fromisoformat(message.argument["accepted_at"]).timestamp()
        if message.task in queues.EDIT_TASKS:  # TASK_PAYLOAD=id
            row = Edit.objects.filter(pk=message.argument).values_list("accepted_at", flat=True).first()
            return row.timestamp() if row else None
    except Exception as error:
        connection.close()
        log.debug("collector: cannot tell when a message was accepted", extra={"error": repr(error)})
    return None


class Tables:
    """Looks at the rows: the lease and unfinished rows every time, by an index; ended ones and gaps less often."""

    def __init__(self) -> None:
        self.counted: list[Sample] = []
        self.next_count = 0.0

    def look(self) -> Iterator[Sample]:
        try:
            for holder, left in SchedulerLease.objects.values_list("holder", F("expires_at") - Now()):
                yield "image_editor_scheduler_lease_seconds", (holder.partition(":")[0],), left.total_seconds()
            yield from self._count("image_editor_edits", Edit, "status", UNFINISHED)
            yield from self._count("image_editor_callbacks", Callback, "state", (Callback.State.PENDING,))
            if time.monotonic() >= self.next_count:
                began = time.monotonic()
                self.counted = [
                    *self._count("image_editor_edits", Edit, "status", FINAL),
                    *self._count("image_editor_callbacks", Callback, "state", (Callback.State.DEAD,)),
                    *self._media(),
                ]
                self.next_count = time.monotonic() + max(SELDOM, SHARE * (time.monotonic() - began))
            yield from self.counted
        except Exception:
            connection.close()
            raise

    @staticmethod
    def _media() -> Iterator[Sample]:
        """Of each media host, if there are several."""
        gaps = dict(MediaGap.objects.values_list("store").annotate(Count("pk")).order_by())
        for name, complete in MediaStore.objects.values_list("name", "complete"):
            yield "image_editor_media_missing", (name,), gaps.get(name, 0)
            yield "image_editor_media_complete", (name,), complete

    @staticmethod
    def _count(name: str, model: type[Edit] | type[Callback], column: str, values: tuple[str, ...]) -> list[Sample]:
        rows = model.objects.filter(**{f"{column}__in": values}).values_list(column).annotate(Count("pk")).order_by()
        return [(name, (str(value),), count) for value, count in (dict.fromkeys(values, 0) | dict(rows)).items()]
