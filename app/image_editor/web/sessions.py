"""Sessions in PostgreSQL. A key that Django cannot have made is ignored, and not sent to PostgreSQL."""

from typing import Any
from uuid import UUID

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import UpdateError

from image_editor import postgresql, tokens


class SessionStore(db.SessionStore):
    def __init__(self, session_key: str | None = None, **options: Any) -> None:
        """A cookie can carry any character. PostgreSQL refuses NUL, which would be an internal error."""
        plain = session_key and session_key.isascii() and session_key.isalnum()
        super().__init__(session_key if plain else None, **options)

    def load(self) -> dict[str, Any]:
        """The values of the session. It ends here if the token with which it began was revoked, or has expired."""
        found = super().load()
        token = tokens.one_of(found[SESSION_KEY], UUID(found["token"])) if "token" in found else None
        if "token" in found and (token is None or token.expired):
            self.delete()
            self._session_key = None  # as Django does for a session that has expired
            return {}
        return found

    def save(self, must_create: bool = False) -> None:
        """Django takes every error for a session that was deleted meanwhile, and answers 400."""
        try:
            super().save(must_create)
        except UpdateError as error:
            if error.__context__ and postgresql.away(error.__context__):
                raise error.__context__ from None
            raise
