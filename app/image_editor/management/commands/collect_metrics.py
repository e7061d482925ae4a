"""``manage.py collect_metrics``: serve metrics of queues and tables at IMAGE_EDITOR_METRICS_LISTEN."""

import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from prometheus_client import CollectorRegistry

from image_editor.observability import metrics_server
from image_editor.observability.collector import Platform


class Command(BaseCommand):
    help = "Serve metrics of the queues and tables to Prometheus, the same from each host that runs this command."
    requires_system_checks = []

    def handle(self, **_: Any) -> None:
        if not settings.METRICS_LISTEN:
            raise CommandError("set IMAGE_EDITOR_METRICS_LISTEN to address:port")
        platform = Platform()
        platform.start()
        registry = CollectorRegistry()
        registry.register(platform)
        if not metrics_server.serve(registry):
            raise CommandError(f"cannot serve metrics at {settings.METRICS_LISTEN}")
        threading.Event().wait()
