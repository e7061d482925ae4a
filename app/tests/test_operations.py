"""What deployment relies on: probes, management commands, settings that name what is missing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import APP, TOKEN
from django.core.management import call_command
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)


def manage(*args: str, env: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *args], cwd=APP, env=env, input=stdin, capture_output=True, text=True, timeout=60
    )


def test_each_missing_secret_is_named(services: Services) -> None:
    for name in services.env:
        if name != "IMAGE_EDITOR_ALLOWED_HOSTS":
            env = {key: value for key, value in services.env.items() if key != name}
            ran = manage("check", env=env)
            assert ran.returncode, name
            assert f"Set {name}" in ran.stderr


def test_static_files_are_collected_without_any_secret(tmp_path: Path) -> None:
    ran = manage("collectstatic", "--noinput", "--dry-run", env={})
    assert ran.returncode == 0, ran.stderr


def test_migrations_are_complete(clean: None) -> None:
    call_command("makemigrations", check=True, dry_run=True)
    call_command("migrate", check=True)


def test_a_user_is_ensured_once(clean: None, services: Services, api: Any, plain_static: None) -> None:
    token = "another-token-" + "x" * 30
    first = manage("ensure_user", "bob", "--staff", env=services.env, stdin=token + "\n")
    assert first.stdout.splitlines()[-1] == "changed", first.stderr
    again = manage("ensure_user", "bob", "--staff", env=services.env, stdin=token)
    assert again.stdout.splitlines()[-1] == "unchanged", again.stderr
    edits = "/api/v1/edits/00000000-0000-4000-8000-000000000000"
    assert api.get(edits, headers={"Authorization": f"Token {token}"}).status_code == 404
    # A new token replaces the old one.
    assert manage("ensure_user", "bob", "--staff", env=services.env, stdin="y" * 40).stdout.strip() == "changed"
    assert api.get(edits, headers={"Authorization": f"Token {token}"}).status_code == 401
    assert api.get(edits, headers={"Authorization": f"bearer {'y' * 40}"}).status_code == 404
    assert api.login(username="bob", password="y" * 40)
    assert api.get("/admin/").status_code == 200


@pytest.mark.parametrize("token", ["", "short", TOKEN])
def test_a_bad_token_is_refused(token: str, user: Any, services: Services) -> None:
    ran = manage("ensure_user", "carol", env=services.env, stdin=token)
    assert ran.returncode != 0
    assert "token" in ran.stderr


def test_probes(api: Any, services: Services) -> None:
    healthy = api.get("/healthz", headers={"Host": "web1.internal", "Authorization": ""})
    assert (healthy.status_code, healthy.json()["release"]) == (200, "unreleased")
    ready = api.get("/readyz", headers={"Host": "web1.internal"})
    assert ready.status_code == 200, ready.content
    assert set(ready.json()["checks"].values()) == {"ok"}
    assert ready["X-Release"] == "unreleased"
    assert api.get("/api/v1/docs", headers={"Host": "elsewhere"}).status_code == 400


def test_readiness_says_what_is_down(api: Any, services: Services, settings: Any) -> None:
    settings.BROKER_URL = "redis://127.0.0.1:1/0"
    down = api.get("/readyz")
    assert down.status_code == 503
    assert down.json()["checks"]["broker"].startswith("failed")
    assert down.json()["checks"]["database"] == "ok"
    assert "127.0.0.1" not in down.content.decode()


def test_readiness_is_bounded_when_a_server_hangs(api: Any, services: Services) -> None:
    postgres = next(process for process in services.processes if process.log.name == "postgres.log")
    for process in (services.redis, postgres):
        pids = subprocess.run(["pgrep", "-g", str(process.popen.pid)], capture_output=True, text=True).stdout.split()
        for pid in pids:
            os.kill(int(pid), signal.SIGSTOP)
        try:
            started = time.monotonic()
            answer = api.get("/readyz")
            assert time.monotonic() - started < 3
            assert answer.status_code == 503
        finally:
            for pid in pids:
                os.kill(int(pid), signal.SIGCONT)
    assert api.get("/readyz").status_code == 200
