"""Puts load on the host's own Redis proxy until it is stopped. Runs with the application's environment and Python.

Prints a line for everything that was acknowledged:
  write TIME NUMBER RUN    Redis process RUN added NUMBER to the list failover:log (about 50 a second)
  edit TIME ID PUBLISHED   the edit ID was accepted (about 9 a second); PUBLISHED is True if its message was published at once
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import uuid

import django
import redis

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402 - needs the line above
from django.utils import timezone  # noqa: E402
from image_editor import storage  # noqa: E402
from image_editor.models import Edit, Status  # noqa: E402
from image_editor.pipeline import transitions  # noqa: E402
from image_editor.pipeline.message import EditMessage  # noqa: E402


def write() -> None:
    """Append numbers to a list, each once. A number that was not acknowledged is not sent again."""
    client = redis.Redis.from_url(
        os.environ["IMAGE_EDITOR_CACHE_URL"], socket_timeout=0.5, socket_connect_timeout=0.5, retry=None
    )
    for number in itertools.count():
        with contextlib.suppress(redis.RedisError), client.pipeline(transaction=False) as pipe:
            _, info = pipe.rpush("failover:log", number).info("server").execute()
            print("write", f"{time.time():.3f}", number, info["run_id"], flush=True)
        time.sleep(0.02)


def accept() -> None:
    """Accept edits of a small image, as the API does."""
    user, _ = get_user_model().objects.get_or_create(username="load")
    with open("/usr/local/lib/load.jpg", "rb") as image:  # noqa: PTH123
        storage.put("uploads/load.jpg", image.read(), "image/jpeg")
    for number in itertools.count():
        # On a slow machine the workers set the pace, so that the backlog does not grow without end.
        while number % 10 == 0 and Edit.objects.filter(finished_at=None).count() > 400:
            time.sleep(1)
        edit, now = str(uuid.uuid4()), timezone.now().isoformat()
        message = EditMessage(edit, "media:uploads/load.jpg", "resize to 16", "", user.pk, user.username, now, fresh=True)
        queued = transitions.accept(message) == Status.QUEUED
        print("edit", f"{time.time():.3f}", edit, queued, flush=True)
        time.sleep(0.1)


threading.Thread(target=write, daemon=True).start()
accept()
