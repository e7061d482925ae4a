"""Errors as RFC 9457 problem documents whose ``detail`` says what to change, in the client's language."""

from typing import Any

from django.http import HttpRequest, JsonResponse

from image_editor import codes
from image_editor.details import translated

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """Ends a request with a problem document. ``members`` are added to the document."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers, self.members = headers or {}, members


def wants_page(request: HttpRequest) -> bool:
    """Whether the error should be a page for people: a browser asked, and not for an address of the API."""
    return not request.path.startswith("/api/") and "text/html" in request.headers.get("Accept", "")


def response(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **members: Any
) -> JsonResponse:
    """A problem document. ``members`` are added to it."""
    body = {
        "type": f"urn:image-editor:problem:{code}",
        "title": codes.title(code, status),
        "status": status,
        "code": code,
        "detail": translated(detail),
        **members,
    }
    return JsonResponse(body, status=status, content_type=CONTENT_TYPE, headers=headers)
