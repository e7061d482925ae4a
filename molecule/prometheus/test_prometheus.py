"""Prometheus on one host. Unit tests of the alerts run in promtool; molecule/default breaks things and waits for the alerts."""

import json
import re
import shutil
from urllib.parse import quote

import pytest
from helpers import ROOT, changed, playbook, until

URL = "http://127.0.0.1:9090/prometheus"
CONVERGE = "molecule/prometheus/converge.yml"
PAGES = sorted(path.name for path in (ROOT / "roles/prometheus/files/consoles").glob("*.html"))

# What a user adds to an inventory: file by file.
ADDED = {
    "recording_rules/targets.yml": "groups: [{name: Targets, rules: [{record: targets:up, expr: sum(up)}]}]",
    "alerts/TargetsUp/rule.yml": """
groups:
  - name: Targets
    rules:
      - alert: TargetsUp
        expr: targets:up > 1
        labels: {severity: warning}
        annotations: {summary: '{{ $value }} targets are up'}
""",
    "alerts/TargetsUp/test.yml": """
tests:
  - interval: 30s
    input_series: [{series: 'up{instance="a"}', values: 2x10 0x10}]
    alert_rule_test:
      - eval_time: 2m
        alertname: TargetsUp
        exp_alerts: [{exp_labels: {severity: warning}, exp_annotations: {summary: 2 targets are up}}]
      - {eval_time: 8m, alertname: TargetsUp, exp_alerts: []}
""",
    "alerts/TargetsUp/runbook.md": "# TargetsUp\n\nCount {{ the }} targets & smile.\n",
    "group_vars/all/extra.yml": """
prometheus_scrape_jobs_extra:
  alertmanager: {hosts: [platform1], address: 127.0.0.1, port: 9093, scheme: http, path: /alertmanager/metrics}
""",
}


@pytest.fixture
def inventory(tmp_path):
    """A copy of the scenario's inventory to which a user has added files."""
    directory = tmp_path / "inventory"
    shutil.copytree(ROOT / "molecule/shared/one_host", directory)
    shutil.copytree(ROOT / "molecule/shared/one_host_group_vars", directory / "group_vars")
    for name, text in ADDED.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def query(host):
    """Return a function: the current values of an expression as {instance: value}; empty while Prometheus starts."""

    def query(expression):
        answer = host.run(f"curl -sf '{URL}/api/v1/query?query={quote(expression)}'").stdout
        found = json.loads(answer)["data"]["result"] if answer else []
        return {series["metric"].get("instance", ""): float(series["value"][1]) for series in found}

    return query


def test_targets_are_up_over_mutual_tls(query):
    until("both targets are up", lambda: query("sum by (instance) (up)") == {"platform1": 2}, 60)


def test_unit_tests_of_all_alerts_pass():
    result = playbook("playbooks/test_alerts.yml")
    assert result.returncode == 0, result.stdout[-3000:]
    assert not changed(result.stdout)


