"""The proxy before a single node; molecule/redis_failover has it before a whole set."""

import time

from helpers import secret, until


def cli(host, command):
    return host.run(
        "REDISCLI_AUTH=%s redis-cli --no-auth-warning --user application " + command, secret("redis_application_password")
    )


def test_it_leads_to_the_node(host):
    assert cli(host, "SET photo hopper").stdout.strip() == "OK"
    assert host.check_output("image-editor-redis-cli GET photo") == "hopper"
    assert host.check_output("image-editor-redis-proxy status") == "primary: platform1"


def test_plain_text_is_on_loopback_only(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes").splitlines()
    mine = {line.split()[3] for line in listening if "haproxy" in line}
    assert mine == {"127.0.0.1:6379", "127.0.0.1:8405", "127.0.0.1:9101"}  # the last asks for a certificate


def test_it_is_nobody_special(host):
    users = set(host.check_output("ps -C haproxy -o user=").split())
    assert users == {"haproxy"}
    assert host.file("/etc/haproxy/haproxy.cfg").mode == 0o640
    pid = host.check_output("systemctl show -P MainPID haproxy")
    assert host.check_output(f"grep CapEff /proc/{pid}/status").split()[1] == "0" * 16


def test_prometheus_finds_its_figures(host):
    metrics = host.check_output("curl -s http://127.0.0.1:8405/metrics")
    assert 'haproxy_server_status{proxy="redis",server="platform1",state="UP"} 1' in metrics
    assert host.check_output("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8405/") == "404"


def test_a_replica_is_not_taken_for_the_primary(host):
    """A node that follows another gets nobody, and what is connected to it is sent away."""
    host.check_output("image-editor-redis-cli CLIENT KILL TYPE normal")
    # A subscriber, because Redis itself leaves it alone when its node becomes a replica; one that blocks on a key it sends away.
    subscribed = (
        "systemd-run -q --collect --unit subscriber --setenv=REDISCLI_AUTH=%s"
        " redis-cli --no-auth-warning --user application SUBSCRIBE x"
    )
    host.check_output(subscribed, secret("redis_application_password"))
    until("it listens", lambda: host.check_output("image-editor-redis-cli PUBSUB NUMSUB x").split() == ["x", "1"], 10)
    host.check_output("image-editor-redis-cli REPLICAOF 127.0.0.1 1")
    try:
        until("its session is cut", lambda: host.run("systemctl is-active subscriber").stdout.strip() != "active", 10)
        # One bad look is enough to lead nobody there; it takes two until the node counts as down.
        status = "image-editor-redis-proxy status"
        until("nobody is led to it", lambda: host.run(status).stdout.startswith("primary: none\nplatform1: DOWN"), 10)
        assert host.run(status).rc == 1
    finally:
        host.check_output("image-editor-redis-cli REPLICAOF NO ONE")
    until("it is led to again", lambda: cli(host, "PING").stdout.strip() == "PONG", 5)


def test_a_client_waits_for_a_node_that_is_away_for_a_moment(host):
    host.check_output("systemctl stop redis-server")
    until("nobody is led to", lambda: "Connection refused" in host.run("image-editor-redis-proxy status").stdout, 5)
    host.check_output("systemd-run -q sh -c 'sleep 2 && systemctl start redis-server'")
    began = time.monotonic()
    assert cli(host, "PING").stdout.strip() == "PONG"
    assert time.monotonic() - began > 1


def test_a_reload_ends_old_sessions_soon(host):
    """What an old process still carries is no longer watched."""
    host.check_output("systemctl reload haproxy")
    until("one worker is left", lambda: host.check_output("pgrep -c -P $(systemctl show -P MainPID haproxy)") == "1", 10)
    assert cli(host, "PING").stdout.strip() == "PONG"


def test_it_comes_back_when_it_is_killed(host):
    host.check_output("systemctl kill --signal=KILL haproxy")
    until("it is back", lambda: cli(host, "PING").stdout.strip() == "PONG", 10)
