"""``manage.py ensure_user NAME [--staff] < token``: create a user who holds exactly this token."""

import sys
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from image_editor.auth import TOKEN_MIN_CHARS, digest
from image_editor.models import ApiToken


class Command(BaseCommand):
    help = (
        "Create the user, or update it, so that its one API token is the one read from standard input. "
        "The last line printed is 'changed' or 'unchanged'."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--staff", action="store_true", help="may use the Django admin with all rights")

    def handle(self, *, name: str, staff: bool, **_: Any) -> None:
        token = sys.stdin.read().strip()
        if len(token) < TOKEN_MIN_CHARS:
            raise CommandError(f"standard input must hold a token of at least {TOKEN_MIN_CHARS} characters")
        with transaction.atomic():
            user, changed = User.objects.get_or_create(username=name)
            wanted = {"is_staff": staff, "is_superuser": staff, "is_active": True}
            if any(getattr(user, field) != value for field, value in wanted.items()):
                User.objects.filter(pk=user.pk).update(**wanted)
                changed = True
            if list(user.api_tokens.values_list("digest", flat=True)) != [digest(token)]:
                user.api_tokens.all().delete()
                if ApiToken.objects.filter(digest=digest(token)).exists():
                    raise CommandError("another user holds this token: each user needs a token of its own")
                ApiToken.objects.create(user=user, digest=digest(token))
                changed = True
        self.stdout.write("changed" if changed else "unchanged")
