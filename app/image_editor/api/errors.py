"""The exception handlers of the API: every exception becomes a problem document."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, TooManyFilesSent
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, Throttled, ValidationError

from image_editor.api import problems, validation
from image_editor.api.problems import Problem
from image_editor.details import translated

ERRORS_MAX = 100  # a document of 2 MiB can have 100,000
FIELD_MAX_CHARS = 200  # the client chooses the names of fields that do not exist
MESSAGE_MAX_CHARS = 1000  # a message may quote what the client sent


def register(api: NinjaAPI) -> None:
    """Add the handlers to an API."""
    for exception, handler in HANDLERS.items():
        api.add_exception_handler(exception, handler)


def invalid(errors: Iterable[Mapping[str, Any]], what: str = "these fields") -> Problem:
    """The problem of a document that does not fit its schema. ``errors`` are pydantic's; it names the first."""
    named = [
        {
            "field": ".".join(map(str, error["loc"]))[:FIELD_MAX_CHARS],
            "message": translated(error["msg"][:MESSAGE_MAX_CHARS]),
        }
        for error in islice(errors, ERRORS_MAX)
    ]
    summary = "; ".join(": ".join(filter(None, error.values())) for error in named[:5])
    return Problem(422, "invalid", f"change {what}: {summary}", errors=named)


def _problem(_: HttpRequest, error: Problem) -> HttpResponse:
    return problems.response(error.status, error.code, error.detail, error.headers, **error.members)


def _unauthenticated(_: HttpRequest, error: AuthenticationError) -> HttpResponse:
    detail = "send the header 'Authorization: Bearer <token>' with a token that is valid"
    return problems.response(401, "token_missing", detail, {"WWW-Authenticate": 'Bearer realm="image-editor"'})


def _throttled(request: HttpRequest, error: Throttled) -> HttpResponse:
    return _problem(request, validation.too_many(request.exceeded))  # type: ignore[attr-defined] - set by OneEdit


def _too_large(_: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    return problems.response(413, "too_large", f"send at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes")


def _too_many_files(_: HttpRequest, error: TooManyFilesSent) -> HttpResponse:
    most = settings.DATA_UPLOAD_MAX_NUMBER_FILES
    return problems.response(422, "invalid", f"the form has too many files: send at most {most}")


def _not_found(_: HttpRequest, error: Http404) -> HttpResponse:
    return problems.response(404, "not_found", "nothing with this id exists, or it belongs to another user")


def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    """ninja wraps a Problem of the body parser in an HttpError, as its cause."""
    if isinstance(error.__cause__, Problem):
        return _problem(request, error.__cause__)
    return problems.response(error.status_code, "bad_request", str(error))


def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """The problem of parameters or a body that do not fit the schema of the operation."""
    body = [one | {"loc": one["loc"][2:]} for one in error.errors if one["loc"][:1] == ("body",)]
    if len(body) < len(error.errors):
        return _problem(request, invalid(error.errors, "these"))
    if not request.body:
        return _problem(request, Problem(400, "not_json", "the body is empty: send JSON"))
    return _problem(request, invalid(body))


HANDLERS: dict[type[Exception], Any] = {
    Problem: _problem,
    AuthenticationError: _unauthenticated,
    RequestDataTooBig: _too_large,
    TooManyFilesSent: _too_many_files,
    Http404: _not_found,
    Throttled: _throttled,
    HttpError: _http_error,
    ValidationError: _invalid,
}
