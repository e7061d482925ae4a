"""Alerts that are added by hand to an Alertmanager without a mesh reach their receivers. test_mesh.py has the mesh.

molecule/default raises alerts by breaking things.
"""

import json
import time

import pytest
from helpers import playbook, secret, until

API = "http://127.0.0.1:9093/alertmanager"
AMTOOL = f"amtool --alertmanager.url={API} alert"


@pytest.fixture(scope="module")
def alone(on):
    return on("edge1")


@pytest.fixture
def told(alone):
    """Return a function: the messages of a receiver about an alert, from an Alertmanager on the same host."""

    def told(kind, alert):
        messages = map(json.loads, alone.run(f"cat /var/lib/receivers/{kind}").stdout.splitlines())
        return [message for message in messages if message["client"] == "127.0.0.1" and alert in json.dumps(message)]

    return told


def test_warnings_go_to_the_webhook_and_critical_alerts_also_to_mail(alone, told):
    alone.check_output(f"{AMTOOL} add Small severity=warning instance=a --annotation=summary=small")
    alone.check_output(f"{AMTOOL} add Large severity=critical instance=a --annotation=summary=large")
    (mail,) = until("the mail", lambda: told("mail", "Large"), 15)
    assert mail["to"] == ["duty@example.com"]
    (small,) = until("the webhook", lambda: told("webhook", "Small"), 15)
    assert small["path"] == f"/{secret('operator_password')}"
    assert small["alerts"][0]["status"] == "firing"
    assert small["externalURL"] == "https://localhost/alertmanager"
    assert told("webhook", "Large")
    assert not told("mail", "Small")


def test_a_resolved_alert_is_sent(alone, told):
    alone.check_output(f"{AMTOOL} add Brief severity=warning --end=$(date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ)")
    until("the alert is sent as resolved", lambda: [m for m in told("webhook", "Brief") if m["status"] == "resolved"], 20)


def test_the_watchdog_is_sent_to_the_heartbeat_alone_and_again_until_it_ends(alone, told):
    """Prometheus sends an alert again and again. Without Prometheus, the alert ends."""
    alone.check_output(f"{AMTOOL} add Watchdog severity=none --end=$(date -u -d '+15 seconds' +%Y-%m-%dT%H:%M:%SZ)")
    until("three heartbeats", lambda: len(told("webhook", "Watchdog")) >= 3, 15)
    until("the alert ends", lambda: not json.loads(alone.check_output(f"{AMTOOL} query alertname=Watchdog -o json")), 30)
    heartbeats = told("webhook", "Watchdog")
    time.sleep(6)  # three intervals
    assert told("webhook", "Watchdog") == heartbeats
    assert {(message["path"], message["status"]) for message in heartbeats} == {(f"/{secret('viewer_password')}", "firing")}
    assert not told("mail", "Watchdog")


def test_host_down_suppresses_other_alerts_of_the_host(alone, told):
    alone.check_output(f"{AMTOOL} add HostDown severity=critical instance=dead")
    alone.check_output(f"{AMTOOL} add TargetDown severity=warning instance=dead")
    alone.check_output(f"{AMTOOL} add TargetDown severity=warning instance=other")
    told_targets = until("the alert of the other host is sent", lambda: told("webhook", "TargetDown"), 15)
    assert "dead" not in json.dumps(told_targets)


def test_a_webhook_that_was_down_gets_the_alert_later(alone, told):
    alone.check_output("systemctl stop receivers")
    alone.check_output(f"{AMTOOL} add Patient severity=warning")
    failed = f"curl -sf {API}/metrics | grep '^alertmanager_notification_requests_failed_total{{.*webhook.* [1-9]'"
    until("a notification has failed", lambda: alone.run(failed).rc == 0, 20)
    assert not told("webhook", "Patient")
    alone.check_output("systemd-run --unit=receivers --property=StateDirectory=receivers /usr/local/bin/receivers")
    until("the alert is sent", lambda: told("webhook", "Patient"), 60)


def test_a_killed_alertmanager_restarts_and_silences_survive(alone):
    ready = f"curl -sf {API}/-/ready"
    alone.check_output("systemctl kill -s KILL prometheus-alertmanager")
    until("Alertmanager is ready", lambda: alone.run(ready).rc == 0, 20)
    alone.check_output(f"amtool --alertmanager.url={API} silence add alertname=Quiet --comment=test --author=test")
    alone.check_output("systemctl restart prometheus-alertmanager")
    until("Alertmanager is ready", lambda: alone.run(ready).rc == 0, 20)
    alone.check_output(f"amtool --alertmanager.url={API} silence query alertname=Quiet -q | grep -q .")


def test_alertmanager_listens_on_loopback_and_secrets_are_private(alone):
    listening = alone.check_output("ss --no-header --listening --tcp --udp --numeric --processes").splitlines()
    assert {line.split()[4] for line in listening if "prometheus-aler" in line} == {"127.0.0.1:9093"}
    for name in ("webhook-url", "heartbeat-url", "smtp-password"):
        file = alone.file(f"/etc/prometheus/alertmanager-{name}")
        assert (file.user, file.group, file.mode) == ("root", "prometheus", 0o640)
    seen = alone.check_output(
        "cat /etc/prometheus/alertmanager.yml /etc/systemd/system/prometheus-alertmanager.service; ps -eo args;"
        " journalctl -u prometheus-alertmanager"
    )
    assert "alertmanager-heartbeat-url" in seen
    assert "connection refused" in seen, "no failed notification is in the journal, where it could show its URL"
    assert secret("operator_password") not in seen
    assert secret("viewer_password") not in seen


def test_an_invalid_setting_is_not_installed(alone):
    before = alone.file("/etc/prometheus/alertmanager.yml").sha256sum
    result = playbook("molecule/alertmanager/alone.yml", "-e", "alertmanager_group_wait=soon")
    assert result.returncode != 0
    assert "not a valid duration" in result.stdout
    assert alone.file("/etc/prometheus/alertmanager.yml").sha256sum == before


def test_disabling_alertmanager_keeps_silences(alone):
    result = playbook("molecule/alertmanager/alone.yml", "-e", '{"alertmanager_enabled": false}')
    assert result.returncode == 0, result.stdout[-3000:]
    assert alone.run(f"curl -sf {API}/-/ready").rc != 0
    assert alone.run("systemctl is-enabled prometheus-alertmanager").stdout.strip() == "disabled"
    assert alone.file("/var/lib/prometheus/alertmanager/silences").size > 0
