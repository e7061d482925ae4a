"""A certificate proves a name, and the name decides what its owner may do. Renewal restarts only Sentinels."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest
from helpers import LOCK, ROOT, Api, Load, address, changed, in_soak, one_line, playbook, secret, submitting, until

sys.path.insert(0, str(ROOT / "scripts"))
from figures import record

CA = "/etc/ssl/certs/image-editor-ca.crt"
HOSTS = (
    "edge1", "edge2", "web1", "web2", "worker1", "worker2", "db1", "db2", "redis1", "redis2", "monitor1", "monitor2",
)  # fmt: skip
# Certificate and key, without their suffix. `forged` has the right names, and another CA signed it.
PAIRS = {
    "host": ("/etc/ssl/certs/image-editor.crt", "/etc/ssl/private/image-editor.key"),
    "application": ("/etc/ssl/image-editor/application.crt", "/etc/ssl/image-editor/application.key"),
    "forged": ("/root/forged.crt", "/root/forged.key"),
}
Identity = tuple[str, str]  # a host, and one of its certificates
FORGERS: tuple[Identity, ...] = (
    ("web1", "host"),
    ("web1", "forged"),
    ("worker1", "host"),
    ("worker1", "application"),
    ("db1", "host"),
    ("monitor1", "host"),
    ("monitor1", "application"),
)
EDGE, MONITORING = ("edge1", "host"), ("monitor1", "host")
APPLICATION = (("web1", "application"), ("worker1", "application"), ("monitor1", "application"))  # the same name on each host
# The statuses of a refusal, and curl's exit codes if the server ends the connection: no handshake, no answer, an alert.
REFUSED, ENDED = {"400", "401", "403"}, {35, 52, 55, 56}


@dataclass(frozen=True)
class Service:
    """A request that only some identities may send."""

    request: str  # arguments of curl
    allowed: tuple[Identity, ...]  # the first of them proves that the request works
    sign_in: str = ""  # what the first of them sends besides


def account(name: str, password: str) -> str:
    return f"-u {name}:{password}"


def services() -> dict[str, Service]:
    scrape = account("prometheus", hashlib.sha256(f"scrape:{secret('redis_exporter_password')}".encode()).hexdigest())
    operator = account("operator", secret("operator_password"))
    api = "-H 'X-Forwarded-For: 192.0.2.1' https://web2:8000"
    return {
        "Prometheus": Service("https://monitor1:8444/prometheus/api/v1/alerts", (EDGE, MONITORING)),
        "Alertmanager": Service("https://monitor1:8444/alertmanager/api/v2/silences", (EDGE, MONITORING)),
        "Flower": Service(f"{operator} https://monitor1:8444/flower/", (EDGE,)),
        "the API": Service(f"{api}/healthz", (EDGE, ("web2", "host"))),
        "metrics of the API": Service(f"{api}/metrics", (MONITORING, EDGE, ("web2", "host"))),
        "metrics of a worker": Service("https://worker2:9810/metrics", (MONITORING,)),
        "the collector": Service("https://worker1:9820/metrics", (MONITORING,)),
        "the node exporter": Service("https://db1:9100/metrics", (MONITORING,)),
        "the PostgreSQL exporter": Service("https://db1:9187/metrics", (MONITORING,)),
        "the nginx exporter": Service("https://edge1:9113/metrics", (MONITORING,)),
        "the Redis exporter": Service("https://redis1:9121/metrics", (MONITORING,), scrape),
        "HAProxy": Service("https://web2:9101/metrics", (MONITORING,)),
        "images, to read": Service("https://monitor1:8443/dav/", APPLICATION),
        "images, to write": Service("-T /etc/hostname https://monitor1:8443/dav/uploads/0/forged", APPLICATION),
        "the backups of Redis": Service("https://monitor1:8433/redis/config", (("redis1", "host"), MONITORING)),
        "the backups of images": Service("https://monitor1:8433/media/config", (MONITORING,)),
    }


def status(on, identity: Identity, arguments: str) -> str:
    """Return the status that the identity gets, or ``ended``. The server's own certificate is not the subject here."""
    host, kind = identity
    certificate, key = PAIRS[kind]
    answer = on(host).run(f"curl -sk --max-time 20 -o /dev/null -w '%{{http_code}}' --cert {certificate} --key {key} {arguments}")
    return "ended" if answer.rc in ENDED else answer.stdout


@pytest.fixture(scope="module")
def forged(on) -> None:
    """A certificate with the names of the edge and the monitoring host, which web1 has signed itself."""
    certificate, key = PAIRS["forged"]
    on("web1").check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=edge1"
        f" -addext subjectAltName=DNS:edge1,DNS:monitor1 -keyout {key} -out {certificate}"
    )


