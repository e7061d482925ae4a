"""What a deployment relies on: probes, management commands, and settings that name a missing variable."""

import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
import requests
from conftest import APP, TOKEN, finished
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.utils import timezone
from services import Services, frozen, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def manage(*args: str, env: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *args], cwd=APP, env=env, input=stdin, capture_output=True, text=True, timeout=60
    )


def test_each_missing_secret_is_named(services: Services) -> None:
    with_default = {"IMAGE_EDITOR_ALLOWED_HOSTS", "IMAGE_EDITOR_MEDIA_CA"}
    names = [name for name in services.env if name not in with_default]
    assert len(names) > 8
    for name in names:
        env = {key: value for key, value in services.env.items() if key != name}
        with patch.dict(os.environ, env, clear=True), pytest.raises(ImproperlyConfigured, match=f"Set {name}:"):
            runpy.run_path(str(APP / "backend/settings.py"))
    ran = manage("check", env=env)
    assert ran.returncode
    assert f"Set {name}" in ran.stderr


def test_static_files_are_collected_without_any_secret() -> None:
    ran = manage("collectstatic", "--noinput", "--dry-run", env={})
    assert ran.returncode == 0, ran.stderr


def test_the_api_is_loaded_before_the_processes_of_gunicorn_are_forked(services: Services) -> None:
    """Otherwise the first client of each process waits for it: more than a second on a busy host."""
    code = "import sys, backend.wsgi; sys.exit('image_editor.api.v1' not in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=APP, check=True)


def test_migrations_are_complete(clean: None) -> None:
    call_command("makemigrations", check=True, dry_run=True)
    call_command("migrate", check=True)


def test_development_env_is_enough_to_make_a_migration() -> None:
    """The recipe "Add a migration" in CONTRIBUTING.md works."""
    lines = [line for line in (APP / "development.env").read_text().splitlines() if not line.startswith("#")]
    ran = manage("makemigrations", "--check", "--dry-run", env=dict(line.split("=", 1) for line in lines))
    assert ran.returncode == 0, ran.stderr
    assert "No changes detected" in ran.stdout


def ensure(services: Services, *args: str, token: str) -> str:
    """The last line that ensure_user prints."""
    ran = manage("ensure_user", *args, env=services.env, stdin=token + "\n")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


def test_ensure_user_locks_nobody_out_and_demotes_nobody(
    clean: None, services: Services, api: Any, plain_static: None
) -> None:
    from image_editor import auth

    tokens = ["another-token-" + "x" * 30, "y" * 40]
    assert ensure(services, "bob", "--staff", token=tokens[0]) == "changed"
    assert ensure(services, "bob", "--staff", token=tokens[0]) == "unchanged"
    assert ensure(services, "bob", token=tokens[0]) == "unchanged"
    assert ensure(services, "bob", token=tokens[1]) == "changed"
    assert ensure(services, "bob", token=tokens[0]) == "unchanged"
    auth.forget()
    edits = "/api/v1/edits/00000000-0000-4000-8000-000000000000"
    for token in tokens:
        assert api.get(edits, headers={"Authorization": f"Token {token}"}).status_code == 404
    assert api.get(edits, headers={"Authorization": f"bearer {'z' * 40}"}).status_code == 401
    assert api.login(username="bob", password=tokens[1])
    assert api.get("/admin/").status_code == 200
    assert ensure(services, "bob", "--no-staff", token=tokens[1]) == "changed"
    assert api.get("/admin/").status_code == 302


def test_ensure_user_makes_the_user_active_and_leaves_a_valid_token_as_it_is(user: Any, services: Services) -> None:
    from image_editor import tokens
    from image_editor.models import ApiToken

    user.is_active = False
    user.save()
    assert ensure(services, "alice", token=TOKEN) == "changed"
    user.refresh_from_db()
    assert user.is_active
    expires_at = timezone.now() + timedelta(days=1)
    limited = tokens.make(ApiToken(user=user, name="shop", scope="read", expires_at=expires_at))
    before = list(ApiToken.objects.order_by("pk").values())
    for token in (TOKEN, limited):
        assert ensure(services, "alice", token=token) == "unchanged"
    assert list(ApiToken.objects.order_by("pk").values()) == before


