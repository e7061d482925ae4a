"""gunicorn's configuration in tests: the hook of roles/web/templates/gunicorn.conf.py.j2 that clients notice."""

from typing import Any


def post_worker_init(worker: Any) -> None:
    from image_editor.api.waiting import end_with_this_process

    end_with_this_process()
