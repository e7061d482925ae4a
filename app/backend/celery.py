"""The Celery application: ``celery -A backend worker|beat``."""

import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.settings")

app = Celery("backend")
app.config_from_object("django.conf:settings", namespace="CELERY")
for _module in ("tasks", "tasks_batch"):
    app.autodiscover_tasks(["image_editor"], related_name=_module)


@signals.setup_logging.connect
def keep_django_logging(**_: Any) -> None:
    """Celery would install its own log format; connecting to this signal leaves Django's JSON lines in place."""


@signals.worker_process_init.connect
def trust_connections(**_: Any) -> None:
    """Skip the ``SELECT 1`` before each task: a worker's statements retry on a lost connection instead."""
    from django.db import connections

    connections.settings["default"]["CONN_HEALTH_CHECKS"] = False