@pytest.fixture
def open_network(on) -> Iterator[None]:
    """No firewall: it would drop most of the requests, and the certificates alone are the subject here."""
    for host in HOSTS:
        on(host).check_output("systemctl stop nftables")
    yield
    for host in HOSTS:
        on(host).check_output("systemctl start nftables")


@pytest.mark.usefixtures("forged", "open_network")
def test_no_other_identity_is_accepted(on):
    """Every request is sent by an identity that may send it, and then by all others."""
    cases, accepted = 0, {}
    for name, service in services().items():
        allowed = f"{service.sign_in} {service.request}"
        until(f"{name} answers {service.allowed[0]}", lambda a=allowed, s=service: status(on, s.allowed[0], a)[0] == "2", 60)
        for forger in FORGERS:
            if forger not in service.allowed:
                cases += 1
                if (found := status(on, forger, service.request)) not in REFUSED | {"ended"}:
                    accepted[name, forger] = found
    status(on, APPLICATION[0], "-X DELETE https://monitor1:8443/dav/uploads/0/forged")
    without_password = status(on, MONITORING, services()["the Redis exporter"].request)
    assert without_password == "401"
    assert cases >= 80
    assert record("forged_identity_accepted", len(accepted), "requests", "<=0")["ok"], accepted


def test_processes_that_read_strangers_images_cannot_read_the_hosts_key(on):
    for name, unit in (("web1", "image-editor-web"), ("worker1", "image-editor-worker@edit")):
        groups = on(name).check_output("grep ^Groups: /proc/$(systemctl show -P MainPID %s)/status", unit).split()[1:]
        assert on(name).check_output("getent group image-editor-application | cut -d: -f3") in groups, unit
        assert on(name).check_output("getent group ssl-cert | cut -d: -f3") not in groups, unit
        assert on(name).run("runuser -u image-editor -- cat /etc/ssl/private/image-editor.key").rc != 0


# --- renewal

# Where each program shows its certificate, and which certificate that is.
SHOWN = {
    "edge1": {"edge1:443": "host"},
    "web1": {"web1:8000": "application", "web1:9101": "host"},
    "worker1": {"worker1:9810": "application", "worker1:9820": "application"},
    "db1": {f"db1:{port}": "host" for port in ("5432 -starttls postgres", 8008, 8432, 9100, 9187)},
    "db2": {f"db2:{port}": "host" for port in ("5432 -starttls postgres", 8008)},
    "redis1": {f"redis1:{port}": "host" for port in (2379, 6380, 9121, 26379)},
    "redis2": {"redis2:6380": "host", "redis2:26379": "host"},
    "monitor1": {f"monitor1:{port}": "host" for port in (8433, 8443, 8444, 26379)},
    "monitor2": {f"monitor2:{port}": "host" for port in (8443, 8444)},
}
UNITS = "systemctl list-units --type=service --state=running --plain --no-legend"
NAMES = "'image-editor-*' 'etcd*' 'patroni*' 'redis-*' 'haproxy*' 'nginx*' 'keepalived*' 'prometheus*' 'grafana*'"


def invocations(on) -> dict[str, str]:
    """The run of every service of the platform: another id means that the service was restarted."""
    found = {}
    for host in HOSTS:
        shown = on(host).check_output(f"systemctl show -p Id -p InvocationID $({UNITS} {NAMES} | cut -d' ' -f1)")
        for block in shown.split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines())
            found[f"{values['Id'].removesuffix('.service')} on {host}"] = values["InvocationID"]
    return found


def moment(host, change: str) -> float:
    """When the Sentinel of a host last changed its state, in seconds. All hosts of the lab have one clock."""
    return int(host.check_output(f"systemctl show -P {change}TimestampMonotonic redis-sentinel")) / 1e6


def serial(on, host: str, where: str) -> str:
    """The serial number of the certificate that a program shows."""
    ask = f"openssl s_client -connect {where} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    return on(host).run(ask).stdout.strip()


@contextmanager
def answered(on) -> Iterator[list[str]]:
    """Ask the API through the edge five times a second. Afterwards the list has the status of every request that failed."""
    ask = f"curl -s --cacert {CA} --max-time 20 -o /dev/null -w '%{{http_code}}\\n' https://localhost/login/"
    client = f"while :; do {ask} >>/run/answers; sleep 0.2; done"
    on("edge1").check_output("rm -f /run/answers && systemd-run -q --unit client sh -c %s", client)
    failed: list[str] = []
    try:
        yield failed
    finally:
        on("edge1").check_output("systemctl stop client")
    answers = on("edge1").check_output("cat /run/answers").split()
    assert len(answers) > 50
    failed += [answer for answer in answers if answer != "200"]


