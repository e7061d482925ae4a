"""The Celery application: ``celery -A backend worker|beat``."""

import gc
import os
import sys
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.settings")

app = Celery("backend")
app.config_from_object("django.conf:settings", namespace="CELERY")
for _module in ("tasks", "tasks_batch"):
    app.autodiscover_tasks(["image_editor.pipeline"], related_name=_module)


@signals.setup_logging.connect
def keep_django_logging(**_: Any) -> None:
    """Celery would install its own log format; connecting to this signal leaves Django's JSON lines in place."""


@signals.celeryd_after_setup.connect
def share_memory(**_: Any) -> None:
    """Before the pool is forked: what is loaded stays out of collections, or each child would copy it."""
    gc.collect()
    gc.freeze()


# Celery would close the database connection before and after each task: a new one, with its TLS and password, costs
# more than a small edit. Django knows when one is too old or broken.
app.conf["CELERY_DB_REUSE_MAX"] = sys.maxsize


@signals.task_prerun.connect
def keep_connections(**_: Any) -> None:
    from django.db import close_old_connections

    close_old_connections()
