"""Flower as operators use it: through the edge, after a restart, after a loss of Redis, and switched off."""

import json
import re

import pytest
from helpers import CURL, main_process, secret, until

EDGE = "curl -sS --max-time 20 --cacert /etc/ssl/certs/image-editor-ca.crt"
WORKERS = {"edit@platform1", "callback@platform1"}
CODE = "-o /dev/null -w '%{http_code}'"
OPERATOR, VIEWER = "--config /root/operator", "--config /root/viewer"
# Each call would harm a worker or an edit.
CALLS = (
    "worker/shutdown/edit@platform1",
    "worker/pool/grow/edit@platform1?n=1",
    "worker/pool/restart/edit@platform1",
    "task/rate-limit/image_editor.tasks.edit?workername=edit@platform1&ratelimit=1",
    "task/revoke/00000000-0000-0000-0000-000000000000?terminate=true",
)


@pytest.fixture(scope="module", autouse=True)
def accounts(host):
    """The files that OPERATOR and VIEWER name."""
    for user in ("operator", "viewer"):
        host.check_output(f"install -m 600 /dev/null /root/{user}")
        host.check_output(f"echo %s > /root/{user}", f'user = "{user}:{secret(f"{user}_password")}"')


def flower(host, path: str, options: str = OPERATOR) -> str:
    """Return Flower's answer through the edge. The password is in a file."""
    return host.check_output(f"{EDGE} -f {options} 'https://localhost/flower/{path}'")


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


def test_every_file_of_flowers_pages_needs_the_password(host):
    page = flower(host, "")
    files = set(re.findall(r'(?:src|href)="(/flower/static/[^"?]+)', page))
    assert len(files) > 3, page
    for path in files:
        assert (status(host, path), status(host, path, OPERATOR)) == ("401", "200"), path


def processes(host) -> str:
    """The main process of the worker `edit` and its pool."""
    main = main_process(host, "image-editor-worker@edit")
    return f"{main}: {host.check_output(f'pgrep -P {main}')}"


def test_only_an_operator_on_our_own_pages_controls_workers(host):
    """The edge refuses the others. So does Flower itself, where a program on its host reaches it; it knows no viewers."""
    before = processes(host)
    cross_site = f"{OPERATOR} -H 'Sec-Fetch-Site: cross-site'"
    old_browser = f"{OPERATOR} -H 'Origin: https://elsewhere.example'"
    for call in CALLS:
        for options, code in (("", "401"), (cross_site, "403"), (old_browser, "403"), (VIEWER, "403")):
            assert status(host, f"/flower/api/{call}", f"-X POST {options}") == code, (call, options)
        direct = f"-X POST 'http://127.0.0.1:5555/flower/api/{call}'"
        assert host.check_output(f"curl -sS {CODE} {direct}") == "401", call
        for options in (cross_site, old_browser):
            assert "request forbidden" in host.check_output(f"curl -sS {options} {direct}"), (call, options)
    assert processes(host) == before
    assert "Revoked" in flower(host, f"api/{CALLS[-1]}", f"{OPERATOR} -X POST -H 'Origin: https://localhost'")


def test_a_viewer_sees_workers_and_tasks(host):
    assert "Flower" in flower(host, "", VIEWER)
    assert set(json.loads(flower(host, "api/workers", VIEWER))) >= WORKERS
    table = f"{VIEWER} -X POST -d 'draw=1&start=0&length=10&order[0][column]=0&columns[0][data]=name'"
    assert json.loads(flower(host, "tasks/datatable", table))["recordsTotal"] > 0


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


def test_edits_succeed_while_flower_is_down_and_its_events_leave_nothing_in_redis(host, api):
    host.check_output("systemctl stop image-editor-flower.service")
    try:
        assert api.ended(ended(api))["status"] == "succeeded"
        assert host.check_output("image-editor-redis-cli -n 0 KEYS 'celeryev*'") == "", "events wait for Flower"
    finally:
        host.check_output("systemctl start image-editor-flower.service")
    until("Flower answers", lambda: host.run("curl -sf http://127.0.0.1:5555/flower/healthcheck").rc == 0)


def test_flower_receives_events_again_after_a_restart_of_redis(host, api):
    host.check_output("systemctl restart redis-server.service haproxy.service")
    until("edits work again", lambda: api("/readyz")[0] == 200)
    until("Flower has seen an edit after the loss", lambda: known(host, ended(api)), 60)


def test_the_passwords_are_not_readable_by_other_users(host):
    pid = main_process(host, "image-editor-flower")
    open_texts = [
        host.check_output(f"tr '\\0' ' ' </proc/{pid}/cmdline"),
        host.check_output("systemctl cat image-editor-flower.service"),
        host.file("/etc/image-editor-operators/account").content_string,
    ]
    for name in ("operator_password", "viewer_password"):
        assert not any(secret(name) in text for text in open_texts), name
    for path in ("/etc/image-editor/flower.env", "/etc/image-editor-operators/account"):
        assert host.file(path).mode == 0o640
    assert host.run("runuser -u nobody -- cat /etc/image-editor/flower.env").rc != 0


@pytest.mark.usefixtures("switched_off")
def test_edits_succeed_after_flower_is_switched_off(host, api):
    for unit in ("flower", "collector"):
        assert not host.service(f"image-editor-{unit}").is_running
        assert not host.service(f"image-editor-{unit}").is_enabled
    assert status(host, "/flower/") == "404"
    assert status(host, "/prometheus/") == "404"
    assert host.run("ss -Hltn 'sport = :9810 or sport = :9820 or sport = :8444 or sport = :5555'").stdout == ""
    assert host.check_output(f"{CURL} {CODE} https://localhost:8000/metrics") == "404"
    main = main_process(host, "image-editor-worker@edit")
    assert "task-events" not in host.check_output(f"tr '\\0' ' ' </proc/{main}/cmdline")
    edit_id = api.submit()
    assert until("an edit has ended", lambda: api.ended(edit_id), 60)["status"] == "succeeded"
