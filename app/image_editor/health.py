"""GET /healthz: the process answers. GET /readyz: what it needs answers too, and the schema is its own.

Both are served before Django looks at the Host header, so that a probe may name the host as it likes.
"""

import time
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse

Handler = Callable[[HttpRequest], HttpResponse]
SECONDS = 2
MIGRATIONS_REMEMBERED = 30  # seconds; reading the migration graph is the dear part of a probe

_migrated_at = 0.0


class Probes:
    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/healthz":
            return JsonResponse({"status": "ok", "release": settings.RELEASE})
        if request.path == "/readyz":
            return readyz()
        return self.get_response(request)


def readyz() -> JsonResponse:
    """200 if every required check says ok, else 503. Errors are named by their class: no address, no secret."""
    required = {
        "database": _try(_database),
        "migrations": _try(_migrations),
        "broker": _try(lambda: _redis(settings.BROKER_URL)),
        "cache": _try(lambda: _redis(settings.CACHE_URL)),
    }
    checks = dict(required)
    if settings.RESULT_BACKEND_ENABLED:
        # Shown, not required: edits are accepted, done and answered without it.
        checks["result_backend"] = _try(lambda: _redis(settings.RESULT_URL))
    ready = all(check == "ok" for check in required.values())
    return JsonResponse(
        {"status": "ok" if ready else "unavailable", "release": settings.RELEASE, "checks": checks},
        status=200 if ready else 503,
    )


def _try(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:  # a probe reports, whatever it was
        return f"failed: {type(error).__name__}"


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


def _migrations() -> str:
    global _migrated_at
    if time.monotonic() - _migrated_at < MIGRATIONS_REMEMBERED and _migrated_at:
        return "ok"
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        return f"failed: {len(waiting)} not applied"
    _migrated_at = time.monotonic()
    return "ok"


def _redis(url: str) -> str:
    with redis.Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=None) as client:
        client.ping()
    return "ok"