def without_primary(on, since: float) -> list[str]:
    """What proxies have said of a PostgreSQL node that did not answer their check, since a moment."""
    ask = f"journalctl -q -u haproxy --since @{since:.0f} --grep 'postgresql/.* is DOWN, reason: Layer[46]'"
    return [line for host in ("web1", "web2", "worker1", "worker2") for line in on(host).run(ask).stdout.splitlines()]


def test_all_certificates_are_renewed_and_no_program_but_sentinel_restarts(on):
    """Meanwhile clients submit edits, and none fails. Sentinels do not count: they cannot reload a certificate."""
    before, sentinels = invocations(on), [on(host) for host in ("redis1", "redis2", "monitor1")]
    shown = {where: serial(on, host, where) for host, places in SHOWN.items() for where in places}
    assert len(before) > 30
    assert all(shown.values()), shown
    api, began = Api(on("web1"), "renewal", f"https://{address(on('web1'))}:8000"), time.time()
    with answered(on) as failed, submitting(api, [on("worker1"), on("worker2")]):
        result = playbook("playbooks/renew_certificates.yml", "-e", '{"pki_renew_days": 500}')
        assert result.returncode == 0, result.stdout[-3000:]
    assert failed == []
    assert without_primary(on, began) == []
    after = invocations(on)
    restarted = {name for name, run in before.items() if after.get(name) != run}
    restarts = {f"redis-sentinel on {host}" for host in ("redis1", "redis2", "monitor1")}
    assert restarted >= restarts, "a Sentinel shows its former certificate"
    pauses = sorted([moment(host, "InactiveEnter"), moment(host, "ActiveEnter")] for host in sentinels)
    assert all(earlier[1] < later[0] for earlier, later in pairwise(pauses)), f"two Sentinels restarted at once: {pauses}"
    others = restarted - restarts
    assert record("certificate_renewal_restarts", len(others), "services other than Sentinels", "<=0")["ok"], others
    for host, places in SHOWN.items():
        for where, kind in places.items():
            installed = on(host).check_output("openssl x509 -noout -serial -in %s", PAIRS[kind][0])
            assert installed != shown[where], f"the {kind} certificate of {host} was not renewed"
            until(f"{where} shows it", lambda h=host, w=where, wanted=installed: serial(on, h, w) == wanted, 20)
    until("the set is healthy", lambda: on("redis1").run("image-editor-redis status").rc == 0, 30)


def test_a_second_renewal_changes_nothing_and_leaves_no_lock(on):
    result = playbook("playbooks/renew_certificates.yml")
    assert result.returncode == 0, result.stdout[-3000:]
    assert not changed(result.stdout)
    assert not on("worker1").file(LOCK).exists


@in_soak
def test_the_ca_is_rotated_while_no_client_loses_a_request(on):
    """Afterwards every program shows a certificate of the new CA, and no host trusts the old CA."""
    before, began = on("db1").file(CA).content_string, time.time()
    api = Api(on("web1"), "rotation", f"https://{address(on('web1'))}:8000")
    failed, load = [], Load()
    try:
        with answered(on) as failed, submitting(api, [on("worker1"), on("worker2")]) as load:
            result = playbook("playbooks/rotate_ca.yml")
            assert result.returncode == 0, result.stdout[-3000:]
    finally:  # also if an edit was refused, because then the figure of an earlier run must not stand
        lost = failed + load.refused + load.repeated
        assert record("ca_rotation_failed_requests", len(lost), "requests", "<=0")["ok"], lost
    assert without_primary(on, began) == []
    for host in HOSTS:
        trusted = on(host).file(CA).content_string
        assert trusted.count("BEGIN CERTIFICATE") == 1, host
        assert trusted != before, host
    for host, places in SHOWN.items():
        for where in places:
            said = on(host).run(f"openssl s_client -connect {where} -CAfile {CA} </dev/null 2>&1").stdout
            assert "Verify return code: 0 (ok)" in said, f"{where}: {said[-500:]}"
    directory = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca"
    assert sorted(path.name for path in directory.iterdir()) == ["ca.crt", "ca.key"]
    down = "curl -s 'http://127.0.0.1:9090/prometheus/api/v1/query?query=up==0'"
    until("Prometheus reaches every target", lambda: '"result":[]' in on("monitor1").check_output(down), 60)


@in_soak
def test_a_rotation_without_all_hosts_is_refused():
    result = playbook("playbooks/rotate_ca.yml", "--limit", "web1")
    assert result.returncode != 0
    assert "only on all 12 hosts at once" in one_line(result.stdout)
    assert not changed(result.stdout)
