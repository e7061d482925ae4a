"""``manage.py reconcile_after_restore [--files - < names]``: let the pipeline agree with itself after a restore."""

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from image_editor.pipeline import after_restore


class Command(BaseCommand):
    help = (
        "Compare rows, messages, cached documents and, from standard input with --files, the names in the media store. "
        "Mends what can be mended; the last line printed is a report in JSON. Stop API and workers first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--files", action="store_true", help="read the names of all stored files from standard input"
        )

    def handle(self, *, files: bool, **_: Any) -> None:
        names = {line.rstrip("\n") for line in sys.stdin} if files else None
        self.stdout.write(json.dumps(asdict(after_restore.reconcile(names))))
