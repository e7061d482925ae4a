"""``manage.py reconcile_after_restore [--files < names]``: repair what a restore left inconsistent."""

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from image_editor.pipeline import after_restore


class Command(BaseCommand):
    requires_system_checks = []  # ensure_user runs them in each deployment
    help = (
        "Compare rows, messages, cached documents and, with --files, the names in the media store, and repair what "
        "differs. The last line printed is a report in JSON. Stop the API and the workers first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--files", action="store_true", help="read the names of all stored files from standard input"
        )

    def handle(self, *, files: bool, **_: Any) -> None:
        names = {line.rstrip("\n") for line in sys.stdin} if files else None
        self.stdout.write(json.dumps(asdict(after_restore.reconcile(names))))
