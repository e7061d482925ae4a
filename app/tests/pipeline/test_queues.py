"""A queue is defined in one place: image_editor/pipeline/queues.py. Everything else follows from there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import APP
from services import Services

NEW = 'THUMBNAIL = Queue("thumbnail", "edits", ("image_editor.tasks_thumbnail.edit",), {"prompt": "thumbnail"})\n\n'
# Runs in a copy of the application that has one more queue.
CHECK = """
import django
django.setup()
from django.conf import settings
from backend.celery import app
from image_editor.observability import collector, metrics
from image_editor.pipeline import after_restore, queues, reconciler, publisher, tasks

task = "image_editor.tasks_thumbnail.edit"
app.loader.import_default_modules()
assert task in app.tasks, "workers know the task"
assert "thumbnail" in app.amqp.queues, "Celery knows the queue"
assert settings.CELERY_TASK_ROUTES[task] == {"queue": "thumbnail"}
assert app.amqp.router.route({}, task)["queue"].name == "thumbnail", "Celery sends the task there"
metrics.begin(["thumbnail"])
shown = {sample.labels["queue"] for sample in metrics.tasks_total.collect()[0].samples}
assert shown == {"thumbnail"}, "the worker has its series"
assert "thumbnail" in {labels[0] for name, labels, _ in collector.Queues().look() if labels}, "its length is measured"
assert "thumbnail" in reconciler.reconcile(), "lost messages are published again"
assert "thumbnail" in queues.RECONCILED, "a restore compares it"
"""


def test_adding_a_queue_takes_one_entry_in_one_file(clean: None, services: Services, tmp_path: Path) -> None:
    copy = tmp_path / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns(".venv", "__pycache__", "tests"))
    definition = copy / "image_editor/pipeline/queues.py"
    text = definition.read_text().replace("QUEUES = (EDIT, ", f"{NEW}QUEUES = (EDIT, THUMBNAIL, ")
    assert "THUMBNAIL, " in text
    definition.write_text(text)
    counts = tmp_path / "counts"
    counts.mkdir()
    env = os.environ | services.env | {
        "DJANGO_SETTINGS_MODULE": "backend.settings",
        "IMAGE_EDITOR_METRICS_ENABLED": "true",
        "PROMETHEUS_MULTIPROC_DIR": str(counts),
    }  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", CHECK], cwd=copy, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_tasks_without_an_image_load_no_pydantic(services: Services) -> None:
    """It takes 0.3 s of each start, and memory, of workers that only call receivers or remove files."""
    loaded = "import sys, django; sys.argv = ['celery']; django.setup(); import image_editor.pipeline.tasks,"
    loaded += " image_editor.webhooks.tasks; print([name for name in ('pydantic', 'ninja') if name in sys.modules])"
    env = os.environ | services.env | {"DJANGO_SETTINGS_MODULE": "backend.settings"}
    assert subprocess.check_output([sys.executable, "-c", loaded], cwd=APP, env=env, text=True) == "[]\n"


def test_no_other_module_names_a_queue() -> None:
    """Only task names and ``maintenance`` are looked for. The other names of queues are also common words."""
    from image_editor.pipeline import queues

    names = re.compile(r"""["']({})["']""".format("|".join({*queues.ROUTES, "maintenance"})))
    registered = {  # tasks that are registered under an explicit name
        "image_editor/pipeline/tasks.py": set(queues.MAINTENANCE.tasks),
        "image_editor/webhooks/tasks.py": {"image_editor.tasks.callback"},
        "backend/settings.py": set(queues.MAINTENANCE.tasks),  # the schedule
    }
    for folder in ("image_editor", "backend"):
        for path in (APP / folder).rglob("*.py"):
            name = str(path.relative_to(APP))
            if name != "image_editor/pipeline/queues.py":
                assert set(names.findall(path.read_text())) <= registered.get(name, set()), name


def test_every_edit_is_published_to_the_queue_whose_rows_it_is_in() -> None:
    from image_editor.pipeline import queues

    for in_batch in (False, True):
        assert queues.queue_of_edit(in_batch).rows == {"batch__isnull": not in_batch}
        assert [queue.rows for queue in queues.EDIT_QUEUES].count({"batch__isnull": not in_batch}) == 1
