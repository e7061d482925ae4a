"""Alerts that are added by hand reach their receivers. molecule/default raises alerts by breaking things."""

import json
import time

import pytest
from helpers import playbook, secret, until

API = "http://127.0.0.1:9093/alertmanager"
AMTOOL = f"amtool --alertmanager.url={API} alert"


@pytest.fixture
def told(host):
    """Return a function: the messages of a receiver about an alert."""

    def told(kind, alert):
        messages = map(json.loads, host.run(f"cat /var/lib/receivers/{kind}").stdout.splitlines())
        return [message for message in messages if alert in json.dumps(message)]

    return told


def test_warnings_go_to_the_webhook_and_critical_alerts_also_to_mail(host, told):
    host.check_output(f"{AMTOOL} add Small severity=warning instance=a --annotation=summary=small")
    host.check_output(f"{AMTOOL} add Large severity=critical instance=a --annotation=summary=large")
    (mail,) = until("the mail", lambda: told("mail", "Large"), 15)
    assert mail["to"] == ["duty@example.com"]
    (small,) = until("the webhook", lambda: told("webhook", "Small"), 15)
    assert small["path"] == f"/{secret('operator_password')}"
    assert small["alerts"][0]["status"] == "firing"
    assert small["externalURL"] == "https://localhost/alertmanager"
    assert told("webhook", "Large")
    assert not told("mail", "Small")


def test_a_resolved_alert_is_sent(host, told):
    host.check_output(f"{AMTOOL} add Brief severity=warning --end=$(date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ)")
    until("the alert is sent as resolved", lambda: [m for m in told("webhook", "Brief") if m["status"] == "resolved"], 20)


def test_the_watchdog_is_sent_to_the_heartbeat_alone_and_again_until_it_ends(host, told):
    """Prometheus sends an alert again and again. Without Prometheus, the alert ends."""
    host.check_output(f"{AMTOOL} add Watchdog severity=none --end=$(date -u -d '+15 seconds' +%Y-%m-%dT%H:%M:%SZ)")
    until("three heartbeats", lambda: len(told("webhook", "Watchdog")) >= 3, 15)
    until("the alert ends", lambda: not json.loads(host.check_output(f"{AMTOOL} query alertname=Watchdog -o json")), 30)
    heartbeats = told("webhook", "Watchdog")
    time.sleep(6)  # three intervals
    assert told("webhook", "Watchdog") == heartbeats
    assert {(message["path"], message["status"]) for message in heartbeats} == {(f"/{secret('viewer_password')}", "firing")}
    assert not told("mail", "Watchdog")


def test_host_down_suppresses_other_alerts_of_the_host(host, told):
    host.check_output(f"{AMTOOL} add HostDown severity=critical instance=dead")
    host.check_output(f"{AMTOOL} add TargetDown severity=warning instance=dead")
    host.check_output(f"{AMTOOL} add TargetDown severity=warning instance=other")
    told_targets = until("the alert of the other host is sent", lambda: told("webhook", "TargetDown"), 15)
    assert "dead" not in json.dumps(told_targets)


def test_a_webhook_that_was_down_gets_the_alert_later(host, told):
    host.check_output("systemctl stop receivers")
    host.check_output(f"{AMTOOL} add Patient severity=warning")
    failed = f"curl -sf {API}/metrics | grep '^alertmanager_notification_requests_failed_total{{.*webhook.* [1-9]'"
    until("a notification has failed", lambda: host.run(failed).rc == 0, 20)
    assert not told("webhook", "Patient")
    host.check_output("systemd-run --unit=receivers --property=StateDirectory=receivers /usr/local/bin/receivers")
    until("the alert is sent", lambda: told("webhook", "Patient"), 60)


def test_a_killed_alertmanager_restarts_and_silences_survive(host):
    ready = f"curl -sf {API}/-/ready"
    host.check_output("systemctl kill -s KILL prometheus-alertmanager")
    until("Alertmanager is ready", lambda: host.run(ready).rc == 0, 20)
    host.check_output(f"amtool --alertmanager.url={API} silence add alertname=Quiet --comment=test --author=test")
    host.check_output("systemctl restart prometheus-alertmanager")
    until("Alertmanager is ready", lambda: host.run(ready).rc == 0, 20)
    host.check_output(f"amtool --alertmanager.url={API} silence query alertname=Quiet -q | grep -q .")


def test_alertmanager_listens_on_loopback_and_secrets_are_private(host):
    listening = host.check_output("ss --no-header --listening --tcp --udp --numeric --processes").splitlines()
    assert {line.split()[4] for line in listening if "prometheus-aler" in line} == {"127.0.0.1:9093"}
    for name in ("webhook-url", "heartbeat-url", "smtp-password"):
        file = host.file(f"/etc/prometheus/alertmanager-{name}")
        assert (file.user, file.group, file.mode) == ("root", "prometheus", 0o640)
    seen = host.check_output(
        "cat /etc/prometheus/alertmanager.yml /etc/systemd/system/prometheus-alertmanager.service; ps -eo args;"
        " journalctl -u prometheus-alertmanager"
    )
    assert "alertmanager-heartbeat-url" in seen
    assert "connection refused" in seen, "no failed notification is in the journal, where it could show its URL"
    assert secret("operator_password") not in seen
    assert secret("viewer_password") not in seen


def test_an_invalid_setting_is_not_installed(host):
    before = host.file("/etc/prometheus/alertmanager.yml").sha256sum
    result = playbook("molecule/alertmanager/converge.yml", "-e", "alertmanager_group_wait=soon")
    assert result.returncode != 0
    assert "not a valid duration" in result.stdout
    assert host.file("/etc/prometheus/alertmanager.yml").sha256sum == before


def test_disabling_alertmanager_keeps_silences(host):
    result = playbook("molecule/alertmanager/converge.yml", "-e", '{"alertmanager_enabled": false}')
    assert result.returncode == 0, result.stdout[-3000:]
    assert host.run(f"curl -sf {API}/-/ready").rc != 0
    assert host.run("systemctl is-enabled prometheus-alertmanager").stdout.strip() == "disabled"
    assert host.file("/var/lib/prometheus/alertmanager/silences").size > 0
