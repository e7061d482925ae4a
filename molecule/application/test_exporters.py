"""The exporters answer Prometheus and no other client."""

import hashlib
import re

import pytest
from helpers import APPLICATION_CURL, CURL, secret, until

SCRAPES = {
    "node": ("https://localhost:9100/metrics", r'^node_filesystem_avail_bytes{.*mountpoint="/"} [1-9]'),
    "nginx": ("https://localhost:9113/metrics", r"^nginx_up 1"),
    "postgres": ("https://localhost:9187/metrics", r'^pg_stat_database_numbackends{.*datname="image_editor"}'),
    "redis": ("https://localhost:9121/scrape?target=rediss://exporter@127.0.0.1:6380", r'^redis_instance_info{.*role="master"'),
    "haproxy": ("https://localhost:9101/metrics?scope=server", r'^haproxy_server_status{proxy="redis",.*state="UP"} 1'),
}


def sign_in() -> str:
    """curl's option with the password that the Redis exporter asks for."""
    return "-u prometheus:" + hashlib.sha256(f"scrape:{secret('redis_exporter_password')}".encode()).hexdigest()


def scrape(host, name):
    return host.check_output(f"{CURL} {sign_in()} '{SCRAPES[name][0]}'")


@pytest.mark.parametrize("name", SCRAPES)
def test_each_exporter_serves_its_metric(host, name):
    until(f"{name} has its metric", lambda: re.search(SCRAPES[name][1], scrape(host, name), re.MULTILINE), 10)


@pytest.mark.parametrize("name", SCRAPES)
def test_exporter_requires_a_client_certificate(host, name):
    url = SCRAPES[name][0]
    stranger = host.run(f"curl -sS --max-time 5 --cacert /etc/ssl/certs/image-editor-ca.crt '{url}'")
    assert stranger.rc != 0, stranger.stdout
    assert "certificate required" in stranger.stderr
    plain = host.run(f"curl -sS --max-time 5 '{url.replace('https', 'http')}'")
    assert "_up" not in plain.stdout
    assert "# TYPE" not in plain.stdout


@pytest.mark.parametrize("name", SCRAPES)
def test_a_certificate_with_another_name_gets_no_metric(host, name):
    answer = host.run(f"{APPLICATION_CURL} '{SCRAPES[name][0]}'")
    assert "# TYPE" not in answer.stdout
    if name == "redis":  # it reads no name, so it asks for a password
        assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' '{SCRAPES[name][0]}'") == "401"


