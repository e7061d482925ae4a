"""API tokens: made, rotated and revoked here, for the API, the admin and the commands. Only digests are stored.

The previous release knows neither scope nor expiry. So the digest of a limited token is stored in capitals. That
release does not find it, and refuses the token instead of accepting too much.

A token knows the token with which it was made, its parent. With a token ends everything that descends from it.
"""

import hashlib
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone

from image_editor.models import ApiToken, RevokedToken

LIVE_MAX = 50  # tokens of one user that have not expired
KEPT = timedelta(days=7)  # for which an expired token stays in the list
EXPIRED_MAX = 50  # of them: tokens that last a second would make the list endless
USE_PACE = timedelta(minutes=1)  # the last use is exact to this: a write for each request would cost too much


class TooMany(Exception):
    """The user has as many tokens as one user may have."""


class Replaced(Exception):
    """The token was replaced by one that is in use."""


def digest(token: str) -> str:
    """SHA-256 of a token, in hex: the only part of a token that is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def by_digest(found: str) -> QuerySet[ApiToken]:
    """The row with this digest, if there is one, limited or not."""
    return ApiToken.objects.filter(digest__in=(found, found.upper()))


def valid(found: str, **more: Any) -> ApiToken | None:
    """The row with this digest and its active user, if the token has not expired. ``more`` are other conditions."""
    row = by_digest(found).select_related("user").filter(user__is_active=True, **more).first()
    if row is None or row.expired:
        return None
    # The previous release may have removed its parent alone.
    return row if row.parent_id is None or ApiToken.objects.filter(pk=row.parent_id).exists() else None


def of(user: User | str) -> QuerySet[ApiToken]:
    """The tokens of a user, or of the user with an id, the newest first."""
    return ApiToken.objects.filter(user=user).order_by("-created_at", "-pk")


def one_of(user: User | str, public_id: UUID) -> ApiToken | None:
    """The user's token with this id."""
    return next((row for row in of(user) if row.public_id == public_id), None)


def descends(row: ApiToken, ancestor: ApiToken) -> bool:
    """Whether a token is another one, or was made with it, or with one that descends from it."""
    parents = dict(of(row.user).values_list("pk", "parent"))
    at: int | None = row.pk
    while at is not None and at != ancestor.pk:
        at = parents.pop(at, None)
    return at is not None


def live(user: User) -> int:
    """How many tokens of a user have not expired."""
    return of(user).filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now())).count()


def check_room(user: User) -> None:
    """Raises TooMany if the user has LIVE_MAX tokens. Until the transaction ends, nobody else makes one."""
    list(User.objects.select_for_update(no_key=True).filter(pk=user.pk))
    if live(user) >= LIVE_MAX:
        detail = f"at most {LIVE_MAX} tokens of a user: revoke one that is not used any more"
        raise TooMany(detail)


def make(row: ApiToken) -> str:
    """Save a new row, and return its token, which nobody can read later. Raises TooMany."""
    token = secrets.token_urlsafe(32)
    row.digest = digest(token).upper() if row.limited else digest(token)
    with transaction.atomic():
        check_room(row.user)
        _clear(row.user)
        row.save(force_insert=True)
        if row.expires_at:
            row.lifetime = row.expires_at - row.created_at
            row.save(update_fields=["lifetime"])
    return token


def _clear(user: User) -> None:
    """Remove the tokens that expired long ago, and all but the last EXPIRED_MAX that expired since then."""
    now = timezone.now()
    expired = of(user).filter(expires_at__lte=now)
    last = expired.order_by("-expires_at", "-pk").values_list("pk", flat=True)[:EXPIRED_MAX]
    expired.filter(Q(expires_at__lt=now - KEPT) | ~Q(pk__in=list(last))).delete()


def rotate(row: ApiToken, overlap: timedelta, itself: bool = False) -> tuple[ApiToken, str]:
    """A new token with the name, the scope and the lifetime of a former one, which expires after the overlap.

    If it replaces ``itself``, the lifetime begins with that of the former one.

    Repeated calls end no token earlier that is in use: a client whose answer was lost asks again. A token does not
    replace itself again once its replacement is used: whoever asks then is somebody else. Without an overlap, the
    former token is revoked with all that descends from it, and makes room for the new one. With one, these belong to
    the new one.

    Raises TooMany, Replaced, or ApiToken.DoesNotExist if it was revoked meanwhile.
    """
    now = timezone.now()
    new = ApiToken(user=row.user, name=row.name, scope=row.scope, parent_id=row.parent_id)
    if row.lifetime:
        new.expires_at = (row.created_at if itself else now) + row.lifetime
    with transaction.atomic():
        row = ApiToken.objects.select_for_update(of=("self",)).select_related("user").get(pk=row.pk)
        if itself and row.replaced_by_id:
            former = ApiToken.objects.filter(pk=row.replaced_by_id, last_used_at=None).first()
            if former is None:
                raise Replaced
            former.delete()
        if not overlap:
            row.delete()
            return new, make(new)
        end = min(now + overlap, row.expires_at or now + overlap)
        remember(row)
        token = make(new)
        ApiToken.objects.filter(pk=row.pk).update(expires_at=end, digest=row.digest.upper(), replaced_by=new)
        row.children.update(parent=new)
    return new, token


def used(row: ApiToken) -> None:
    """Record that a token is used now."""
    now = timezone.now()
    if row.last_used_at is None or row.last_used_at < now - USE_PACE:
        ApiToken.objects.filter(pk=row.pk).update(last_used_at=now)
        row.last_used_at = now


def was_revoked(found: str) -> bool:
    """Whether a token with this digest was revoked or replaced, or was removed from the list after it had expired."""
    return RevokedToken.objects.filter(digest=found).exists()


@receiver(post_delete, sender=ApiToken)
def remember(instance: ApiToken, **_: Any) -> None:
    """Note a token that is removed, by whomever, or replaced. ensure_user does not bring it back."""
    RevokedToken.objects.bulk_create([RevokedToken(digest=instance.digest.lower())], ignore_conflicts=True)
