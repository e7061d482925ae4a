"""``manage.py openapi``: the OpenAPI document of this release. docs/openapi.json is its output."""

import json
from typing import Any

from django.core.management.base import BaseCommand

from image_editor.api.v1 import api


class Command(BaseCommand):
    help = "Print the OpenAPI document as JSON. Needs neither database nor Redis."
    requires_system_checks = []

    def handle(self, **_: Any) -> None:
        self.stdout.write(json.dumps(api.get_openapi_schema(), indent=1, ensure_ascii=False))