def test_exporters_listen_on_the_given_address(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric").splitlines()
    addresses = {line.split()[3] for line in listening}
    for port in (9100, 9101, 9113, 9121, 9187):
        assert {address for address in addresses if address.endswith(f":{port}")} == {f"127.0.0.1:{port}"}


def test_no_password_is_in_a_command_line_or_unit(host):
    seen = host.check_output("ps -eo args; cat /etc/systemd/system/*.service; systemctl show 'prometheus-*'")
    assert secret("redis_exporter_password") not in seen
    assert sign_in().split(":")[1] not in seen
    for name in ("redis-passwords.json", "redis.env"):
        passwords = host.file(f"/etc/prometheus/exporters/{name}")
        assert (passwords.user, passwords.group, passwords.mode) == ("root", "prometheus", 0o640)


def test_the_password_is_sent_to_no_other_address(host):
    """A scrape can name any target. The exporter sends a password only to a Redis of this host."""
    host.check_output(
        'systemd-run -q --unit spy python3 -c \'import socket; s = socket.create_server(("127.0.0.1", 6398));'
        ' c, _ = s.accept(); open("/run/spy", "wb").write(c.recv(4096))\''
    )
    until("the listener is ready", lambda: ":6398 " in host.check_output("ss -Hltn"), 5)
    host.run(f"{CURL} {sign_in()} 'https://localhost:9121/scrape?target=redis://exporter@127.0.0.1:6398'")
    heard = until("the listener was contacted", lambda: host.run("cat /run/spy").stdout, 10)
    assert secret("redis_exporter_password") not in heard


def test_the_exporter_can_read_statistics_only(host):
    psql = "runuser -u prometheus -- psql -XtA -d %s -c %s"
    assert host.run(psql, "postgres", "SELECT pg_has_role('pg_monitor', 'member')").stdout.strip() == "t"
    assert host.run(psql, "postgres", "CREATE TABLE mine ()").rc != 0
    assert host.run(psql, "image_editor", "SELECT 1").rc != 0
    assert host.run("runuser -u nobody -- psql -XtA -d postgres -U prometheus -c 'SELECT 1'").rc != 0


def test_the_addresses_of_the_host_are_exported(host):
    address = re.escape(host.check_output("hostname -I").split()[0])
    assert re.search(rf'^node_network_address_info{{address="{address}",.*}} 1$', scrape(host, "node"), re.MULTILINE)


def test_the_state_of_the_clock_is_exported(host):
    """The prepared host does not look like a container, whose clock is its machine's."""
    assert re.search(r"^node_timex_sync_status [01]$", scrape(host, "node"), re.MULTILINE)


def ends(host):
    """The exported expiry of each certificate, after a run of the checker."""
    host.check_output("systemctl start image-editor-certificates")
    found = re.findall(r'^image_editor_certificate_expiry\w+{path="(.+)"} (\S+)$', scrape(host, "node"), re.MULTILINE)
    return {path: float(value) for path, value in found}


def end_of(host, path):
    return float(host.check_output(f'date -d "$(openssl x509 -in {path} -noout -enddate | cut -d= -f2)" +%s'))


def test_the_expiry_of_certificates_is_exported(host):
    path = "/etc/ssl/certs/image-editor.crt"
    assert ends(host)[path] == end_of(host, path)
    assert ends(host)["/etc/ssl/certs/image-editor-ca.crt"] > end_of(host, path)
    host.check_output("printf 'nothing' >/etc/ssl/certs/public.crt")
    assert ends(host)["/etc/ssl/certs/public.crt"] == 0


def test_the_expiry_of_a_served_certificate_is_that_of_its_name(host):
    """The server has one certificate for the name, and another for clients that ask for no name. It takes the edge's place."""
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x"
    host.check_output(f"{make} -days 2 -keyout /root/name.key -out /root/name.crt")
    host.check_output(f"{make} -days 9 -keyout /root/other.key -out /root/other.crt")
    host.check_output("systemctl stop nginx")
    try:
        assert ends(host)["https://public.example.com"] == 0, "nothing is served"
        host.check_output(
            "systemd-run -q --unit=public openssl s_server -accept 127.0.0.1:443 -www -cert /root/other.crt"
            " -key /root/other.key -servername public.example.com -cert2 /root/name.crt -key2 /root/name.key"
        )
        until("the server listens", lambda: "127.0.0.1:443 " in host.check_output("ss -Hltn"), 10)
        assert ends(host)["https://public.example.com"] == end_of(host, "/root/name.crt")
    finally:
        host.check_output("systemctl stop public; systemctl start nginx")


def test_a_killed_exporter_restarts(host):
    host.check_output("systemctl kill --signal=KILL prometheus-redis-exporter")
    until("the exporter answers", lambda: host.run(f"{CURL} {sign_in()} -f '{SCRAPES['redis'][0]}'").rc == 0, 15)


def test_a_stopped_redis_is_down_and_has_no_old_metrics(host, api):
    host.check_output("systemctl stop redis-server")
    try:
        metrics = scrape(host, "redis")
        assert re.search("^redis_up 0", metrics, re.MULTILINE)
        assert "redis_instance_info{" not in metrics
        assert "redis_connected_slaves" not in metrics
    finally:
        host.check_output("systemctl start redis-server")
    until("the API is ready again", lambda: api("/readyz")[0] == 200, 60)


@pytest.mark.usefixtures("switched_off")
def test_disabled_exporters_close_their_ports_and_keep_files(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric")
    assert [port for port in (9100, 9113, 9121, 9187) if f":{port} " in listening] == [9113]
    assert (
        host.run("systemctl is-enabled prometheus-node-exporter image-editor-certificates.timer").stdout.split()
        == ["disabled"] * 2
    )
    assert host.file("/var/lib/prometheus/node-exporter/certificates.prom").exists
    assert host.run("systemctl is-active haproxy redis-server").stdout.split() == ["active"] * 2
