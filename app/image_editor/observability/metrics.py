"""Prometheus metrics of tasks and of the cache; docs/app/processes.md lists them.

Without IMAGE_EDITOR_METRICS_ENABLED this module does nothing. Several processes serve one port, so each process writes
its numbers to a file in PROMETHEUS_MULTIPROC_DIR. A scrape adds up the files, including those of processes that have
ended, so that no count is lost. The directory lives as long as the service.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from celery import signals
from celery.app.task import Task
from django.conf import settings
from prometheus_client import Counter, Histogram

from image_editor.pipeline import queues

# The label `outcome` by the label `task`. A task that is not listed ends in "done" or "error".
OUTCOMES = {
    "edit": ("succeeded", "failed", "postponed", "dropped", "overtaken", "error"),
    "callback": ("delivered", "retried", "dead", "dropped", "waiting", "error"),
}
DEFAULT_OUTCOMES = ("done", "error")

if settings.METRICS_ENABLED:
    from django_prometheus.cache import metrics as cache_metrics

    tasks_total = Counter("image_editor_tasks_total", "Executions of tasks that ended.", ["task", "queue", "outcome"])
    task_seconds = Histogram(
        "image_editor_task_seconds",
        "Processing time of one execution.",
        ["task", "queue"],
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    )
    queue_wait_seconds = Histogram(
        "image_editor_queue_wait_seconds",
        "Time from the acceptance of an edit to its first claim.",
        ["queue"],
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
    )
    republished_total = Counter(
        "image_editor_reconciler_republished_total", "Messages that the reconciler published again.", ["queue"]
    )


def cache_answered(found: bool) -> None:
    """Count a look-up in the cache, under django-prometheus' names although the client is not Django's."""
    if settings.METRICS_ENABLED:
        answers = cache_metrics.django_cache_hits_total if found else cache_metrics.django_cache_misses_total
        for counter in (cache_metrics.django_cache_get_total, answers):
            counter.labels("redis").inc()


def cache_failed() -> None:
    """Count a look-up that Redis did not answer."""
    if settings.METRICS_ENABLED:
        cache_metrics.django_cache_get_fail_total.labels("redis").inc()


def claimed(queue: str, accepted_at: str) -> None:
    """Observe how long an edit waited, at its first claim. ``accepted_at`` is in ISO 8601."""
    if settings.METRICS_ENABLED:
        waited = datetime.now(UTC) - datetime.fromisoformat(accepted_at)
        queue_wait_seconds.labels(_known(queue)).observe(max(waited.total_seconds(), 0))


def _known(queue: str) -> str:
    """The label of a queue: queues that we did not define share one, so that labels stay few."""
    return queue if queue in queues.NAMES else "other"


def _began(task: Task, **_: Any) -> None:
    task.request.began = time.perf_counter()


def _ended(task: Task, retval: Any = None, state: str | None = None, **_: Any) -> None:
    if task.name not in queues.ROUTES:
        return
    name, queue = queues.label(task.name), _known((task.request.delivery_info or {}).get("routing_key", ""))
    tasks_total.labels(name, queue, _outcome(name, retval, state)).inc()
    task_seconds.labels(name, queue).observe(time.perf_counter() - task.request.began)
    if name == "reconcile" and isinstance(retval, dict):
        for reconciled in queues.RECONCILED:
            republished_total.labels(reconciled).inc(retval[reconciled])


def _outcome(task: str, retval: Any, state: str | None) -> str:
    """The label ``outcome`` of an execution: what the task returned, or ``error`` if that is no known outcome."""
    said = retval.get("outcome", "done") if isinstance(retval, dict) else retval if isinstance(retval, str) else "done"
    said = "retried" if task == "callback" and said == "failed" else said
    return said if state == "SUCCESS" and said in OUTCOMES.get(task, DEFAULT_OUTCOMES) else "error"


def begin(names: Iterable[str]) -> None:
    """Create every series of these queues at 0 before anything happens: a rate needs a first value."""
    for queue in queues.QUEUES:
        for task in queue.tasks if queue.name in names else ():
            label = queues.label(task)
            task_seconds.labels(label, queue.name)
            for outcome in OUTCOMES.get(label, DEFAULT_OUTCOMES):
                tasks_total.labels(label, queue.name, outcome)
            if queue.carries == "edits":
                queue_wait_seconds.labels(queue.name)
            if label == "reconcile":
                for reconciled in queues.RECONCILED:
                    republished_total.labels(reconciled)


def watch_tasks() -> None:
    """Count and time every execution in this process."""
    signals.task_prerun.connect(_began)
    signals.task_postrun.connect(_ended)
