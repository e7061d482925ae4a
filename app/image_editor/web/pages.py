"""The pages for people: sign-in, and one page whose script calls the API like any other client."""

import sys

from django.conf import settings
from django.contrib.auth.views import LoginView, LogoutView
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from pydantic import TypeAdapter

from image_editor import postgresql, storage
from image_editor.api import problems
from image_editor.imaging.operations import Operation

AWAY_SECONDS = "5"  # after which a client may try again; another PostgreSQL server may take longer to take over

OPERATIONS = TypeAdapter(Operation).json_schema()  # the page offers each of them, with its fields

sign_in = LoginView.as_view(template_name="image_editor/sign_in.html", redirect_authenticated_user=True)
sign_out = LogoutView.as_view()


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """The page, or the sign-in form for users who are not signed in."""
    if not request.user.is_authenticated:
        return sign_in(request)
    context = {"settings": settings, "media_origin": storage.public_origin(), "operations": OPERATIONS}
    return render(request, "image_editor/home.html", context)


def icon(request: HttpRequest) -> HttpResponse:
    """The icon, for pages that do not name one."""
    return redirect(static("image_editor/icon.svg"))


def not_understood(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's own view would parse the body, and so fail on a request whose host and body are both wrong."""
    return HttpResponse("Bad Request", status=400, content_type="text/plain")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _error(request, 404)


def our_fault(request: HttpRequest) -> HttpResponse:
    """Django calls this function while it handles the exception of a view or of any middleware."""
    if not postgresql.away(sys.exception()):
        return _error(request, 500)
    connection.close()  # it may lead to a server that is not the primary any more
    response = _error(request, 503)
    response["Retry-After"] = AWAY_SECONDS
    return response


def _error(request: HttpRequest, status: int) -> HttpResponse:
    """The error page for browsers. The middleware Problems writes the problem document for other clients."""
    if problems.wants_page(request):
        return render(request, f"{status}.html", status=status)
    return HttpResponse(status=status)
