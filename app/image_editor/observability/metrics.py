"""What is measured for Prometheus of requests, of the cache and of tasks; app/README.md lists it.

Without IMAGE_EDITOR_METRICS_ENABLED nothing here does anything. Several processes serve one port, so each writes its
numbers to a file in PROMETHEUS_MULTIPROC_DIR, and whoever answers a scrape adds the files up: those of processes that
have ended too, so that no count is lost. The directory lives as long as the service.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from celery import signals
from celery.app.task import Context, Task
from django.conf import settings
from prometheus_client import Counter, Histogram

QUEUES = tuple(settings.CELERY_TASK_QUEUES)
# Task names to the label `task`; what is not here is not counted, so that labels stay few.
TASKS = {
    "image_editor.tasks.edit": "edit",
    "image_editor.tasks_batch.edit": "edit",
    "image_editor.tasks.callback": "callback",
    "image_editor.tasks.reconcile": "reconcile",
    "image_editor.tasks.purge": "purge",
}
OUTCOMES = {
    "edit": ("succeeded", "failed", "postponed", "dropped", "overtaken", "error"),
    "callback": ("delivered", "retried", "dead", "dropped", "error"),
    "reconcile": ("done", "error"),
    "purge": ("done", "error"),
}
REPUBLISHED = ("edit", "batch", "callback")
_TASKS_OF_QUEUES = {
    "edit": ("edit",),
    "batch": ("edit",),
    "callback": ("callback",),
    "maintenance": ("reconcile", "purge"),
}

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
        "From the acceptance of an edit to the first claim of it.",
        ["queue"],
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
    )
    republished_total = Counter(
        "image_editor_reconciler_republished_total", "What the reconciler published again.", ["queue"]
    )


def cache_answered(found: bool) -> None:
    """A look-up in the cache: django-prometheus' own names, for a client that is not Django's."""
    if settings.METRICS_ENABLED:
        answers = cache_metrics.django_cache_hits_total if found else cache_metrics.django_cache_misses_total
        for counter in (cache_metrics.django_cache_get_total, answers):
            counter.labels("redis").inc()


def cache_failed() -> None:
    """A look-up that Redis did not answer."""
    if settings.METRICS_ENABLED:
        cache_metrics.django_cache_get_fail_total.labels("redis").inc()


def claimed(request: Context, accepted_at: str) -> None:
    """The first claim of an edit."""
    if settings.METRICS_ENABLED:
        waited = datetime.now(UTC) - datetime.fromisoformat(accepted_at)
        queue_wait_seconds.labels(_queue(request)).observe(max(waited.total_seconds(), 0))


def _queue(request: Context) -> str:
    name = (request.delivery_info or {}).get("routing_key", "")
    return name if name in QUEUES else "other"


def _began(task: Task, **_: Any) -> None:
    task.request.began = time.perf_counter()


def _ended(task: Task, retval: Any = None, state: str | None = None, **_: Any) -> None:
    name = TASKS.get(task.name)
    if name is None:
        return
    queue = _queue(task.request)
    tasks_total.labels(name, queue, _outcome(name, retval, state)).inc()
    task_seconds.labels(name, queue).observe(time.perf_counter() - task.request.began)
    if name == "reconcile" and isinstance(retval, dict):
        for kind in REPUBLISHED:
            republished_total.labels(kind).inc(retval[kind])


def _outcome(task: str, retval: Any, state: str | None) -> str:
    said = retval.get("outcome", "done") if isinstance(retval, dict) else retval if isinstance(retval, str) else "done"
    said = "retried" if task == "callback" and said == "failed" else said
    return said if state == "SUCCESS" and said in OUTCOMES[task] else "error"


def begin(queues: Iterable[str]) -> None:
    """Let every series of these queues be there before anything happens: a rate needs a 0 to start from."""
    for queue in queues:
        for task in _TASKS_OF_QUEUES.get(queue, ()):
            task_seconds.labels(task, queue)
            for outcome in OUTCOMES[task]:
                tasks_total.labels(task, queue, outcome)
            if task == "edit":
                queue_wait_seconds.labels(queue)
            if task == "reconcile":
                for kind in REPUBLISHED:
                    republished_total.labels(kind)


def watch_tasks() -> None:
    """Count and time every execution in this process."""
    signals.task_prerun.connect(_began)
    signals.task_postrun.connect(_ended)
