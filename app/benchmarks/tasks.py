"""A task that does nothing, under the settings that edits have."""

from typing import Any

from celery import shared_task


@shared_task(name="benchmarks.noop")
def noop(payload: Any) -> None:
    pass
