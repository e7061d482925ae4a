"""Two monitoring hosts: each Prometheus sends every alert to both Alertmanagers, and one notification is sent. A host may die."""

from __future__ import annotations

import json
import subprocess
import time
from urllib.parse import quote

import pytest
from helpers import CURL, address, container, secret, until

MONITORS = ("monitor1", "monitor2")
ALERTMANAGER = "http://127.0.0.1:9093/alertmanager"
PEER_TIMEOUT = 15  # seconds for which an Alertmanager waits for the one before it; the default of --cluster.peer-timeout
METRICS = "/var/lib/prometheus/node-exporter/test.prom"  # of edge1
ENDED = {35, 52, 55, 56}  # curl's exit codes if the server ends the connection


def expire(on, path: str) -> None:
    """Let edge1 report a certificate that expires tomorrow. The alert fires without a delay."""
    metric = "image_editor_certificate_expiry_timestamp_seconds"
    on("edge1").check_output(
        f"printf '# TYPE {metric} gauge\\n{metric}{{path=\"{path}\"}} %s\\n' $(date -d tomorrow +%s) >{METRICS}"
    )


def fires(host, path: str) -> bool:
    """Whether the host's own Prometheus has the alert."""
    expression = quote(f'ALERTS{{alertstate="firing",path="{path}",severity="critical"}}')
    answer = host.run(f"curl -sf 'http://127.0.0.1:9090/prometheus/api/v1/query?query={expression}'").stdout
    return bool(answer and json.loads(answer)["data"]["result"])


def cluster(host) -> dict:
    """The mesh as the host's Alertmanager sees it: name, status and peers."""
    answer = host.run(f"curl -sf {ALERTMANAGER}/api/v2/status").stdout
    return json.loads(answer)["cluster"] if answer else {"peers": []}


def complete(on) -> bool:
    return all(len(cluster(on(name)).get("peers", [])) == len(MONITORS) for name in MONITORS)


@pytest.fixture(scope="module")
def told(on):
    """A function: which monitoring hosts have sent a notification about an alert, one entry for each notification.

    ``secret_of``: the secret that is the path of the receiver.
    """
    until("the mesh is complete", lambda: complete(on), 90)
    senders = {address(on(name)): name for name in MONITORS}

    def told(status: str, secret_of: str = "operator_password", **labels: str) -> list[str]:
        messages = map(json.loads, on("edge1").run("cat /var/lib/receivers/webhook").stdout.splitlines())
        return [
            senders[message["client"]]
            for message in messages
            if message["client"] in senders and message["path"] == f"/{secret(secret_of)}"
            if any(alert["status"] == status and alert["labels"].items() >= labels.items() for alert in message["alerts"])
        ]

    return told


@pytest.fixture(scope="module")
def page(on):
    """A function: what an operator gets from the edge under a path."""
    on("edge1").check_output("install -m 600 /dev/null /root/operator")
    on("edge1").check_output("echo %s > /root/operator", f'user = "operator:{secret("operator_password")}"')
    ask = "curl -sSf --max-time 20 --cacert /etc/ssl/certs/image-editor-ca.crt --config /root/operator"
    return lambda path: on("edge1").check_output(f"{ask} 'https://localhost{path}'")


def test_both_prometheus_servers_fire_and_one_notification_is_sent(on, told):
    alert = {"path": "/both", "severity": "critical"}
    expire(on, "/both")
    until("both Prometheus servers fire", lambda: all(fires(on(name), "/both") for name in MONITORS), 60)
    until("the notification is sent", lambda: told("firing", **alert), 60)
    time.sleep(PEER_TIMEOUT + 10)  # the second Alertmanager has waited, and several group intervals are over
    assert len(told("firing", **alert)) == 1
    on("edge1").check_output(f"rm {METRICS}")
    until("the end is sent", lambda: told("resolved", **alert), 60)


