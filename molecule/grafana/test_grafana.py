"""Grafana, or the stand-in for it that prepare.yml builds where the vendor's repository does not answer: it says which."""

from __future__ import annotations

import json
import warnings

import pytest
from helpers import ROOT, playbook, secret

CONVERGE = "molecule/grafana/converge.yml"
BOARDS = {json.loads(path.read_text())["uid"] for path in (ROOT / "roles/grafana/files/dashboards").glob("*.json")}


@pytest.fixture(scope="module")
def grafana(on):
    host = on("with1")
    version = host.check_output("dpkg-query --show --showformat '${Version}' grafana")
    kind = "a STAND-IN, not Grafana" if "stand-in" in version else f"the real Grafana {version}"
    warnings.warn(f"this scenario ran {kind}", stacklevel=1)
    return host


def ask(host, path, password=None):
    """Status and JSON of an answer of Grafana's API; the password is a user's of this test's own host."""
    account = f"--user admin:{password}" if password else ""
    body, status = host.check_output(
        f"curl -sS --max-time 10 {account} -w '\\n%{{http_code}}' 'http://127.0.0.1:3000{path}'"
    ).rsplit("\n", 1)
    return int(status), json.loads(body)


def test_it_is_well_under_its_path(grafana):
    status, health = ask(grafana, "/grafana/api/health")
    assert (status, health["database"]) == (200, "ok")


def test_only_this_host_reaches_it(grafana):
    listening = grafana.check_output("ss --no-header --listening --tcp --numeric 'sport = :3000'")
    assert listening.split()[3] == "127.0.0.1:3000", listening


def test_nobody_gets_in_without_the_password(grafana):
    path = "/grafana/api/search?type=dash-db"
    assert ask(grafana, path)[0] == 401
    assert ask(grafana, path, "admin")[0] == 401
    assert ask(grafana, path, secret("grafana_admin_password"))[0] == 200


def test_data_source_and_dashboards_are_there(grafana):
    password = secret("grafana_admin_password")
    _, source = ask(grafana, "/grafana/api/datasources/uid/prometheus", password)
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090/prometheus")
    _, boards = ask(grafana, "/grafana/api/search?type=dash-db", password)
    assert {board["uid"] for board in boards} == BOARDS
    assert len(BOARDS) == 5


def test_the_password_is_nobody_elses(grafana):
    password = secret("grafana_admin_password")
    assert grafana.run("runuser -u nobody -- cat /etc/grafana/admin.password").rc != 0
    seen = grafana.check_output(
        "cat /etc/grafana/grafana.ini; systemctl cat grafana-server; ps -eo args; journalctl -o cat --no-pager"
    )
    assert password not in seen


def test_it_has_no_privileges(grafana):
    assert grafana.check_output("systemctl show --property=User --value grafana-server") == "grafana"
    exposure = float(grafana.check_output("systemd-analyze security --no-pager grafana-server | tail -n 1").split()[-3])
    assert exposure <= 2.5, "unit.conf.j2 is not in force"


def test_what_is_no_dashboard_does_not_land(grafana, tmp_path):
    """Refused by name, and the good one of that name stays."""
    broken = tmp_path / "overview.json"
    broken.write_text('{"uid": "image-editor-overview", "panels": [')
    before = grafana.check_output("sha256sum /etc/grafana/dashboards/overview.json")
    result = playbook(CONVERGE, "--limit", "with1", "-e", json.dumps({"grafana_dashboards": [str(broken)]}))
    assert result.returncode != 0
    assert "overview.json" in result.stdout
    assert "failed to validate" in result.stdout
    assert grafana.check_output("sha256sum /etc/grafana/dashboards/overview.json") == before


def test_a_new_password_is_set(grafana):
    path, new = "/grafana/api/search?type=dash-db", "another-password-of-this-test"
    old = secret("grafana_admin_password")
    try:
        result = playbook(CONVERGE, "--limit", "with1", "-e", f"vault_grafana_admin_password={new}")
        assert result.returncode == 0, result.stdout[-3000:]
        assert [ask(grafana, path, password)[0] for password in (old, new)] == [401, 200]
    finally:
        assert playbook(CONVERGE, "--limit", "with1").returncode == 0
    assert ask(grafana, path, old)[0] == 200


def test_without_a_repository_the_run_goes_on_and_says_so(on):
    result = playbook(CONVERGE, "--limit", "without1")
    assert result.returncode == 0, result.stdout[-3000:]
    summary = result.stdout.partition("PLAY RECAP")[2]
    assert "changed=0" in summary
    assert "Grafana is not installed on this host: https://127.0.0.1:9 does not answer" in " ".join(summary.split())
    assert on("without1").run("dpkg-query --show grafana").rc != 0


def test_none_stops_it(grafana):
    """The last one: nothing is started again."""
    result = playbook(CONVERGE, "--limit", "with1", "-e", "grafana_install=none")
    assert result.returncode == 0, result.stdout[-3000:]
    assert "changed=1 " in result.stdout
    assert grafana.run("systemctl is-active grafana-server").stdout.strip() == "inactive"
