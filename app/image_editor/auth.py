"""Who is asking: a token in the Authorization header, or a name and token typed into the sign-in form."""

import hashlib
import secrets
from typing import Any

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import AbstractBaseUser, User
from django.http import HttpRequest
from ninja.security.base import AuthBase

from image_editor.models import ApiToken

TOKEN_MIN_CHARS = 32


def digest(token: str) -> str:
    """What is stored of a token: SHA-256 in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


class TokenAuth(AuthBase):
    """``Authorization: Bearer <token>``, or ``Token <token>``. The result is the active user, in ``request.auth``."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_name = "token"

    def __call__(self, request: HttpRequest) -> User | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not token:
            return None
        found = (
            ApiToken.objects.select_related("user").filter(digest=digest(token.strip()), user__is_active=True).first()
        )
        return found.user if found else None


class TokenBackend(BaseBackend):
    """Signs people in with their user name and an API token as the password."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **_: Any
    ) -> AbstractBaseUser | None:
        if not username or not password:
            return None
        found = (
            ApiToken.objects.select_related("user")
            .filter(digest=digest(password), user__username=username, user__is_active=True)
            .first()
        )
        return found.user if found else None

    def get_user(self, user_id: int) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first()
