"""Alerts that are raised by hand arrive where they should; molecule/default raises them by breaking things."""

import json

import pytest
from helpers import playbook, secret, until

API = "http://127.0.0.1:9093/alertmanager"
AMTOOL = f"amtool --alertmanager.url={API} alert"


@pytest.fixture
def told(host):
    """Return a function: the messages of a kind about an alert."""

    def told(kind, alert):
        messages = map(json.loads, host.run(f"cat /var/lib/receivers/{kind}").stdout.splitlines())
        return [message for message in messages if alert in json.dumps(message)]

    return told


def test_a_warning_goes_to_the_webhook_only_and_a_critical_one_to_the_mail_too(host, told):
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


def test_the_end_of_an_alert_is_told(host, told):
    host.check_output(f"{AMTOOL} add Brief severity=warning --end=$(date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ)")
    until("it is told as resolved", lambda: [m for m in told("webhook", "Brief") if m["status"] == "resolved"], 20)


def test_what_a_dead_host_explains_is_not_told(host, told):
    host.check_output(f"{AMTOOL} add HostDown severity=critical instance=dead")
    host.check_output(f"{AMTOOL} add TargetDown severity=warning instance=dead")
    host.check_output(f"{AMTOOL} add TargetDown severity=warning instance=other")
    told_targets = until("the other one is told", lambda: told("webhook", "TargetDown"), 15)
    assert "dead" not in json.dumps(told_targets)


def test_a_webhook_that_is_away_is_told_later(host, told):
    host.check_output("systemctl stop receivers")
    host.check_output(f"{AMTOOL} add Patient severity=warning")
    failed = f"curl -sf {API}/metrics | grep '^alertmanager_notification_requests_failed_total{{.*webhook.* [1-9]'"
    until("it was tried in vain", lambda: host.run(failed).rc == 0, 20)
    assert not told("webhook", "Patient")
    host.check_output("systemd-run --unit=receivers --property=StateDirectory=receivers /usr/local/bin/receivers")
    until("it is told", lambda: told("webhook", "Patient"), 60)


def test_it_comes_back_when_it_is_killed_and_silences_outlive_a_restart(host):
    ready = f"curl -sf {API}/-/ready"
    host.check_output("systemctl kill -s KILL prometheus-alertmanager")
    until("it is back", lambda: host.run(ready).rc == 0, 20)
    host.check_output(f"amtool --alertmanager.url={API} silence add alertname=Quiet --comment=test --author=test")
    host.check_output("systemctl restart prometheus-alertmanager")
    until("it is back", lambda: host.run(ready).rc == 0, 20)
    host.check_output(f"amtool --alertmanager.url={API} silence query alertname=Quiet -q | grep -q .")


def test_it_listens_on_loopback_and_its_secrets_are_its_own(host):
    listening = host.check_output("ss --no-header --listening --tcp --udp --numeric --processes").splitlines()
    assert {line.split()[4] for line in listening if "prometheus-aler" in line} == {"127.0.0.1:9093"}
    for name in ("webhook-url", "smtp-password"):
        file = host.file(f"/etc/prometheus/alertmanager-{name}")
        assert (file.user, file.group, file.mode) == ("root", "prometheus", 0o640)
    seen = host.check_output(
        "cat /etc/prometheus/alertmanager.yml /etc/systemd/system/prometheus-alertmanager.service; ps -eo args"
    )
    assert secret("operator_password") not in seen


def test_a_setting_that_it_would_not_take_does_not_land(host):
    before = host.file("/etc/prometheus/alertmanager.yml").sha256sum
    result = playbook("molecule/alertmanager/converge.yml", "-e", "alertmanager_group_wait=soon")
    assert result.returncode != 0
    assert "not a valid duration" in result.stdout
    assert host.file("/etc/prometheus/alertmanager.yml").sha256sum == before


def test_switched_off_it_keeps_what_it_has(host):
    result = playbook("molecule/alertmanager/converge.yml", "-e", '{"alertmanager_enabled": false}')
    assert result.returncode == 0, result.stdout[-3000:]
    assert host.run(f"curl -sf {API}/-/ready").rc != 0
    assert host.run("systemctl is-enabled prometheus-alertmanager").stdout.strip() == "disabled"
    assert host.file("/var/lib/prometheus/alertmanager/silences").size > 0
