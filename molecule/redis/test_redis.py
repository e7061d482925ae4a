import pytest
from helpers import secret


def cli(host, command, user="admin"):
    """Run a Redis command as ``user`` against 127.0.0.1; return the whole result."""
    return host.run(
        "REDISCLI_AUTH=%s redis-cli --no-auth-warning --tls --cacert /etc/ssl/certs/image-editor-ca.crt --user %s " + command,
        secret(f"redis_{user}_password"),
        user,
    )


def test_what_the_primary_acknowledges_reaches_the_replica(on):
    assert cli(on("redis1"), "SET photo hopper", "application").stdout.strip() == "OK"
    assert cli(on("redis1"), "WAIT 1 5000").stdout.strip() == "1"
    assert cli(on("redis2"), "GET photo", "application").stdout.strip() == "hopper"


def test_replica_refuses_writes(on):
    assert "READONLY" in cli(on("redis2"), "SET photo other", "application").stdout


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG GET maxmemory", "KEYS '*'", "ACL LIST", "SHUTDOWN"])
def test_the_application_cannot_hurt(on, command):
    assert "NOPERM" in cli(on("redis1"), command, "application").stdout


def test_replication_user_cannot_read(on):
    assert "NOPERM" in cli(on("redis1"), "GET photo", "replication").stdout


def test_nobody_gets_in_without_name_and_password(on):
    host = on("redis1")
    anonymous = host.run("redis-cli --tls --cacert /etc/ssl/certs/image-editor-ca.crt PING")
    assert "NOAUTH" in anonymous.stdout
    plain = host.run("timeout 5 redis-cli PING")
    assert "PONG" not in plain.stdout


def test_secrets_are_not_readable_by_others(on):
    host = on("redis1")
    for path in ("/etc/redis/redis.conf", "/etc/redis/users.acl", "/etc/redis/admin.password"):
        assert host.file(path).mode & 0o007 == 0
    assert secret("redis_application_password") not in host.file("/etc/redis/users.acl").content_string


def test_acknowledged_writes_survive_a_kill(on):
    host = on("redis1")
    cli(host, "SET survivor yes", "application")
    host.run("sleep 1.1")  # appendfsync everysec
    host.check_output("pkill -9 redis-server")
    host.check_output("timeout 20 sh -c 'until image-editor-redis-cli PING | grep -q PONG; do sleep 0.2; done'")
    assert cli(host, "GET survivor", "application").stdout.strip() == "yes"


def test_full_memory_refuses_writes_and_keeps_what_is_there(on):
    host = on("redis1")
    cli(host, "SET keep me", "application")
    megabyte = "\"return redis.call('SET', KEYS[1], string.rep('x', 1048576))\""
    fill = f"for i in $(seq 80); do image-editor-redis-cli EVAL {megabyte} 1 fill$i; done"
    assert "OOM" in host.run(fill).stdout
    assert cli(host, "GET keep", "application").stdout.strip() == "me"
    host.run("for i in $(seq 80); do image-editor-redis-cli UNLINK fill$i; done")
    assert cli(host, "SET again yes", "application").stdout.strip() == "OK"
