"""Health probes. GET /healthz: the process answers. GET /readyz: its services answer, and all migrations are applied.

Both are served before Django checks the Host header, so that a probe may use any host name. /readyz opens no
connection: it answers what checks in the background found less than a second ago. Each process has its own checks. They
run while somebody asks, each on one connection.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import redis
from django.conf import settings
from django.db import close_old_connections, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse, JsonResponse

Handler = Callable[[HttpRequest], HttpResponse]
Results = dict[str, str]
SECONDS = 2  # that a probe waits for the first results, and a check for a server
PACE = 0.4  # seconds between two checks if nobody hurries
AGE_MAX = 1.0  # seconds; an older result counts as a failure, because the check hangs
IDLE = 60.0  # seconds after the last probe; then the checks end and close their connections
MIGRATIONS_REMEMBERED = 30  # seconds; migrations change only with a release
PROMPT = 0.8  # seconds; a refusal that comes later was waited for

_migrated_at = 0.0
_heard_at = 0.0  # monotonic seconds: when PostgreSQL last answered a check, or refused it at once


class Probes:
    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response
        _of_this_release()  # reading them takes long on a busy machine, and a check that does it would seem to hang

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/healthz":
            return JsonResponse({"status": "ok", "release": settings.RELEASE})
        if request.path == "/readyz":
            return readyz()
        return self.get_response(request)


def readyz() -> JsonResponse:
    """200 if every required check is ok, else 503. A failure shows the class of the error: no address, no secret."""
    checks = [check for check in CHECKS if settings.RESULT_BACKEND_ENABLED or check is not _result_backend]
    for check in checks:
        check.ask()
    end = time.monotonic() + SECONDS
    results = {name: result for check in checks for name, result in check.results(end).items()}
    # The result backend is shown but not required: edits are accepted and done without it.
    required = {name: result for name, result in results.items() if name != "result_backend"}
    ready = all(check == "ok" for check in required.values())
    return JsonResponse(
        {"status": "ok" if ready else "unavailable", "release": settings.RELEASE, "checks": results},
        status=200 if ready else 503,
    )


def stop() -> None:
    """End all checks. The next probe starts them again."""
    for check in CHECKS:
        check.stop()


class Check:
    """Checks a server in a thread of its own, so that a server that hangs delays no other check and no probe.

    ``connect`` is entered in the thread, and gives the function that returns the results. ``names`` are theirs.
    """

    def __init__(
        self, names: Sequence[str], connect: Callable[[], AbstractContextManager[Callable[[], Results]]]
    ) -> None:
        self._names, self._connect = names, connect
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._hurried = threading.Event()
        self._thread: threading.Thread | None = None
        self._found: tuple[float, Results] = (0.0, {})
        self._asked = 0.0

    def ask(self) -> None:
        """Keep the check running for IDLE seconds."""
        with self._lock:
            self._asked = time.monotonic()
            if not (self._thread and self._thread.is_alive()):  # a thread does not survive a fork
                self._answered.clear()
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def hurry(self) -> None:
        """Keep the check running, and let it look now: on a busy machine, the rest of its pause is too long to wait."""
        self.ask()
        self._hurried.set()

    def results(self, end: float) -> Results:
        """What was found last. If nothing was found yet, wait for it until ``end``, in monotonic seconds."""
        self._answered.wait(end - time.monotonic())
        found_at, found = self._found
        return (
            found if time.monotonic() - found_at <= AGE_MAX else dict.fromkeys(self._names, "failed: no answer in time")
        )

    def stop(self) -> None:
        """End the check."""
        with self._lock:
            self._thread = None

    def _run(self) -> None:
        with self._connect() as check:
            while self._publish(self._try(check)):
                self._hurried.wait(PACE)
                self._hurried.clear()

    def _try(self, check: Callable[[], Results]) -> Results:
        try:
            return check()
        except Exception as error:  # a check reports every failure
            return dict.fromkeys(self._names, f"failed: {type(error).__name__}")

    def _publish(self, found: Results) -> bool:
        """Keep the results. False if this thread must end."""
        with self._lock:
            if self._thread is not threading.current_thread():
                return False
            self._found = (time.monotonic(), found)
            self._answered.set()
            if time.monotonic() - self._asked > IDLE:
                self._thread = None
            return self._thread is not None


def postgresql_answers(seconds: float) -> bool:
    """Whether a check hears from PostgreSQL within this time. A refusal is an answer, too: nobody waits for it."""
    since = time.monotonic()
    CHECKS[0].hurry()
    while _heard_at < since and time.monotonic() < since + seconds:
        time.sleep(0.02)
    return _heard_at >= since


def _select_1() -> None:
    global _heard_at
    began = time.monotonic()
    try:
        close_old_connections()  # a lost one, too; Django connects again
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception:
        if time.monotonic() - began < PROMPT:
            _heard_at = time.monotonic()
        raise
    _heard_at = time.monotonic()


@contextmanager
def _database() -> Iterator[Callable[[], Results]]:
    def check() -> Results:
        _select_1()
        return {"database": "ok", "migrations": _migrations()}

    connection.probes = True  # it connects although the other connections must not (image_editor.web.deadline)
    try:
        yield check
    finally:
        connection.close()


@functools.cache
def _of_this_release() -> frozenset[tuple[str, str]]:
    """All migrations in the code, each as its application and its name."""
    return frozenset(MigrationLoader(None).graph.nodes)


def _migrations() -> str:
    global _migrated_at
    if time.monotonic() - _migrated_at < MIGRATIONS_REMEMBERED and _migrated_at:
        return "ok"
    waiting = _of_this_release() - MigrationRecorder(connection).applied_migrations().keys()
    if waiting:
        return f"failed: {len(waiting)} not applied"
    _migrated_at = time.monotonic()
    return "ok"


def _redis(name: str) -> Check:
    """The check of one of the Redis servers in the settings."""

    @contextmanager
    def connect() -> Iterator[Callable[[], Results]]:
        url = getattr(settings, URLS[name])
        with redis.Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=None) as client:

            def check() -> Results:
                client.ping()
                return {name: "ok"}

            yield check

    return Check([name], connect)


URLS = {"broker": "BROKER_URL", "cache": "CACHE_URL", "result_backend": "RESULT_URL"}
_result_backend = _redis("result_backend")
CHECKS = (Check(["database", "migrations"], _database), _redis("broker"), _redis("cache"), _result_backend)
