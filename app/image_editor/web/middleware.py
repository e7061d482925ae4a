"""Middleware: request ids, the access log, the release header, problem documents, and the content security policy."""

import logging
import re
import time
import uuid
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from image_editor import codes, storage
from image_editor.api import problems
from image_editor.observability.request_id import request_id

log = logging.getLogger("image_editor.access")
Handler = Callable[[HttpRequest], HttpResponse]
PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds, so only failures are logged
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class RequestContext:
    """Takes the client's X-Request-ID or makes one, answers with it and with X-Release, and logs one line."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        token = request_id.set(given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex)
        started = time.perf_counter()
        try:
            response = self.get_response(request)
            response["X-Request-ID"] = request_id.get()
            response["X-Release"] = settings.RELEASE
            if request.path not in PROBES or response.status_code != 200:
                self._log(request, response, time.perf_counter() - started)
            return response
        finally:
            request_id.reset(token)

    @staticmethod
    def _log(request: HttpRequest, response: HttpResponse, seconds: float) -> None:
        log.info(
            "request",
            extra={
                "method": request.method,
                "path": request.path,
                "status": response.status_code,
                "milliseconds": round(seconds * 1000, 1),
                "client": request.META.get("HTTP_X_FORWARDED_FOR") or request.META.get("REMOTE_ADDR", ""),
                "user": getattr(getattr(request, "auth", None), "username", ""),
            },
        )


class Head:
    """Answers HEAD as GET without its body. The views of the API know no HEAD."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method != "HEAD" or not request.path.startswith("/api/"):
            return self.get_response(request)
        request.method = "GET"
        answered = self.get_response(request)
        request.method = "HEAD"
        response = HttpResponse(status=answered.status_code, headers=answered.headers)
        if not answered.streaming:
            response["Content-Length"] = str(len(answered.content))
        response.cookies = answered.cookies
        answered.close()
        return response


class Problems:
    """Turns every error into a problem document, except for browsers that asked for a page."""

    DETAILS = {
        400: "the request could not be understood: check its URL, headers and body",
        403: "this is not allowed",
        404: "nothing exists at this address",
        405: "this address does not support the method: see the Allow header",
        413: f"the request is too large: send at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes",
        500: "an internal error: repeat the request, and report its X-Request-ID if it fails again",
        503: "the platform cannot answer at the moment: try again later",
    }

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if length.isdigit() and int(length) > settings.REQUEST_MAX_BYTES:
            return problems.response(413, "too_large", f"send an image of at most {settings.UPLOAD_MAX_BYTES} bytes")
        response = self.get_response(request)
        if response.status_code < 400 or response.get("Content-Type", "").startswith(problems.CONTENT_TYPE):
            return response
        if problems.wants_page(request):
            return response
        status = response.status_code
        kept = {name: response[name] for name in ("Allow", "WWW-Authenticate", "Retry-After") if name in response}
        detail = self.DETAILS.get(status, response.reason_phrase)
        if seconds := kept.get("Retry-After"):
            detail = f"the platform cannot answer at the moment: try again in {seconds} s"
        return problems.response(status, codes.of_status(status), detail, kept)


class ContentSecurityPolicy:
    """Lets pages load only what this site serves, and nothing inline.

    Images may also come from the media store. They may come from any https address, because a user can ask to see the
    original of an edit by URL.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response
        self.policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            f"img-src 'self' blob: data: https: {storage.public_origin()}; "
            "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        )

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            response.headers.setdefault("Content-Security-Policy", self.policy)
        return response


class ForAll:
    """A request that skips middleware in `ForPages` continues here."""

    newest: Handler

    def __init__(self, get_response: Handler) -> None:
        ForAll.newest = self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)


class ForPages:
    """Lets requests of the API with a token skip sessions, CSRF, messages and static files, which they do not use.

    Another site cannot make a browser send the token, so such a request needs no CSRF token.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response
        self.direct = ForAll.newest  # middleware is made from the inside out

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "HTTP_AUTHORIZATION" in request.META and request.path.startswith("/api/"):
            return self.direct(request)
        return self.get_response(request)