def test_operators_make_list_rotate_and_revoke_tokens(user: Any, api: Any, services: Services) -> None:
    from image_editor import auth

    def run(*args: str, fails: bool = False) -> str:
        ran = manage("tokens", *args, env=services.env)
        assert (ran.returncode != 0) == fails, ran.stderr
        return ran.stderr if fails else ran.stdout.strip()

    def status(token: str, method: str = "get") -> int:
        auth.forget()
        return getattr(api, method)("/api/v1/edits", headers={"Authorization": f"Bearer {token}"}).status_code

    token = run("make", "alice", "night\njob", "--scope", "read", "--days", "90")
    assert (status(token), status(token, "post")) == (200, 403)
    lines = [line for line in run("list", "alice").splitlines() if "night" in line]
    assert len(lines) == 1, "a name broke a line"
    assert '"night\\njob"' in lines[0]
    public_id = lines[0].split()[0]
    new = run("rotate", "alice", public_id)
    assert (status(token), status(new)) == (200, 200)
    assert run("revoke", "alice", public_id) == "revoked"
    assert (status(token), status(new), status(TOKEN)) == (401, 200, 200)
    assert f"no token {public_id}" in run("revoke", "alice", public_id, fails=True)
    assert "there is no user" in run("make", "carol", "x", fails=True)
    assert "--days" in run("make", "alice", "x", "--days", "0", fails=True), "0 days made a token for ever"
    assert len(run("list").splitlines()) == 1 + 2


def test_ensure_user_refuses_a_token_that_was_revoked(user: Any, api: Any, services: Services) -> None:
    from django.contrib.auth.models import User

    from image_editor import auth, tokens

    def refused(name: str, token: str) -> None:
        ran = manage("ensure_user", name, env=services.env, stdin=token)
        assert ran.returncode != 0
        assert "put the new token into the vault" in ran.stderr
        auth.forget()
        answer = api.get("/api/v1/edits", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, "the revoked token is accepted again"

    row = user.api_tokens.get()
    assert manage("tokens", "revoke", "alice", str(row.public_id), env=services.env).stdout.strip() == "revoked"
    refused("alice", TOKEN)
    refused("carol", TOKEN)
    assert not User.objects.filter(username="carol").exists(), "a refused command created a user"

    other = "another-token-" + "x" * 30
    assert ensure(services, "alice", token=other) == "changed"
    # A token with an expiry has its digest in capitals, and the end of an overlap of 0 s revokes.
    former = user.api_tokens.get()
    tokens.rotate(former, timedelta(hours=1))
    former.refresh_from_db()
    assert former.limited
    tokens.rotate(former, timedelta(0))
    refused("alice", other)


def test_ensure_user_refuses_a_token_that_was_replaced_or_has_expired(user: Any, services: Services) -> None:
    """Also while the overlap lasts. The refusal ends nothing, and changes nothing of the user."""
    from image_editor import tokens
    from image_editor.models import ApiToken

    def refused(token: str) -> None:
        ran = manage("ensure_user", "alice", "--staff", env=services.env, stdin=token)
        assert ran.returncode != 0
        assert "put the new token into the vault" in ran.stderr
        user.refresh_from_db()
        assert not user.is_staff, "a refused command gave rights"

    _, new = tokens.rotate(user.api_tokens.get(), timedelta(hours=1))
    refused(TOKEN)
    assert tokens.valid(tokens.digest(TOKEN)), "the overlap was cut short"
    assert ensure(services, "alice", token=new) == "unchanged"
    expires_at = timezone.now() + timedelta(hours=1)
    expired = tokens.make(ApiToken(user=user, name="shop", expires_at=expires_at))
    assert ensure(services, "alice", token=expired) == "unchanged"
    ApiToken.objects.filter(name="shop").update(expires_at=timezone.now())
    refused(expired)
    ApiToken.objects.filter(name="shop").delete()  # as the next token that is made does, a week later
    refused(expired)
    assert ensure(services, "alice", "--staff", token=new) == "changed"


@pytest.mark.parametrize("token", ["", "short", TOKEN])
def test_a_bad_token_is_refused(token: str, user: Any, services: Services) -> None:
    ran = manage("ensure_user", "carol", env=services.env, stdin=token)
    assert ran.returncode != 0
    assert "token" in ran.stderr


def test_healthz_and_readyz_report_health_checks_and_the_release(api: Any, services: Services) -> None:
    healthy = api.get("/healthz", headers={"Host": "web1.internal", "Authorization": ""})
    assert (healthy.status_code, healthy.json()["release"]) == (200, "unreleased")
    ready = api.get("/readyz", headers={"Host": "web1.internal"})
    assert ready.status_code == 200, ready.content
    assert set(ready.json()["checks"].values()) == {"ok"}
    assert ready["X-Release"] == "unreleased"
    assert api.get("/api/v1/docs", headers={"Host": "elsewhere"}).status_code == 400


def test_readiness_names_the_server_that_is_down(api: Any, services: Services, settings: Any) -> None:
    settings.BROKER_URL = "redis://127.0.0.1:1/0"
    down = api.get("/readyz")
    assert down.status_code == 503
    assert down.json()["checks"]["broker"].startswith("failed")
    assert down.json()["checks"]["database"] == "ok"
    assert "127.0.0.1" not in down.content.decode()


def test_failed_edits_are_requeued(api: Any, photo: bytes, files: Any, start: Callable, services: Services) -> None:
    from helpers import post

    from image_editor.models import Callback

    body = {"image_url": files.url("/late.jpg"), "prompt": "sepia", "callback_url": files.url("/callback")}
    edit = post(api, body).json()
    start("edit")
    start("callback,maintenance")
    start(beat=True)
    assert finished(api, edit["id"])["error"]["code"] == "image_url_failed"
    files.serve("/late.jpg", photo)
    ran = manage("requeue", "--failed", "image_url_failed", env=services.env)
    assert ran.stdout.strip() == "1 of 1 edits requeued", ran.stderr
    assert finished(api, edit["id"])["status"] == "succeeded"
    assert Callback.objects.filter(edit=edit["id"]).count() == 1
    assert manage("requeue", edit["id"], env=services.env).stdout.strip() == "0 of 1 edits requeued"
    assert manage("requeue", "00000000-0000-4000-8000-000000000000", env=services.env).returncode != 0


def test_the_demo_edits_succeed(api: Any, start: Callable, services: Services) -> None:
    ran = manage("load_demo", "alice", env=services.env)
    assert ran.returncode == 0, ran.stderr
    start("edit")
    for line in ran.stdout.splitlines():
        assert finished(api, line.split()[0])["status"] == "succeeded", line


def test_readiness_probes_open_no_connection(user: Any, web: Callable, services: Services, figure: Callable) -> None:
    """60 probes, six at a time, cost one session of PostgreSQL and one connection to each Redis."""
    base = web()

    def opened() -> tuple[int, int]:
        """How many were ever opened."""
        sessions = services.psql("SELECT sessions FROM pg_stat_database WHERE datname = 'app'")[0][0]
        return sessions, services.admin().info("stats")["total_connections_received"]

    before = opened()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: requests.get(f"{base}/readyz", timeout=10).status_code, range(60)))
    time.sleep(0.5)  # until PostgreSQL has counted sessions that have ended
    postgres, redis = (now - then for now, then in zip(opened(), before, strict=True))
    assert set(answers) == {200}
    assert redis <= 3 + 1  # one of them is the test's
    figure("readyz_postgresql_sessions", postgres, "sessions", 1)


