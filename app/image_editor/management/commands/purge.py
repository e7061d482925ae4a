"""``manage.py purge --days 30``: do at once what the scheduler does in short rounds."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from image_editor import storage
from image_editor.pipeline import retention


class Command(BaseCommand):
    requires_system_checks = []  # ensure_user runs them in each deployment
    help = "Remove edits that ended more than --days days ago, with their images and callbacks."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=float, default=settings.RETENTION_DAYS or None)

    def handle(self, *, days: float | None, **_: Any) -> None:
        if days is None or days <= 0:
            raise CommandError("retention is switched off: use --days")
        try:
            self.stdout.write(f"{retention.purge(days)} edits removed")
        except storage.StorageUnavailable as error:
            raise CommandError(f"the media store is not available: {error}") from error
