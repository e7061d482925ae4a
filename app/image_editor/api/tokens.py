"""API tokens of a user: list, make, rotate, revoke."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Router, Status

from image_editor import auth, tokens
from image_editor.api.problems import Problem
from image_editor.api.rate_limits import OneToken
from image_editor.api.schemas import ERRORS, TokenIn, TokenList, TokenMade, TokenRotationIn
from image_editor.auth import user_of
from image_editor.models import ApiToken

router = Router(tags=["tokens"])
Answer = Status[dict[str, Any]]
Scope = ApiToken.Scope


@router.get("", response={200: TokenList, **ERRORS}, summary="Your tokens, the newest first")
def list_tokens(request: HttpRequest) -> Answer:
    """Also tokens that have expired within the last week, at most 50."""
    return Status(200, {"items": [_document(request, row) for row in tokens.of(user_of(request))]})


@router.post("", response={201: TokenMade, **ERRORS}, throttle=OneToken(), summary="Make a token")
def make_token(request: HttpRequest, body: TokenIn) -> Answer:
    """The answer has the token. 409 if you have 50 tokens. It counts against a limit of its own.

    A token that expires makes none that outlives it. With a token ends every token that was made with it.
    """
    auth.require_present(request)
    auth.require_management(request)
    expires_at = None
    if body.expires_in_seconds is not None:
        expires_at = timezone.now() + timedelta(seconds=body.expires_in_seconds)
    auth.require_end(request, expires_at)
    scope = Scope.WORK if body.scope == Scope.WRITE and not body.manages_tokens else body.scope
    row = ApiToken(user=user_of(request), name=body.name, scope=scope, expires_at=expires_at)
    row.parent = auth.token_of(request)
    with _room():
        token = tokens.make(row)
    return Status(201, _document(request, row) | {"token": token})


@router.post(
    "/{uuid:token_id}/rotate", response={201: TokenMade, **ERRORS}, throttle=OneToken(), summary="Replace a token"
)
def rotate_token(request: HttpRequest, token_id: UUID, body: TokenRotationIn) -> Answer:
    """A new token with the same name, rights and lifetime. The former one expires after the overlap.

    It counts like a new token. A token that expires and replaces itself gets one that expires when it would have. Once
    that one is used, the former one replaces itself no more.
    """
    auth.require_present(request)
    former = _mine(request, token_id)
    itself = auth.token_id(request) == str(former.public_id)
    if not itself:
        auth.require_end(request, timezone.now() + former.lifetime if former.lifetime else None)
    try:
        with _room():
            new, token = tokens.rotate(former, timedelta(seconds=body.overlap_seconds), itself)
    except ApiToken.DoesNotExist as error:
        raise Http404 from error
    except tokens.Replaced as error:
        detail = "this token was replaced by one that is in use: use that one, or another token of yours"
        raise Problem(409, "already_replaced", detail) from error
    return Status(201, _document(request, new) | {"token": token})


@router.delete("/{uuid:token_id}", response={204: None, **ERRORS}, summary="Revoke a token")
def revoke_token(request: HttpRequest, token_id: UUID) -> Status[None]:
    """Within 10 seconds it is refused everywhere, with every token that was made with it.

    Sessions of the page that began with one of them end at once.
    """
    auth.require_present(request)
    _mine(request, token_id).delete()
    return Status(204, None)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except tokens.TooMany as error:
        raise Problem(409, "too_many_tokens", str(error)) from error


def _mine(request: HttpRequest, public_id: UUID) -> ApiToken:
    """A token of the user. One that was made with another token has itself, and those that were made with it.

    One that manages no tokens has itself alone.
    """
    row = tokens.one_of(user_of(request), public_id)
    present = auth.token_of(request)
    if row is None or (present and not _manages(present, row)):
        raise Http404
    return row


def _manages(present: ApiToken, row: ApiToken) -> bool:
    if present.scope != Scope.WRITE:
        return present == row
    return present.parent_id is None or tokens.descends(row, present)


def _document(request: HttpRequest, row: ApiToken) -> dict[str, Any]:
    return {
        "id": str(row.public_id),
        "name": row.name,
        "scope": str(Scope.WRITE if row.scope == Scope.WORK else row.scope),
        "manages_tokens": row.scope == Scope.WRITE,
        "state": "expired" if row.expired else "active",
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "last_used_at": row.last_used_at.isoformat() if row.last_used_at else None,
        "current": auth.token_id(request) == str(row.public_id),
    }
