"""``manage.py tokens list|make|rotate|revoke``: the API tokens of users. A new token is printed, once."""

import json
from argparse import ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from image_editor import tokens
from image_editor.models import ApiToken

DAYS_MAX = 3650  # as in the API
LINE = "{:36}  {:20}  {:5}  {:16}  {:16}  {:16}  {}"


class Command(BaseCommand):
    requires_system_checks = []  # ensure_user runs them in each deployment
    help = "List, make, rotate and revoke API tokens. A new token is printed alone, and cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="print the tokens of a user, or of all users; times are in UTC")
        listing.add_argument("user", nargs="?")
        make = actions.add_parser("make", help="print a new token of the user")
        make.add_argument("user")
        make.add_argument("name", help="what the token is for")
        make.add_argument("--scope", choices=ApiToken.Scope.values, default="write", help="work: no tokens of others")
        make.add_argument("--days", type=_days, help="after which the token expires; else it does not")
        rotate = actions.add_parser("rotate", help="print a new token with the same name, scope and lifetime")
        rotate.add_argument("--overlap-hours", type=float, default=24, help="for which the former token works")
        revoke = actions.add_parser("revoke", help="refuse the token from now on")
        for action in (rotate, revoke):
            action.add_argument("user")
            action.add_argument("id", type=UUID, help="of the token, as `list` prints it")

    def handle(self, *, action: str, user: str | None, **options: Any) -> None:
        if action == "list":
            self._list(user)
            return
        owner = User.objects.filter(username=user).first()
        if owner is None:
            raise CommandError(f"there is no user {user}: create one with ensure_user")
        try:
            answer = self._make(owner, **options) if action == "make" else self._change(owner, action, **options)
        except tokens.TooMany as error:
            raise CommandError(str(error)) from error
        self.stdout.write(answer)

    @staticmethod
    def _make(owner: User, *, name: str, scope: str, days: float | None, **_: Any) -> str:
        expires_at = timezone.now() + timedelta(days=days) if days else None
        return tokens.make(ApiToken(user=owner, name=name[:64], scope=scope, expires_at=expires_at))

    @staticmethod
    def _change(owner: User, action: str, **options: Any) -> str:
        row = tokens.one_of(owner, options["id"])
        if row is None:
            raise CommandError(f"{owner} has no token {options['id']}: see `tokens list {owner}`")
        if action == "rotate":
            return tokens.rotate(row, timedelta(hours=options["overlap_hours"]))[1]
        row.delete()
        return "revoked"

    def _list(self, user: str | None) -> None:
        rows = ApiToken.objects.select_related("user").order_by("user__username", "-created_at")
        self.stdout.write(LINE.format("id", "user", "scope", "made", "expires", "last used", "name"))
        for row in rows.filter(user__username=user) if user else rows:
            times = map(_minute, (row.created_at, row.expires_at, row.last_used_at))
            # Users choose the names. As JSON, a name is one line without control characters.
            name = json.dumps(row.name, ensure_ascii=False)
            self.stdout.write(LINE.format(str(row.public_id), row.user.username, row.scope, *times, name))


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= DAYS_MAX:  # 0 must not mean "for ever"
        raise ArgumentTypeError(f"give more than 0 days, and at most {DAYS_MAX}")
    return days


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "never"
