from django.apps import AppConfig
from django.conf import settings
from django.utils.translation import gettext_lazy as _


class ImageEditorConfig(AppConfig):
    name = "image_editor"
    verbose_name = _("Image editor")

    def ready(self) -> None:
        if settings.METRICS_ENABLED:
            from backend.celery import app
            from image_editor.observability import metrics

            metrics.watch_tasks()
            app.steps["worker"].add("image_editor.observability.heartbeat:Heartbeat")
