"""Services for the whole run, and what most tests start with: a user, a client, a worker."""

import contextlib
import http.server
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

sys.path.insert(0, str(Path(__file__).parent))
from services import Process, Services, free_port, wait_for

pytest_plugins = ["browser"]
APP = Path(__file__).parent.parent
SERVICES = Services()
FILES_PORT = free_port()
TOKEN = "t" * 43
# The other pytest processes inherit the environment, and so the seed.
FUZZ_SEED = int(os.environ.get("FUZZ_SEED") or random.randrange(2**32))
os.environ["FUZZ_SEED"] = str(FUZZ_SEED)

for name in [name for name in os.environ if name.startswith("IMAGE_EDITOR_")]:
    del os.environ[name]
os.environ |= SERVICES.env | {
    "DJANGO_SETTINGS_MODULE": "backend.settings",
    "IMAGE_EDITOR_FETCH_ALLOWED_HOSTS": f"127.0.0.1:{FILES_PORT},127.0.0.2:{FILES_PORT}",
    # The platform's own figures, scaled down so that a lost worker is noticed within seconds.
    "IMAGE_EDITOR_TASK_TIME_LIMIT": "5",
    "IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT": "4",
    "IMAGE_EDITOR_VISIBILITY_TIMEOUT": "8",
    "IMAGE_EDITOR_RECONCILE_SECONDS": "1",
}


def pytest_configure() -> None:
    import django

    if "PYTEST_XDIST_WORKER" not in os.environ:  # once for all processes
        for po in APP.glob("image_editor/locale/*/LC_MESSAGES/*.po"):
            subprocess.run(["msgfmt", "--check-format", f"--output-file={po.with_suffix('.mo')}", po], check=True)
    django.setup()
    # Workers of pytest-xdist inherit the environment. With this variable, pytest-django would load the settings before
    # this file has set the addresses of the worker's own services.
    del os.environ["DJANGO_SETTINGS_MODULE"]
    from image_editor.web import deadline

    deadline.SLOW = float("inf")  # tests count statements, so only gunicorn asks PostgreSQL (tests/web/test_away.py)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"FUZZ_SEED={FUZZ_SEED} repeats the random choices of this run")


def pytest_sessionfinish() -> None:
    SERVICES.stop()


@pytest.fixture(scope="session", autouse=True)
def services() -> Services:
    SERVICES.start()
    return SERVICES


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """Each pytest process has a server of its own: its database needs no suffix."""


@pytest.fixture(scope="session")
def django_db_setup(services: Services, django_db_blocker: Any) -> None:
    """Migrate the one database that this process and the workers share, and make it quick to empty: about 10 ms.

    Django's TRUNCATE creates a file for each table and index, and Django then creates permissions that no test needs.
    """
    from django.core.management import call_command
    from django.db.backends.postgresql.operations import DatabaseOperations
    from django.db.models.signals import post_migrate

    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
    post_migrate.receivers = []
    DatabaseOperations.sql_flush = lambda self, style, tables, **_: [f'DELETE FROM "{table}"' for table in tables]


@pytest.fixture
def clean(transactional_db: None, services: Services) -> None:
    """Empty tables (pytest-django empties them after each test), an empty Redis, no pause after an earlier fault.

    A worker that was killed a moment ago may still wait for a message, as Redis sees it, and would take this test's.
    """
    from django.contrib.contenttypes.models import ContentType

    from image_editor import auth
    from image_editor.api import validation
    from image_editor.pipeline import publisher, state_cache
    from image_editor.postgresql.base import hangs
    from image_editor.web import health

    redis = services.admin()
    wait_for(lambda: redis.info("clients")["blocked_clients"] == 0, what="no worker of an earlier test is left")
    services.admin().flushall()
    publisher.resume()
    state_cache.states.resume()
    validation.media_pause.resume()
    auth.forget()
    health.stop()
    hangs.clear()
    ContentType.objects.clear_cache()  # its table was emptied, too


@pytest.fixture
def user(clean: None) -> Any:
    return make_user("alice", TOKEN)


def make_user(name: str, token: str) -> Any:
    from django.contrib.auth.models import User

    from image_editor.auth import digest
    from image_editor.models import ApiToken

    user = User.objects.create(username=name)
    ApiToken.objects.create(user=user, digest=digest(token))
    return user


@pytest.fixture
def api(user: Any) -> Any:
    """A client that is signed in with alice's token."""
    from django.test import Client

    return Client(headers={"Authorization": f"Bearer {TOKEN}"}, raise_request_exception=False)


