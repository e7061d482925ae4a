"""Who is asking: a token in the Authorization header, or the session of a user who signed in with name and token.

Sessions store the path of TokenBackend, so this module stays where it is.
"""

import hashlib
import time
from copy import copy
from typing import Any

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX, make_password
from django.contrib.auth.models import AbstractBaseUser, User
from django.db.models import Q
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.http import HttpRequest
from ninja.security import SessionAuth
from ninja.security.base import AuthBase
from ninja.utils import check_csrf

from image_editor.api.problems import Problem
from image_editor.models import ApiToken

TOKEN_MIN_CHARS = 32
REMEMBERED = 10.0  # seconds; a revoked token, or an inactive user, is accepted for up to this long
HOLDERS_MAX = 10_000  # tokens that are remembered

_holders: dict[str, tuple[float, User]] = {}


def digest(token: str) -> str:
    """SHA-256 of a token, in hex: the only part of a token that is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


class TokenAuth(AuthBase):
    """``Authorization: Bearer <token>``, or ``Token <token>``. The result is the active user, in ``request.auth``."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_name = "token"

    def __call__(self, request: HttpRequest) -> User | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not token:
            return None
        return _known(digest(token.strip()))


def _known(token_digest: str) -> User | None:
    """The user of a token. The user is cached for some seconds, so that a client that polls costs no query."""
    now = time.monotonic()
    remembered = _holders.get(token_digest)
    if remembered and remembered[0] > now:
        return remembered[1]
    found = ApiToken.objects.select_related("user").filter(digest=token_digest, user__is_active=True).first()
    if found is None:
        _holders.pop(token_digest, None)
        return None
    if len(_holders) >= HOLDERS_MAX:
        _holders.clear()
    _holders[token_digest] = (now + REMEMBERED, found.user)
    return found.user


def forget() -> None:
    """Empty the cache of users, so that every token is looked up again."""
    _holders.clear()


def user_of(request: HttpRequest) -> User:
    """The user of an authenticated request of the API."""
    return request.auth  # type: ignore[attr-defined] - set by ninja


class PageAuth(SessionAuth):
    """The session cookie of a user who signed in on the page.

    A browser sends the cookie even if another site made the request. So requests that change something need the CSRF
    token, which only our own page knows. The cookie is ignored if there is an Authorization header.
    """

    def __call__(self, request: HttpRequest) -> User | None:
        if self.param_name not in request.COOKIES or "Authorization" in request.headers:
            return None
        user = self.authenticate(request, None)
        headers_only = copy(request)
        if request.method == "POST":
            # Django looks for the token of a POST in its body, too: before the user's limits are counted.
            headers_only.method = "PUT"
        if user and check_csrf(headers_only):
            detail = "send the page's CSRF token in the header X-CSRFToken: reload the page and try again"
            raise Problem(403, "csrf_failed", detail)
        return user


@receiver(post_delete, sender=ApiToken)
def end_sessions(instance: ApiToken, **_: Any) -> None:
    """Sign out the holder of a revoked token: Django ends a user's sessions when the password changes.

    The new password is unusable, as the old one was. Users with a password of their own keep their sessions.
    """
    unusable = Q(password="") | Q(password__startswith=UNUSABLE_PASSWORD_PREFIX)
    User.objects.filter(unusable, pk=instance.user_id).update(password=make_password(None))


class TokenBackend(BaseBackend):
    """Signs users in with their name, and an API token as the password."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **_: Any
    ) -> AbstractBaseUser | None:
        if not username or not password:
            return None
        found = (
            ApiToken.objects.select_related("user")
            .filter(digest=digest(password.strip()), user__username=username, user__is_active=True)
            .first()
        )
        return found.user if found else None

    def get_user(self, user_id: int) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first()