def test_a_process_that_nobody_asks_for_readiness_holds_no_connection(
    api: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.web import health

    before = threading.active_count()
    assert api.get("/readyz").status_code == 200
    assert threading.active_count() > before
    monkeypatch.setattr(health, "IDLE", 0)
    wait_for(lambda: threading.active_count() == before, 5, "the checks end")
    monkeypatch.undo()
    assert api.get("/readyz").status_code == 200, "they do not start again"


def test_a_check_in_a_hurry_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.web import health

    looks: list[float] = []

    def look() -> health.Results:
        looks.append(time.monotonic())
        return {"it": "ok"}

    monkeypatch.setattr(health, "PACE", 60)
    check = health.Check(["it"], lambda: nullcontext(look))
    before = set(threading.enumerate())
    check.ask()
    (thread,) = set(threading.enumerate()) - before
    wait_for(lambda: looks, 5, "the first look")
    check.ask()
    time.sleep(0.5)
    assert len(looks) == 1, "the pause is over too soon"
    monkeypatch.setattr(health, "IDLE", 0)  # the second look is the last
    check.hurry()
    thread.join(5)
    assert not thread.is_alive()
    assert len(looks) == 2


def test_an_old_result_counts_as_not_ready(api: Any, services: Services) -> None:
    """While the checks run, a probe does not wait for a server that hangs."""
    assert api.get("/readyz").status_code == 200
    with frozen(services.redis):
        # The checks of the cache and of the broker look at their server at different moments.
        down = wait_for(lambda: (answer := api.get("/readyz")).json()["checks"]["broker"] != "ok" and answer, 4)
        assert down.status_code == 503
        assert down.json()["checks"]["broker"].startswith("failed")
        assert down.json()["checks"]["database"] == "ok", "one hanging server delays the check of another"
        started = time.monotonic()
        api.get("/readyz")
        assert time.monotonic() - started < 1
    wait_for(lambda: api.get("/readyz").status_code == 200, 5, "it is ready again")


def test_readiness_answers_in_bounded_time_if_a_server_hangs(api: Any, services: Services) -> None:
    from image_editor.web import health

    for process in (services.redis, services.postgres):
        health.stop()
        with frozen(process):
            started = time.monotonic()
            answer = api.get("/readyz")
            assert time.monotonic() - started < 3
            assert answer.status_code == 503
    wait_for(lambda: api.get("/readyz").status_code == 200, 5, "it is ready again")
