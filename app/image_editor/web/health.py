"""Health probes. GET /healthz: the process answers. GET /readyz: its services answer, and all migrations are applied.

Both are served before Django checks the Host header, so that a probe may use any host name.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import redis
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse

Handler = Callable[[HttpRequest], HttpResponse]
SECONDS = 2  # for each check to connect, and as long again for the answer
MIGRATIONS_REMEMBERED = 30  # seconds; reading the migration graph is the expensive part of a probe

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
    """200 if every required check is ok, else 503. A failure shows the class of the error: no address, no secret."""
    checks: dict[str, Callable[[], str]] = {
        "database": _database,
        "broker": lambda: _redis(settings.BROKER_URL),
        "cache": lambda: _redis(settings.CACHE_URL),
    }
    if settings.RESULT_BACKEND_ENABLED:
        checks["result_backend"] = lambda: _redis(settings.RESULT_URL)
    with ThreadPoolExecutor(
        len(checks)
    ) as pool:  # at the same time, so that the answer takes as long as the slowest check
        results = dict(zip(checks, pool.map(_try, checks.values()), strict=True))
    results["migrations"] = _try(_migrations) if results["database"] == "ok" else "unknown"
    # The result backend is shown but not required: edits are accepted and done without it.
    required = {name: result for name, result in results.items() if name != "result_backend"}
    ready = all(check == "ok" for check in required.values())
    return JsonResponse(
        {"status": "ok" if ready else "unavailable", "release": settings.RELEASE, "checks": results},
        status=200 if ready else 503,
    )


def _try(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:  # a probe reports every failure
        return f"failed: {type(error).__name__}"


def _database() -> str:
    # On a new connection: libpq bounds the time to connect, which nothing else bounds if the server hangs.
    parameters = connection.get_connection_params() | {"connect_timeout": SECONDS}
    with psycopg.connect(**parameters) as probe:
        probe.execute("SELECT 1")
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
