"""The platform's addresses, and beside them a view that does nothing."""

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from backend.urls import urlpatterns as platform


@csrf_exempt
def bare(request: HttpRequest) -> JsonResponse:
    """Takes the body, looks at nothing, answers 202."""
    return JsonResponse({"id": "00000000-0000-4000-8000-000000000000", "size": len(request.body)}, status=202)


urlpatterns = [*platform, path("bare", bare)]
