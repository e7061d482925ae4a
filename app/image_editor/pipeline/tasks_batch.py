"""Items of batches: the same edit, on a queue and workers of their own, so that they never hold up a single edit."""

from typing import Any

from celery import shared_task

from image_editor.pipeline.tasks import run


@shared_task(bind=True, name="image_editor.tasks_batch.edit")
def edit(self: Any, payload: dict[str, Any] | str) -> dict[str, str]:
    """Edit one picture of a batch."""
    return run(self.request, payload)