@pytest.fixture(scope="session")
def figure() -> Callable[..., None]:
    """Records a measured figure: ``figure(name, value, unit, limit)``. A value above the limit fails the test.

    With ``at_least``, a value below that number fails the test.
    """

    def _figure(name: str, value: float, unit: str, limit: float | None = None, at_least: float | None = None) -> None:
        line = {"figure": name, "value": value, "unit": unit, "limit": None, "ok": None}
        if limit is not None:
            line |= {"limit": f"<={limit:g}", "ok": value <= limit}
        if at_least is not None:
            line |= {"limit": f">={at_least:g}", "ok": value >= at_least}
        line |= {"at": datetime.now(UTC).isoformat(timespec="seconds")}
        print(json.dumps(line))
        target = APP.parent / "build"
        with contextlib.suppress(OSError):  # a checkout that cannot be written to still has the printed line
            target.mkdir(exist_ok=True)
            with (target / "figures.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        assert line["ok"] is not False, line

    return _figure


@pytest.fixture
def plain_static(settings: Any) -> None:
    """Pages without a manifest: nothing is collected here."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}


@pytest.fixture(scope="session")
def photo() -> bytes:
    return (Path(__file__).parent / "data" / "grace_hopper.jpg").read_bytes()


class Worker(Process):
    """A Celery worker, or beat, as its systemd unit starts it."""

    def __init__(self, log: Path, *args: str, **env: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "backend", *args]
        super().__init__(command, log, os.environ | env, APP)

    def wait_ready(self, count: int = 1) -> None:
        wait_for(lambda: self.log.read_text().count(" ready.") >= count, 20, f"{self.args} is ready")

    def start(self) -> None:
        before = self.log.read_text().count(" ready.") if self.log.exists() else 0
        super().start()
        if "worker" in self.args:
            self.wait_ready(before + 1)


@pytest.fixture
def start(tmp_path: Path, services: Services) -> Iterator[Callable[..., Worker]]:
    """Starts workers: ``start("edit")``, ``start("edit", concurrency=2, IMAGE_EDITOR_X="y")``, ``start(beat=True)``."""
    started: list[Worker] = []

    def _start(queue: str = "edit", concurrency: int = 1, beat: bool = False, **env: str) -> Worker:
        log = tmp_path / f"worker{len(started)}.log"
        if beat:
            worker = Worker(log, "beat", "--schedule", str(tmp_path / "beat"), **env)
        else:
            name = f"{queue.partition(',')[0]}{len(started)}@%h"
            args = ["worker", "-Q", queue, "-n", name, "--concurrency", str(concurrency), "--loglevel", "INFO"]
            args += ["--without-gossip", "--without-mingle"]  # as roles/celery; looking for others takes a second
            worker = Worker(log, *args, **env)
        started.append(worker)  # before it starts: one that is not ready in time must not outlive the test
        worker.start()
        return worker

    yield _start
    for worker in started:
        worker.kill()


def gunicorn(log: Path, app: Path = APP, threads: int = 4, **env: str) -> tuple[Process, str]:
    """The process, once it answers, and its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "backend.wsgi:application", "-b", f"127.0.0.1:{port}"]
    command += ["--worker-class", "gthread", "--threads", str(threads)]
    command += ["--config", str(APP / "tests/gunicorn_hooks.py")]
    process = Process(command, log, os.environ | {"IMAGE_EDITOR_WEB_THREADS": str(threads)} | env, app)
    process.start()
    base = f"http://127.0.0.1:{port}"
    wait_for(lambda: requests.get(f"{base}/healthz", timeout=5).ok, 20, "gunicorn answers")
    return process, base


@pytest.fixture
def web(tmp_path: Path, services: Services) -> Iterator[Callable[..., str]]:
    """Starts gunicorn as the platform does, with plain HTTP: ``base = web(IMAGE_EDITOR_X="y")``."""
    started: list[Process] = []

    def _web(threads: int = 4, **env: str) -> str:
        process, base = gunicorn(tmp_path / f"web{len(started)}.log", threads=threads, **env)
        started.append(process)
        return base

    yield _web
    for process in started:
        process.kill()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Runs the reconciler in this process, without the time that it gives a message to arrive."""
    from image_editor.pipeline import reconciler

    monkeypatch.setattr(reconciler, "MISSING", timedelta(0))
    return reconciler.reconcile


def finished(api: Any, edit_id: str, seconds: float = 15) -> dict[str, Any]:
    """The document of an edit once it has ended."""

    def ended() -> dict[str, Any] | None:
        document = api.get(f"/api/v1/edits/{edit_id}").json()
        return document if document["status"] in ("succeeded", "failed", "cancelled") else None

    return wait_for(ended, seconds, f"edit {edit_id} ends")


def children(pid: int) -> list[int]:
    """The pool processes of a worker."""
    return [int(word) for word in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True).stdout.split()]


class Files(http.server.ThreadingHTTPServer):
    """The operator's image host, and the receiver of callbacks. Its paths are functions of the request handler."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        super().__init__((host, FILES_PORT), _Handler)
        self.routes: dict[str, Callable[[_Handler], None]] = {}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.release = threading.Event()

    def url(self, path: str) -> str:
        return f"http://{self.server_address[0]}:{FILES_PORT}{path}"

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        def answer(handler: _Handler) -> None:
            handler.send_response(status)
            for name, value in ({"Content_Length": str(len(body))} | headers).items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.routes[path] = answer
        return self.url(path)

    def serve_held(self, path: str, body: bytes) -> str:
        """Answers only after `release` is set: an edit that is under way for as long as a test likes."""

        def answer(handler: _Handler) -> None:
            self.release.wait(30)
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.routes[path] = answer
        return self.url(path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: several tests let the client hang up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Files

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, dict(self.headers), body))
        route = self.server.routes.get(self.path)
        if route:
            route(self)
        else:
            self.send_error(404)

    do_GET = do_POST = _any

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The names of a resolver of our own, each with its address. An empty address: the resolver has no answer for now.

    Only names under .example are asked here. One that is not in the dictionary does not exist.
    """
    known: dict[str, str] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if not host.endswith(".example"):
            return real(host, *args, **kwargs)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not known[host]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(known[host], *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@contextlib.contextmanager
def serving(host: str) -> Iterator[Files]:
    server = Files(host)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def files() -> Iterator[Files]:
    with serving("127.0.0.1") as server:
        yield server


@pytest.fixture
def other_files() -> Iterator[Files]:
    """A second host."""
    with serving("127.0.0.2") as server:
        yield server
