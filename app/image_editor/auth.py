"""Who is asking: a token in the Authorization header, or the session of a user who signed in with name and token.

Sessions store the path of TokenBackend, so this module stays where it is.
"""

import time
from copy import copy
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import AbstractBaseUser, User
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone
from ninja.errors import AuthenticationError
from ninja.security import SessionAuth
from ninja.security.base import AuthBase
from ninja.utils import check_csrf

from image_editor import tokens
from image_editor.api.problems import Problem
from image_editor.models import ApiToken
from image_editor.tokens import digest

TOKEN_MIN_CHARS = 32
REMEMBERED = 9.0  # seconds; a revoked token, or an inactive user, is accepted for up to this long, and 10 are promised
REMEMBERED_MAX = 10_000  # tokens

_rows: dict[str, tuple[float, ApiToken]] = {}


class TokenAuth(AuthBase):
    """``Authorization: Bearer <token>``, or ``Token <token>``. The result is the active user, in ``request.auth``."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_name = "token"

    def __call__(self, request: HttpRequest) -> User | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not token:
            return None
        row = _known(digest(token.strip()))
        if row is None:
            return None
        request.token = row  # type: ignore[attr-defined]
        if request.method not in ("GET", "HEAD"):
            require_write(request)
        return row.user


def _known(token_digest: str) -> ApiToken | None:
    """The row of a valid token. It is remembered for some seconds, so that a client that polls costs no query."""
    now = time.monotonic()
    until, row = _rows.get(token_digest, (0.0, None))
    if row and until > now and not row.expired:
        return row
    row = tokens.valid(token_digest)
    if row is None:
        _rows.pop(token_digest, None)
        return None
    tokens.used(row)
    if len(_rows) >= REMEMBERED_MAX:
        _rows.clear()
    _rows[token_digest] = (now + REMEMBERED, row)
    return row


def forget() -> None:
    """Forget all tokens, so that every token is looked up again."""
    _rows.clear()


def require_write(request: HttpRequest) -> None:
    """Raises Problem if the request has a token that may only read.

    TokenAuth calls it for requests that change something. A GET whose answer is a secret calls it, too.
    """
    token: ApiToken | None = getattr(request, "token", None)
    if token and token.scope == ApiToken.Scope.READ:
        raise Problem(403, "scope_read", "this token may only read: use a token with the scope 'write'")


def require_present(request: HttpRequest) -> None:
    """Raises AuthenticationError if the token of this request was revoked while this process remembered it.

    Requests that make or end tokens, or whose answer is a secret, call it. Without this, whoever found a token could
    make another one some seconds after the revocation.
    """
    token: ApiToken | None = getattr(request, "token", None)
    if token:
        _rows.pop(token.digest.lower(), None)
        request.token = _known(token.digest.lower())  # type: ignore[attr-defined] - with its present expiry
        if request.token is None:  # type: ignore[attr-defined]
            raise AuthenticationError


def holds(request: HttpRequest) -> bool:
    """Whether the token of a request that takes long is still valid. Its session is not looked at again."""
    token: ApiToken | None = getattr(request, "token", None)
    return token is None or _known(token.digest.lower()) is not None


def require_management(request: HttpRequest) -> None:
    """Raises Problem if the request has a token that manages no other tokens. Such a token begins no session."""
    token: ApiToken | None = getattr(request, "token", None)
    if token and token.scope != ApiToken.Scope.WRITE:
        detail = "this token manages no other tokens: use one that was made with 'manages_tokens': true"
        raise Problem(403, "manages_no_tokens", detail)


def require_end(request: HttpRequest, expires_at: datetime | None) -> None:
    """Raises Problem if a token that this request makes would outlive the token with which it has signed in.

    Without this, whoever finds a token that expires keeps the access for ever.
    """
    end = ends_at(request)
    if end and (expires_at is None or expires_at > end):
        detail = (
            f"the token of this request or session expires at {end:%Y-%m-%dT%H:%M:%SZ}, and no token that it makes may "
            "last longer: ask for an earlier expiry, or use a token that lasts longer"
        )
        raise Problem(403, "expires_too_late", detail)


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


def token_id(request: HttpRequest) -> str | None:
    """The public id of the token with which the request, or its session, has signed in."""
    if token := getattr(request, "token", None):
        return str(token.public_id)
    return request.session.get("token")


def token_of(request: HttpRequest) -> ApiToken | None:
    """That token. None: it is gone, or the session began with a password."""
    if token := getattr(request, "token", None):
        return token
    found = request.session.get("token")
    return tokens.one_of(request.user, UUID(found)) if found else None


def ends_at(request: HttpRequest) -> datetime | None:
    """When that token expires. None: it does not, or the session began with a password."""
    if row := token_of(request):
        return row.expires_at
    return timezone.now() if token_id(request) else None


@receiver(user_logged_in)
def bind_session(request: HttpRequest, user: User, **_: Any) -> None:
    """Note in the session which token it began with: it ends with that token (web/sessions.py)."""
    token: ApiToken | None = getattr(user, "token", None)
    if token:
        request.session["token"] = str(token.public_id)
        if token.expires_at:
            lasts = timedelta(seconds=settings.SESSION_COOKIE_AGE)
            request.session.set_expiry(min(token.expires_at, timezone.now() + lasts))


class TokenBackend(BaseBackend):
    """Signs users in with their name, and an API token as the password. A limited scope signs nobody in."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **_: Any
    ) -> AbstractBaseUser | None:
        if not username or not password:
            return None
        row = tokens.valid(digest(password.strip()), user__username=username, scope=ApiToken.Scope.WRITE)
        if row is None:
            return None
        tokens.used(row)
        row.user.token = row  # type: ignore[attr-defined] - for bind_session
        return row.user

    def get_user(self, user_id: int) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first()
