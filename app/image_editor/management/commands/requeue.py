"""``manage.py requeue ID…``, ``--failed CODE`` or ``--callbacks``: start edits and callbacks again."""

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from image_editor.models import Callback, Edit, Status
from image_editor.pipeline import transitions
from image_editor.webhooks import callbacks as callback_rows


class Command(BaseCommand):
    requires_system_checks = []  # ensure_user runs them in each deployment
    help = "Start failed or cancelled edits, or dead callbacks, again. The scheduler publishes them within seconds."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="*", type=UUID, metavar="ID", help="ids of edits")
        parser.add_argument(
            "--failed", metavar="CODE", help="all edits that failed with this error code, such as gave_up"
        )
        parser.add_argument("--callbacks", action="store_true", help="all callbacks whose tries all failed")

    def handle(self, *, ids: list[UUID], failed: str | None, callbacks: bool, **_: Any) -> None:
        if not (ids or failed or callbacks):
            raise CommandError("name the edits by id, or use --failed CODE or --callbacks")
        edits = list(Edit.objects.filter(pk__in=ids))
        if missing := set(ids) - {edit.pk for edit in edits}:
            raise CommandError(f"no such edit: {', '.join(map(str, sorted(missing)))}")
        if failed:
            edits += Edit.objects.filter(status=Status.FAILED, error_code=failed)
        if edits:
            self.stdout.write(f"{sum(transitions.requeue(edit) for edit in edits)} of {len(edits)} edits requeued")
        if callbacks:
            self.stdout.write(f"{callback_rows.requeue(Callback.objects.all())} callbacks requeued")
