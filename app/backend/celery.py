"""The Celery application: ``celery -A backend worker|beat``."""

import gc
import os
import sys
from importlib import import_module
from typing import Any

from celery import Celery, signals

from image_editor.pipeline import queues

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.settings")

app = Celery("backend")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["image_editor.pipeline", "image_editor.webhooks"])


@signals.setup_logging.connect
def keep_django_logging(**_: Any) -> None:
    """Leave Django's JSON lines in place. Celery installs a log format of its own unless this signal is connected."""


@signals.celeryd_after_setup.connect
def share_memory(instance: Any, **_: Any) -> None:
    """Before the pool is forked, load what every edit needs, and take what is loaded out of garbage collection.

    Otherwise each child would load it, and copy what is loaded.
    """
    if {queue.name for queue in queues.EDIT_QUEUES} & set(instance.app.amqp.queues.consume_from):
        import_module("image_editor.imaging.operations")
    gc.collect()
    gc.freeze()


# Celery closes the database connection before and after each task. A new one, with TLS and password, costs more than a
# small edit, so connections are kept, and Django closes those that are too old or broken.
app.conf["CELERY_DB_REUSE_MAX"] = sys.maxsize


@signals.task_prerun.connect
def close_old_connections(**_: Any) -> None:
    from django.db import close_old_connections

    close_old_connections()