def test_installed_alerts_have_the_default_delay_and_thresholds(host):
    """The unit tests render rules of their own, with the defaults; these are the rules that Prometheus evaluates."""
    groups = json.loads(host.check_output(f"curl -sf '{URL}/api/v1/rules?type=alert'"))["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert [name for name in rules if not rules[name]["annotations"]["runbook_url"].startswith("https://")] == []
    assert rules["ApiDown"]["duration"] == 120
    assert rules["QueueOld"]["query"].endswith("> 300")


def test_files_in_the_inventory_add_an_alert_a_recording_rule_and_a_scrape_job(host, query, inventory):
    result = playbook(CONVERGE, inventory=inventory)
    assert result.returncode == 0, result.stdout[-3000:]
    until("the added target is up", lambda: query('up{job="alertmanager"}') == {"platform1": 1}, 60)
    until("the added alert fires", lambda: query('ALERTS{alertname="TargetsUp",alertstate="firing"}'), 60)
    (rule,) = [
        rule
        for group in json.loads(host.check_output(f"curl -sf '{URL}/api/v1/rules?type=alert'"))["data"]["groups"]
        for rule in group["rules"]
        if rule["name"] == "TargetsUp"
    ]
    page, anchor = rule["annotations"]["runbook_url"].split("/prometheus/")[1].split("#")
    runbooks = host.check_output(f"curl -sf {URL}/{page}")
    assert f'id="{anchor}"' in runbooks
    assert "Count {{ the }} targets &amp; smile." in runbooks
    assert not changed(playbook(CONVERGE, inventory=inventory).stdout)
    assert playbook(CONVERGE).returncode == 0
    until("the alert is gone", lambda: not query('ALERTS{alertname="TargetsUp"}') and not query("targets:up"), 60)


def test_an_alert_that_fails_its_unit_test_is_not_installed(host, inventory):
    rule = inventory / "alerts/TargetsUp/rule.yml"
    rule.write_text(rule.read_text().replace("> 1", "> 2"))
    before = host.file("/etc/prometheus/rules/alerts.yml").sha256sum
    for path in (CONVERGE, "playbooks/test_alerts.yml"):
        result = playbook(path, inventory=inventory)
        assert result.returncode != 0
        assert "alertname: TargetsUp" in result.stdout
    assert host.file("/etc/prometheus/rules/alerts.yml").sha256sum == before
    assert host.run("ls -d /tmp/prometheus-rules-*").rc != 0


def test_an_alert_reaches_alertmanager(host):
    """CertificateExpiring fires without a delay, for a certificate that expires tomorrow."""
    file, metric = "/var/lib/prometheus/node-exporter/test.prom", "image_editor_certificate_expiry_timestamp_seconds"
    host.check_output(f"printf '# TYPE {metric} gauge\\n{metric}{{path=\"/x\"}} %s\\n' $(date -d tomorrow +%s) >{file}")
    told = "amtool --alertmanager.url=http://127.0.0.1:9093/alertmanager alert query path=/x severity=critical -o json"
    (alert,) = until("Alertmanager has the alert", lambda: json.loads(host.check_output(told)), 30)
    assert alert["labels"].items() >= {"alertname": "CertificateExpiring", "instance": "platform1", "job": "node"}.items()
    assert alert["labels"]["environment"]
    assert alert["annotations"]["runbook_url"].endswith("/prometheus/consoles/runbooks.html#certificateexpiring")
    host.check_output(f"rm {file}")
    until("the alert ends", lambda: not json.loads(host.check_output(told)), 30)


def test_the_watchdog_reaches_alertmanager_and_is_in_no_list_of_alerts(host):
    def names(selected: str) -> set[str]:
        found = json.loads(host.check_output("curl -sf %s", f"http://127.0.0.1:9093/alertmanager/api/v2/alerts?{selected}"))
        return {alert["labels"]["alertname"] for alert in found}

    until("Alertmanager has the alert", lambda: "Watchdog" in names("active=true"), 60)
    (selected,) = re.findall(r'"(active=true&\S+)"', (ROOT / "roles/operators/files/page.js").read_text())
    assert "Watchdog" not in names(selected)
    assert "Watchdog" not in host.check_output(f"curl -sf {URL}/consoles/index.html")


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ('{"prometheus_alert_delay": "soon"}', "not a valid duration"),
        ('{"prometheus_thresholds": {"disk_free": 1}}', "disk_free"),
        ('{"prometheus_scrape_interval": "60s"}', "Set it to 30s or less"),
        ('{"prometheus_runbooks_url": "docs/alerts.md"}', "is not one: docs/alerts.md#"),
        (
            '{"prometheus_scrape_jobs_extra": {"mine": {"hosts": ["web9"], "port": 1}}}',
            "Scrape job mine: host web9 has no address",
        ),
    ],
)
def test_invalid_settings_are_not_installed(host, variable, complaint):
    before = host.check_output("cat /etc/prometheus/rules/alerts.yml /etc/prometheus/prometheus.yml")
    result = playbook(CONVERGE, "-e", variable)
    assert result.returncode != 0
    assert complaint in " ".join(result.stdout.split())
    assert host.check_output("cat /etc/prometheus/rules/alerts.yml /etc/prometheus/prometheus.yml") == before


def test_a_host_that_leaves_the_inventory_leaves_no_target_and_no_restart_is_needed(host, query):
    jobs = {"node": {"hosts": ["platform1", "gone1"], "port": 9100}}
    hosts = {"platform1": "127.0.0.1", "gone1": "127.0.0.9"}
    pid = host.check_output("systemctl show -P MainPID prometheus")
    assert playbook(CONVERGE, "-e", json.dumps({"prometheus_jobs": jobs, "prometheus_hosts": hosts})).returncode == 0
    until("the new target is down", lambda: query("max by (instance) (up) == 0") == {"gone1": 0}, 60)
    assert playbook(CONVERGE).returncode == 0
    until("the new target is gone", lambda: query('up{job="node"}') == {"platform1": 1}, 60)
    assert host.check_output("systemctl show -P MainPID prometheus") == pid


