"""Grafana, or the stand-in that prepare.yml builds if the vendor's repository does not answer. A warning says which."""

from __future__ import annotations

import json
import shutil
import sys
import warnings

import pytest
from helpers import ROOT, changed, playbook, secret, until

sys.path.insert(0, str(ROOT / "plugins/lookup"))
import dashboards

CONVERGE = "molecule/grafana/converge.yml"
BOARDS = {json.loads(text)["uid"] for text in dashboards.generate().values()}


@pytest.fixture(scope="module")
def grafana(on):
    host = on("with1")
    version = host.check_output("dpkg-query --show --showformat '${Version}' grafana")
    kind = "a STAND-IN, not Grafana" if "stand-in" in version else f"the real Grafana {version}"
    warnings.warn(f"this scenario ran {kind}", stacklevel=1)
    return host


def ask(host, path, password=None):
    """Return status and JSON of a request to Grafana's API."""
    account = f"--user admin:{password}" if password else ""
    body, status = host.check_output(
        f"curl -sS --max-time 10 {account} -w '\\n%{{http_code}}' 'http://127.0.0.1:3000{path}'"
    ).rsplit("\n", 1)
    return int(status), json.loads(body)


def test_grafana_is_healthy_under_its_path(grafana):
    status, health = ask(grafana, "/grafana/api/health")
    assert (status, health["database"]) == (200, "ok")


def test_grafana_listens_on_loopback(grafana):
    listening = grafana.check_output("ss --no-header --listening --tcp --numeric 'sport = :3000'")
    assert listening.split()[3] == "127.0.0.1:3000", listening


def test_the_api_requires_the_password(grafana):
    path = "/grafana/api/search?type=dash-db"
    assert ask(grafana, path)[0] == 401
    assert ask(grafana, path, "admin")[0] == 401
    assert ask(grafana, path, secret("grafana_admin_password"))[0] == 200


def test_data_source_and_dashboards_are_provisioned(grafana):
    password = secret("grafana_admin_password")
    _, source = ask(grafana, "/grafana/api/datasources/uid/prometheus", password)
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090/prometheus")
    _, boards = ask(grafana, "/grafana/api/search?type=dash-db", password)
    assert {board["uid"] for board in boards} == BOARDS
    assert len(BOARDS) == 5


def test_the_password_is_readable_by_grafana_only(grafana):
    password = secret("grafana_admin_password")
    assert grafana.run("runuser -u nobody -- cat /etc/grafana/admin.password").rc != 0
    seen = grafana.check_output(
        "cat /etc/grafana/grafana.ini; systemctl cat grafana-server; ps -eo args; journalctl -o cat --no-pager"
    )
    assert password not in seen


def test_the_unit_is_hardened(grafana):
    assert grafana.check_output("systemctl show --property=User --value grafana-server") == "grafana"
    exposure = float(grafana.check_output("systemd-analyze security --no-pager grafana-server | tail -n 1").split()[-3])
    assert exposure <= 2.5, "the drop-in is not in force"


def test_an_invalid_dashboard_is_refused(grafana, tmp_path):
    """The error names the file, and the installed dashboard of the same name stays."""
    broken = tmp_path / "overview.json"
    broken.write_text('{"uid": "image-editor-overview", "panels": [')
    before = grafana.check_output("sha256sum /etc/grafana/dashboards/overview.json")
    result = playbook(CONVERGE, "--limit", "with1", "-e", json.dumps({"grafana_dashboard_directories": [str(tmp_path)]}))
    assert result.returncode != 0
    assert "overview.json" in result.stdout
    assert "failed to validate" in result.stdout
    assert grafana.check_output("sha256sum /etc/grafana/dashboards/overview.json") == before


def test_a_dashboard_in_the_inventory_reaches_grafana(grafana, tmp_path):
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "molecule/shared/group_vars", inventory / "group_vars")
    shutil.copy(ROOT / "molecule/grafana/hosts.yml", inventory)
    board = json.loads(dashboards.HOSTS.json()) | {"uid": "mine", "title": "Mine"}
    (inventory / "dashboards").mkdir()
    (inventory / "dashboards/mine.json").write_text(json.dumps(board))

    def uids():
        answer = ask(grafana, "/grafana/api/search?type=dash-db", secret("grafana_admin_password"))[1]
        return {board["uid"] for board in answer}

    result = playbook(CONVERGE, "--limit", "with1", inventory=inventory)
    assert result.returncode == 0, result.stdout[-3000:]
    until("Grafana has the added dashboard", lambda: uids() == BOARDS | {"mine"}, 60)
    assert playbook(CONVERGE, "--limit", "with1").returncode == 0
    until("Grafana has removed the dashboard", lambda: uids() == BOARDS, 60)


def test_a_changed_password_is_set(grafana):
    path, new = "/grafana/api/search?type=dash-db", "another-password-of-this-test"
    old = secret("grafana_admin_password")
    try:
        result = playbook(CONVERGE, "--limit", "with1", "-e", f"vault_grafana_admin_password={new}")
        assert result.returncode == 0, result.stdout[-3000:]
        assert [ask(grafana, path, password)[0] for password in (old, new)] == [401, 200]
    finally:
        assert playbook(CONVERGE, "--limit", "with1").returncode == 0
    assert ask(grafana, path, old)[0] == 200


def test_without_a_repository_the_run_continues_and_reports_the_reason(on):
    result = playbook(CONVERGE, "--limit", "without1")
    assert result.returncode == 0, result.stdout[-3000:]
    summary = result.stdout.partition("PLAY RECAP")[2]
    assert not changed(result.stdout)
    assert "Grafana is not installed on this host: https://127.0.0.1:9 does not answer" in " ".join(summary.split())
    assert on("without1").run("dpkg-query --show grafana").rc != 0


def test_install_none_stops_grafana(grafana):
    """This test is the last: it does not start Grafana again."""
    result = playbook(CONVERGE, "--limit", "with1", "-e", "grafana_install=none")
    assert result.returncode == 0, result.stdout[-3000:]
    assert len(changed(result.stdout)) == 1
    assert grafana.run("systemctl is-active grafana-server").stdout.strip() == "inactive"
