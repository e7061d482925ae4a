"""Prometheus on one host, and the rules by promtool's own tests; molecule/default breaks things and waits for the alerts."""

import json
import subprocess
from urllib.parse import quote

import pytest
from helpers import ROOT, container, playbook, until

URL = "http://127.0.0.1:9090/prometheus"
CONVERGE = "molecule/prometheus/converge.yml"
PAGES = sorted(path.name for path in (ROOT / "roles/prometheus/files/consoles").glob("*.html"))


@pytest.fixture
def query(host):
    """Return a function: what an expression is now, as {instance: value}; nothing while Prometheus is starting."""

    def query(expression):
        answer = host.run(f"curl -sf '{URL}/api/v1/query?query={quote(expression)}'").stdout
        found = json.loads(answer)["data"]["result"] if answer else []
        return {series["metric"].get("instance", ""): float(series["value"][1]) for series in found}

    return query


def test_targets_are_up_over_mutual_tls(query):
    until("both are up", lambda: query("sum by (instance) (up)") == {"platform1": 2}, 20)


def test_rules_do_what_they_should(host):
    """promtool's unit tests, on the rules as they are on the host."""
    file = ROOT / "roles/prometheus/files/rules_test.yml"
    subprocess.run(["docker", "cp", "-q", str(file), f"{container('platform1')}:/etc/prometheus/rules_test.yml"], check=True)
    result = host.run("promtool test rules /etc/prometheus/rules_test.yml")
    host.check_output("rm /etc/prometheus/rules_test.yml")
    assert result.rc == 0, result.stdout + result.stderr
    assert "SUCCESS" in result.stdout


def test_an_alert_reaches_alertmanager(host):
    """One that waits for nothing: a certificate that ends tomorrow, as the node exporter would tell."""
    file, metric = "/var/lib/prometheus/node-exporter/test.prom", "image_editor_certificate_expiry_timestamp_seconds"
    host.check_output(f"printf '# TYPE {metric} gauge\\n{metric}{{path=\"/x\"}} %s\\n' $(date -d tomorrow +%s) >{file}")
    told = "amtool --alertmanager.url=http://127.0.0.1:9093/alertmanager alert query path=/x severity=critical -o json"
    (alert,) = until("Alertmanager has it", lambda: json.loads(host.check_output(told)), 30)
    assert alert["labels"].items() >= {"alertname": "CertificateExpiring", "instance": "platform1", "job": "node"}.items()
    assert alert["labels"]["environment"]
    assert alert["annotations"]["runbook"] == "docs/alerts.md#certificateexpiring"
    host.check_output(f"rm {file}")
    until("it is taken back", lambda: not json.loads(host.check_output(told)), 30)


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ('{"prometheus_alert_delay": "soon"}', "not a valid duration"),
        ('{"prometheus_thresholds": {"disk_free": 1}}', "disk_free"),
    ],
)
def test_a_rule_that_it_would_not_take_does_not_land(host, variable, complaint):
    before = host.file("/etc/prometheus/rules/alerts.yml").sha256sum
    result = playbook(CONVERGE, "-e", variable)
    assert result.returncode != 0
    assert complaint in result.stdout
    assert host.file("/etc/prometheus/rules/alerts.yml").sha256sum == before


def test_what_leaves_the_inventory_leaves_no_ghost_and_no_restart_is_needed(host, query):
    jobs = {"node": {"hosts": ["platform1", "gone1"], "port": 9100}}
    hosts = {"platform1": "127.0.0.1", "gone1": "127.0.0.9"}
    pid = host.check_output("systemctl show -P MainPID prometheus")
    assert playbook(CONVERGE, "-e", json.dumps({"prometheus_jobs": jobs, "prometheus_hosts": hosts})).returncode == 0
    until("the new one is asked in vain", lambda: query("max by (instance) (up) == 0") == {"gone1": 0}, 20)
    assert playbook(CONVERGE).returncode == 0
    until("nothing is left of it", lambda: query("sum by (instance) (up)") == {"platform1": 2}, 20)
    assert host.check_output("systemctl show -P MainPID prometheus") == pid


@pytest.mark.parametrize("page", PAGES)
def test_consoles_show_figures(host, page):
    html = host.check_output(f"curl -sf {URL}/consoles/{page}")
    assert html.count("new PromConsole.Graph") >= 4
    assert 'class="here"' in html
    if page == "hosts.html":
        assert "2 of 2" in html


def test_the_pages_find_what_they_are_made_of(host):
    html = host.check_output(f"curl -sf {URL}/consoles/index.html")
    wanted = [
        part.split('"')[0]
        for part in html.replace('href="', 'src="').split('src="')[1:]
        if part.startswith("/prometheus/classic/static")
    ]
    assert len(wanted) > 6
    for path in wanted:
        host.check_output(f"curl -sf -o /dev/null http://127.0.0.1:9090{path}")


def test_a_full_disk_stops_nothing_but_the_recording(host, query):
    """With its data on a file system that is full it answers, and takes up again when there is room."""
    data = "/var/lib/prometheus/metrics2"
    host.check_output(f"systemctl stop prometheus && mount -t tmpfs -o size=4m,uid=$(id -u prometheus) tmpfs {data}")
    try:
        host.check_output("systemctl start prometheus")
        until("it records", lambda: query("up{job='node'}"), 30)
        host.run(f"dd if=/dev/zero of={data}/ballast bs=64k 2>/dev/null")
        failed = "journalctl -u prometheus --since=-1min -o cat | grep -c 'no space left on device'"
        until("it cannot record", lambda: int(host.run(failed).stdout) > 0, 60)
        assert host.run(f"curl -sf {URL}/-/ready").rc == 0
        assert host.run("systemctl is-active prometheus").stdout.strip() == "active"
        host.check_output(f"rm {data}/ballast")
        until("it records again", lambda: query("time() - timestamp(up{job='node'}) < 4"), 60)
    finally:
        host.check_output(f"systemctl stop prometheus && umount {data} && systemctl start prometheus")
    until("it is back", lambda: host.run(f"curl -sf {URL}/-/ready").rc == 0)


def test_it_comes_back_when_it_is_killed_with_what_it_had(host, query):
    host.check_output("systemctl kill --signal=KILL prometheus")
    until("it is back", lambda: host.run(f"curl -sf {URL}/-/ready").rc == 0, 30)
    assert query("count_over_time(up{job='node'}[10m])")["platform1"] > 5


def test_it_listens_on_loopback_and_is_nobody_special(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes").splitlines()
    assert {line.split()[3] for line in listening if '"prometheus"' in line} == {"127.0.0.1:9090"}
    pid = host.check_output("systemctl show -P MainPID prometheus")
    assert host.check_output(f"grep CapEff /proc/{pid}/status").split()[1] == "0" * 16


def test_switched_off_it_keeps_what_it_has(host):
    result = playbook(CONVERGE, "-e", '{"prometheus_enabled": false}')
    assert result.returncode == 0, result.stdout[-3000:]
    assert host.run("systemctl is-enabled prometheus").stdout.strip() == "disabled"
    assert ":9090 " not in host.check_output("ss -Hltn")
    assert host.file("/var/lib/prometheus/metrics2/wal").exists
