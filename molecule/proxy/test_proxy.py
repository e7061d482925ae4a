"""The proxy with a single Redis node, and with stand-ins for two PostgreSQL nodes and Patroni's answer about them (stand_in.py).

molecule/redis_failover tests the proxy with a whole Redis set.
"""

import json
import time

import pytest
from helpers import playbook, secret, until


def cli(host, command):
    return host.run(
        "REDISCLI_AUTH=%s redis-cli --no-auth-warning --user application " + command, secret("redis_application_password")
    )


def test_the_proxy_connects_clients_to_the_node(host):
    assert cli(host, "SET photo hopper").stdout.strip() == "OK"
    assert host.check_output("image-editor-redis-cli GET photo") == "hopper"
    assert host.check_output("image-editor-proxy status") == "redis primary: platform1\npostgresql primary: platform1"


def test_the_proxy_listens_on_loopback_only(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes").splitlines()
    mine = {line.split()[3] for line in listening if "haproxy" in line}
    # The last wants a client certificate.
    assert mine == {"127.0.0.1:6379", "127.0.0.1:5432", "127.0.0.1:8405", "127.0.0.1:9101"}


def test_the_proxy_runs_without_privileges(host):
    users = set(host.check_output("ps -C haproxy -o user=").split())
    assert users == {"haproxy"}
    assert host.file("/etc/haproxy/haproxy.cfg").mode == 0o640
    pid = host.check_output("systemctl show -P MainPID haproxy")
    assert host.check_output(f"grep CapEff /proc/{pid}/status").split()[1] == "0" * 16


def test_prometheus_can_scrape_the_metrics(host):
    metrics = host.check_output("curl -s http://127.0.0.1:8405/metrics")
    assert 'haproxy_server_status{proxy="redis",server="platform1",state="UP"} 1' in metrics
    assert host.check_output("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8405/") == "404"


def test_a_replica_is_not_taken_for_the_primary(host):
    """The proxy leads no client to a node that follows another, and cuts the sessions of such a node."""
    host.check_output("image-editor-redis-cli CLIENT KILL TYPE normal")
    # A subscriber, because Redis keeps its connection when the node becomes a replica. It cuts off clients that block on a key.
    subscribed = (
        "systemd-run -q --collect --unit subscriber --setenv=REDISCLI_AUTH=%s"
        " redis-cli --no-auth-warning --user application SUBSCRIBE x"
    )
    host.check_output(subscribed, secret("redis_application_password"))
    until("the subscriber listens", lambda: host.check_output("image-editor-redis-cli PUBSUB NUMSUB x").split() == ["x", "1"], 10)
    host.check_output("image-editor-redis-cli REPLICAOF 127.0.0.1 1")
    try:
        until("the session is cut", lambda: host.run("systemctl is-active subscriber").stdout.strip() != "active", 10)
        # After one failed check no client is led to the node; after two the node counts as down.
        status = "image-editor-proxy status"
        nowhere = "redis primary: none\nplatform1: DOWN"
        until("no client is led to the node", lambda: host.run(status).stdout.startswith(nowhere), 10)
        assert host.run(status).rc == 1
    finally:
        host.check_output("image-editor-redis-cli REPLICAOF NO ONE")
    until("clients are led to the node again", lambda: cli(host, "PING").stdout.strip() == "PONG", 5)


def test_a_client_waits_while_the_node_restarts(host):
    host.check_output("systemctl stop redis-server")
    until("no client is led to the node", lambda: "Connection refused" in host.run("image-editor-proxy status").stdout, 5)
    host.check_output("systemd-run -q sh -c 'sleep 2 && systemctl start redis-server'")
    began = time.monotonic()
    assert cli(host, "PING").stdout.strip() == "PONG"
    assert time.monotonic() - began > 1


def test_a_reload_ends_old_sessions_soon(host):
    """The old process no longer checks the nodes of its connections. The new process leads clients on when the reload ends."""
    for _ in range(5):
        host.check_output("systemctl reload haproxy")
        assert cli(host, "PING").stdout.strip() == "PONG"
        assert host.check_output("session") == "platform1"
    until("one worker is left", lambda: host.check_output("pgrep -c -P $(systemctl show -P MainPID haproxy)") == "1", 10)
    assert cli(host, "PING").stdout.strip() == "PONG"


def test_a_killed_proxy_is_restarted(host):
    host.check_output("systemctl kill --signal=KILL haproxy")
    until("the proxy is back", lambda: cli(host, "PING").stdout.strip() == "PONG", 10)


def test_clients_follow_the_postgresql_primary_and_old_sessions_are_cut(host):
    """Two checks notice that a node is not primary any more: 1.5 s. The limit leaves a busy machine as much again."""
    for old, new in (("platform1", "localhost"), ("localhost", "platform1")):
        until(f"the proxy leads to {old}", lambda node=old: host.check_output("session") == node, 10)
        found = json.loads(host.check_output(f"session {new}"))
        assert (found["before"], found["rest"]) == (old, ""), found
        assert found["ended"] < 3, found
        assert found["followed"] < 3, found


@pytest.mark.parametrize("primaries", [[], ["platform1", "localhost"]])
def test_clients_are_refused_at_once_if_no_node_or_two_claim_to_be_primary(host, primaries):
    """The application waits and tries again by itself."""
    host.check_output("echo %s >/etc/stand-in-primary", " ".join(primaries))
    try:
        until("the proxy has noticed", lambda: host.check_output("session") == "", 10)
        status = host.run("image-editor-proxy status")
        assert status.rc == 1
        assert "postgresql primary: none" in status.stdout
        began = time.monotonic()
        assert host.check_output("session") == ""
        assert time.monotonic() - began < 2
    finally:
        host.check_output("echo platform1 >/etc/stand-in-primary")
    until("the proxy leads to the primary", lambda: host.check_output("session") == "platform1", 10)


def test_a_single_postgresql_node_needs_no_patroni(host):
    """Replication is rolled back, and the applications keep their setting."""
    host.check_output("echo >/etc/stand-in-primary")
    try:
        ran = playbook("molecule/proxy/converge.yml", "-e", '{"proxy_postgresql_nodes": {"platform1": "127.0.0.2"}}')
        assert ran.returncode == 0, ran.stdout
        assert host.check_output("session") == "platform1"
    finally:
        host.check_output("echo platform1 >/etc/stand-in-primary")
        assert playbook("molecule/proxy/converge.yml").returncode == 0
