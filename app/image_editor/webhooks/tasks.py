"""The Celery task of callbacks. Messages carry its name, so the name never changes."""

from celery import shared_task

from image_editor.webhooks import callbacks


# Two calls would fit into it. The rest is for a failover of PostgreSQL, during which the outcome waits to be recorded.
@shared_task(name="image_editor.tasks.callback", soft_time_limit=5 * callbacks.TIMEOUT, ignore_result=True)
def callback(callback_id: str, tries: int) -> str:
    """Try once to tell a client how its edit or batch ended. Returns the outcome for the metrics."""
    return callbacks.send(callback_id, tries)
