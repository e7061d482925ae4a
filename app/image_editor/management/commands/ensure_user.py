"""``manage.py ensure_user NAME [--staff] < token``: a user who exists, is active and has this token, among others."""

import sys
from argparse import BooleanOptionalAction
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from image_editor import tokens
from image_editor.auth import TOKEN_MIN_CHARS
from image_editor.models import ApiToken


class Command(BaseCommand):
    help = (
        "Create the user if it does not exist, make it active, and add the token from standard input to its tokens. "
        "It keeps its other tokens and its rights. A token that was revoked or replaced, or has expired, is refused. "
        "The last line printed is 'changed' or 'unchanged'."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--token-name", default="from an operator", help="what a new token is for")
        parser.add_argument(
            "--staff", action=BooleanOptionalAction, help="give or take all rights in the Django admin; else they stay"
        )

    def handle(self, *, name: str, token_name: str, staff: bool | None, **_: Any) -> None:
        token = sys.stdin.read().strip()
        if len(token) < TOKEN_MIN_CHARS:
            raise CommandError(f"standard input must hold a token of at least {TOKEN_MIN_CHARS} characters")
        wanted = {"is_active": True}
        if staff is not None:
            wanted |= {"is_staff": staff, "is_superuser": staff}
        with transaction.atomic():
            user, changed = User.objects.get_or_create(username=name)
            if any(getattr(user, field) != value for field, value in wanted.items()):
                User.objects.filter(pk=user.pk).update(**wanted)
                changed = True
            changed |= _give(user, token, token_name)
        self.stdout.write("changed" if changed else "unchanged")


def _give(user: User, token: str, name: str) -> bool:
    """Let the user have this token. False if that is so already; then its scope and its expiry stay."""
    found = tokens.digest(token)
    row = tokens.by_digest(found).first()
    if row and row.user_id != user.pk:
        raise CommandError("another user holds this token: each user needs a token of its own")
    if tokens.was_revoked(found) or (row and row.expired):
        raise CommandError(
            "this token was revoked or replaced, or has expired, and is not brought back: "
            "put the new token into the vault, or where this one came from"
        )
    if row is None:
        ApiToken.objects.create(user=user, digest=found, name=name)
    return row is None