@pytest.mark.parametrize("page", PAGES)
def test_consoles_show_figures(host, page):
    html = host.check_output(f"curl -sf {URL}/consoles/{page}")
    assert html.count("new PromConsole.Graph") >= 4
    assert 'class="here"' in html
    if page == "hosts.html":
        # A job that an earlier test removed counts for one more minute, because Prometheus marks no samples of it as stale.
        shown = re.compile(r"\b([2-9]) of \1\b")
        until("all targets are up", lambda: shown.search(host.check_output(f"curl -sf {URL}/consoles/{page}")), 60)


def test_scripts_and_styles_of_the_consoles_are_served(host):
    html = host.check_output(f"curl -sf {URL}/consoles/index.html")
    wanted = [
        part.split('"')[0]
        for part in html.replace('href="', 'src="').split('src="')[1:]
        if part.startswith("/prometheus/classic/static")
    ]
    assert len(wanted) > 6
    for path in wanted:
        host.check_output(f"curl -sf -o /dev/null http://127.0.0.1:9090{path}")


def test_prometheus_answers_with_a_full_disk_and_records_again_afterwards(host, query):
    data = "/var/lib/prometheus/metrics2"
    host.check_output(f"systemctl stop prometheus && mount -t tmpfs -o size=4m,uid=$(id -u prometheus) tmpfs {data}")
    try:
        host.check_output("systemctl start prometheus")
        until("samples are recorded", lambda: query("up{job='node'}"), 30)
        host.run(f"dd if=/dev/zero of={data}/ballast bs=64k 2>/dev/null")
        failed = "journalctl -u prometheus --since=-1min -o cat | grep -c 'no space left on device'"
        until("recording fails", lambda: int(host.run(failed).stdout) > 0, 60)
        assert host.run(f"curl -sf {URL}/-/ready").rc == 0
        assert host.run("systemctl is-active prometheus").stdout.strip() == "active"
        host.check_output(f"rm {data}/ballast")
        until("samples are recorded again", lambda: query("time() - timestamp(up{job='node'}) < 4"), 60)
    finally:
        host.check_output(f"systemctl stop prometheus && umount {data} && systemctl start prometheus")
    until("Prometheus is ready", lambda: host.run(f"curl -sf {URL}/-/ready").rc == 0)


def test_a_killed_prometheus_restarts_with_its_samples(host, query):
    host.check_output("systemctl kill --signal=KILL prometheus")
    until("Prometheus is ready", lambda: host.run(f"curl -sf {URL}/-/ready").rc == 0, 30)
    assert query("count_over_time(up{job='node'}[10m])")["platform1"] > 5


def test_a_series_that_ended_while_prometheus_was_stopped_is_gone_within_a_minute(host, query):
    file = "/var/lib/prometheus/node-exporter/ended.prom"
    host.check_output(f"echo 'ended 1' > {file}")
    until("the series is there", lambda: query("ended") == {"platform1": 1}, 30)
    host.check_output(f"systemctl stop prometheus && rm {file} && systemctl start prometheus")
    until("Prometheus scrapes again", lambda: query("time() - timestamp(up{job='node'}) < 4"), 30)
    until("the series is gone", lambda: not query("ended"), 60)


def test_prometheus_listens_on_loopback_and_has_no_capabilities(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes").splitlines()
    assert {line.split()[3] for line in listening if '"prometheus"' in line} == {"127.0.0.1:9090"}
    pid = host.check_output("systemctl show -P MainPID prometheus")
    assert host.check_output(f"grep CapEff /proc/{pid}/status").split()[1] == "0" * 16


def test_disabling_prometheus_keeps_its_samples(host):
    result = playbook(CONVERGE, "-e", '{"prometheus_enabled": false}')
    assert result.returncode == 0, result.stdout[-3000:]
    assert host.run("systemctl is-enabled prometheus").stdout.strip() == "disabled"
    assert ":9090 " not in host.check_output("ss -Hltn")
    assert host.file("/var/lib/prometheus/metrics2/wal").exists
