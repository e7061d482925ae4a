from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin.apps import SimpleAdminConfig
from django.utils.translation import gettext_lazy as _


class AdminConfig(SimpleAdminConfig):  # backend.urls discovers the admin's pages
    default_site = "image_editor.admin_site.Site"


class ImageEditorConfig(AppConfig):
    default = True
    name = "image_editor"
    verbose_name = _("Image editor")

    def ready(self) -> None:
        if settings.METRICS_ENABLED:
            from backend.celery import app
            from image_editor.observability import metrics

            metrics.watch_tasks()
            app.steps["worker"].add("image_editor.observability.heartbeat:Heartbeat")
