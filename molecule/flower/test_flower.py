"""Flower as operators use it: through the edge, after a restart, after a loss of Redis, and switched off."""

import json
from pathlib import Path

import pytest
from helpers import CURL, Api, playbook, secret, until

EDGE = "curl -sS --max-time 20 --cacert /etc/ssl/certs/image-editor-ca.crt"
WORKERS = {"edit@platform1", "callback@platform1"}
CODE = "-o /dev/null -w '%{http_code}'"


@pytest.fixture(scope="module")
def api(host):
    host.check_output("install -m 600 /dev/null /root/flower.curl")
    host.check_output("echo %s > /root/flower.curl", f'user = "operator:{secret("operator_password")}"')
    return Api(host)


def flower(host, path: str) -> str:
    """Return Flower's answer through the edge. The password is in a file."""
    return host.check_output(f"{EDGE} -f --config /root/flower.curl 'https://localhost/flower/{path}'")


def status(host, path: str, options: str = "") -> str:
    return host.check_output(f"{EDGE} {CODE} --path-as-is {options} 'https://localhost{path}'")


def known(host, edit_id: str) -> str:
    """Return the state of a task, or an empty string if Flower has not seen the task."""
    return json.loads(flower(host, "api/tasks")).get(edit_id, {}).get("state", "")


def ended(api) -> str:
    edit_id = api.submit()
    until("the edit has ended", lambda: api.ended(edit_id), 60)
    return edit_id


def test_flower_shows_workers_and_tasks_after_sign_in(host, api):
    assert "Flower" in flower(host, "")
    until("Flower sees the workers", lambda: set(json.loads(flower(host, "api/workers?refresh=1"))) >= WORKERS)
    edit_id = ended(api)
    until("Flower has seen the edit", lambda: known(host, edit_id) == "SUCCESS")


def test_requests_without_the_password_are_refused(host):
    for path in ("/flower/", "/flower/api/workers", "/flower/api/tasks"):
        assert status(host, path) == "401", path
        assert status(host, path, "--user operator:wrong") == "401", path


def test_paths_without_a_password_answer_404_at_the_edge(host):
    for path in ("metrics", "healthcheck", "/metrics", "%6detrics", "x/../metrics"):
        assert status(host, f"/flower/{path}") == "404", path
    assert status(host, "/metrics") == "404"


def test_metrics_are_available_on_the_host_itself(host):
    assert "flower_events_total" in host.check_output("curl -sSf http://127.0.0.1:5555/flower/metrics")
    assert host.check_output("ss -Hltn 'sport = :5555'").split()[3] == "127.0.0.1:5555"


def test_the_task_history_survives_a_restart_and_a_kill(host, api):
    edit_id = ended(api)
    until("Flower has seen the edit", lambda: known(host, edit_id) == "SUCCESS")
    host.check_output("systemctl restart image-editor-flower.service")
    until("Flower answers", lambda: host.run("curl -sf http://127.0.0.1:5555/flower/healthcheck").rc == 0)
    assert known(host, edit_id) == "SUCCESS"
    host.check_output("systemctl kill --signal=KILL image-editor-flower.service")
    until("Flower answers again", lambda: host.run("curl -sf http://127.0.0.1:5555/flower/healthcheck").rc == 0)
    assert known(host, edit_id) == "SUCCESS"


def test_flower_receives_events_again_after_a_restart_of_redis(host, api):
    host.check_output("systemctl restart redis-server.service haproxy.service")
    until("edits work again", lambda: api("/readyz")[0] == 200)
    until("Flower has seen an edit after the loss", lambda: known(host, ended(api)), 60)


def test_the_password_is_not_readable_by_other_users(host):
    password = secret("operator_password")
    pid = host.check_output("systemctl show -P MainPID image-editor-flower.service")
    assert password not in host.check_output(f"tr '\\0' ' ' </proc/{pid}/cmdline")
    assert password not in host.check_output("systemctl cat image-editor-flower.service")
    for path in ("/etc/image-editor/flower.env", "/etc/image-editor-operators/account"):
        assert host.file(path).mode == 0o640
    assert host.run("runuser -u nobody -- cat /etc/image-editor/flower.env").rc != 0
    assert password not in host.file("/etc/image-editor-operators/account").content_string


def test_edits_succeed_after_flower_is_switched_off(host, api):
    """The last test, because it removes Flower and the metrics."""
    off = json.dumps({"flower_enabled": False, "monitoring_enabled": False})
    ran = playbook(str(Path(__file__).parent / "converge.yml"), "-e", off)
    assert ran.returncode == 0, ran.stdout
    for unit in ("flower", "collector"):
        assert not host.service(f"image-editor-{unit}").is_running
        assert not host.service(f"image-editor-{unit}").is_enabled
    assert status(host, "/flower/") == "404"
    assert status(host, "/prometheus/") == "404"
    assert host.run("ss -Hltn 'sport = :9810 or sport = :9820 or sport = :8444 or sport = :5555'").stdout == ""
    assert host.check_output(f"{CURL} {CODE} https://localhost:8000/metrics") == "404"
    main = host.check_output("systemctl show -P MainPID image-editor-worker@edit.service")
    assert "task-events" not in host.check_output(f"tr '\\0' ' ' </proc/{main}/cmdline")
    edit_id = api.submit()
    assert until("an edit has ended", lambda: api.ended(edit_id), 60)["status"] == "succeeded"