def test_each_prometheus_sends_its_alerts_to_every_alertmanager(on, told):
    """The second Prometheus is stopped, so its Alertmanager has the alert from the first one."""
    on("monitor2").check_output("systemctl stop prometheus")
    try:
        expire(on, "/first")
        query = f"amtool --alertmanager.url={ALERTMANAGER} alert query path=/first severity=critical -o json"
        until("the Alertmanager has the alert", lambda: json.loads(on("monitor2").check_output(query)), 60)
    finally:
        on("monitor2").check_output("systemctl start prometheus")
        on("edge1").check_output(f"rm -f {METRICS}")


def test_a_silence_on_one_alertmanager_holds_on_all(on, told):
    amtool = f"amtool --alertmanager.url={ALERTMANAGER} silence"
    on("monitor1").check_output(f"{amtool} add alertname=Shared --comment=test --author=test")
    until("the other has the silence", lambda: on("monitor2").run(f"{amtool} query alertname=Shared -q").stdout.strip(), 30)


def test_each_alertmanager_sends_the_heartbeat(told):
    wanted = set(MONITORS)
    until("both send the heartbeat", lambda: set(told("firing", "viewer_password", alertname="Watchdog")) == wanted, 60)


def test_only_monitoring_hosts_enter_the_mesh(on, told):
    """The mesh is complete, so their own certificates are accepted. The edge has another name.

    The edge reaches the port, and sees a certificate of the CA. So nothing but the client's certificate is refused.
    """
    seen = on("edge1").run("openssl s_client -connect monitor1:9094 -CAfile /etc/ssl/certs/image-editor-ca.crt </dev/null 2>&1")
    assert "Verify return code: 0 (ok)" in seen.stdout
    for client in (CURL, "curl -sS --max-time 60 --cacert /etc/ssl/certs/image-editor-ca.crt"):
        assert on("edge1").run(f"{client} https://monitor1:9094/").rc in ENDED, client


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/prometheus/-/ready", "200"),
        ("/alertmanager/-/ready", "200"),
        ("/prometheus/-/reload", "404"),
        ("/alertmanager/-/reload", "404"),
        ("/grafana/", "403"),
    ],
)
def test_a_monitoring_host_uses_prometheus_and_alertmanager_of_the_other_and_nothing_else(on, path, status):
    ask = f"{CURL} -o /dev/null -w '%{{http_code}}' https://monitor1:8444{path}"
    assert on("monitor2").check_output(ask) == status


def test_a_lost_monitoring_host_is_reported_by_the_other_which_does_everything(on, told, page):
    """Notifications, heartbeat and operators' pages go on. Afterwards the host is a member of the mesh again."""
    names = {name: cluster(on(name))["name"] for name in MONITORS}

    def serves() -> str:
        return json.loads(page("/alertmanager/api/v2/status"))["cluster"]["name"]

    assert serves() == names["monitor1"], "the edge does not use the first host, so this test would prove nothing"
    subprocess.run(["docker", "kill", container("monitor1")], check=True, capture_output=True)
    try:
        heartbeats = len(told("firing", "viewer_password", alertname="Watchdog"))
        assert serves() == names["monitor2"]
        for path in ("/operators/", "/prometheus/consoles/index.html", "/prometheus/api/v1/query?query=up"):
            assert page(path)
        expire(on, "/lost")
        sent = until("the notification is sent", lambda: told("firing", path="/lost", severity="critical"), 60)
        assert set(sent) == {"monitor2"}
        until("the lost host is reported", lambda: told("firing", alertname="HostDown", instance="monitor1"), 120)
        until("the heartbeat goes on", lambda: len(told("firing", "viewer_password", alertname="Watchdog")) > heartbeats + 2, 60)
    finally:
        subprocess.run(["docker", "start", container("monitor1")], check=True, capture_output=True)
    until("the mesh is complete again", lambda: complete(on), 120)
    until("the end is sent", lambda: told("resolved", alertname="HostDown", instance="monitor1"), 120)
    until("the edge uses the first host again", lambda: serves() == cluster(on("monitor1"))["name"], 60)
