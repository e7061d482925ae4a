"""A Redis set of two nodes and three Sentinels; molecule/redis_failover tests the same under load, with clients."""

import json
import os
import re
import time

import pytest
from helpers import ROOT, changed, playbook, secret, until

# Asks for the primary as the role does: with the inventory's description of the set on standard input.
PRIMARY = "</etc/redis/image-editor.json image-editor-redis primary redis1"
CONVERGE = "molecule/redis/converge.yml"
RUN_ID = "image-editor-redis-cli INFO server | grep run_id"
TLS = "--tls --cacert /etc/ssl/certs/image-editor-ca.crt"


def cli(host, command, user="admin", port=6380):
    """Run a Redis command as ``user`` against 127.0.0.1; return the whole result."""
    return host.run(
        f"REDISCLI_AUTH=%s redis-cli --no-auth-warning {TLS} -p {port} --user %s " + command,
        secret(f"redis_{user}_password"),
        user,
    )


@pytest.fixture(scope="module", autouse=True)
def first_node_is_primary(on):
    """If the hosts were kept, the last run may have left another primary."""
    on("redis1").check_output("image-editor-redis switchover --to redis1")


@pytest.fixture
def without_sentinels(on):
    """The Sentinels are stopped, so that none interferes."""
    for name in ("redis1", "redis2", "watcher1"):
        on(name).check_output("systemctl stop redis-sentinel")
    yield
    for name in ("redis1", "redis2", "watcher1"):
        on(name).check_output("systemctl start redis-sentinel")
    until("the set is healthy again", lambda: on("redis1").run("image-editor-redis status").rc == 0, 60)


def test_two_primaries_in_the_inventory_are_refused(tmp_path):
    inventory = tmp_path / "claims.yml"
    inventory.write_text("all: {hosts: {redis1: {redis_bootstrap_primary: redis1}, redis2: {redis_bootstrap_primary: redis2}}}\n")
    refusal = playbook(CONVERGE, "-i", str(inventory))
    assert refusal.returncode != 0
    assert "The inventory claims 2 primaries of one set" in refusal.stdout, refusal.stdout
    assert not changed(refusal.stdout)


def test_an_even_number_of_sentinels_is_refused():
    refusal = playbook(CONVERGE, "-e", '{"redis_sentinels": {"redis1": "192.0.2.1", "redis2": "192.0.2.2"}}')
    assert refusal.returncode != 0
    assert "There are 2 Sentinels (redis1, redis2)" in refusal.stdout, refusal.stdout
    assert not changed(refusal.stdout)


def test_an_extra_setting_is_applied_to_the_running_nodes(on):
    """The next run, which changes the password, puts the scenario's own value back."""
    setting, before = "CONFIG GET slowlog-log-slower-than | tail -1", on("redis1").check_output(RUN_ID)
    assert on("redis1").check_output(f"image-editor-redis-cli {setting}") == "5000"
    run = playbook(CONVERGE, "-e", json.dumps({"redis_settings_extra": {"slowlog-log-slower-than": 7000}}))
    assert run.returncode == 0, run.stdout
    for name in ("redis1", "redis2"):
        assert on(name).check_output(f"image-editor-redis-cli {setting}") == "7000"
    assert on("redis1").check_output(RUN_ID) == before, "the node was restarted"


def test_an_unknown_extra_setting_is_refused_before_it_is_stored(on):
    refusal = playbook(CONVERGE, "-e", json.dumps({"redis_settings_extra": {"no-such-setting": 1}}))
    assert refusal.returncode != 0
    assert ">>> 'no-such-setting 1'" in refusal.stdout, refusal.stdout
    assert "no-such-setting" not in on("redis1").file("/etc/redis/image-editor-extra.conf").content_string


def accepted(on, password):
    """The ports of all hosts on which the proxy's user signs in with the password."""
    ping = f"REDISCLI_AUTH=%s redis-cli --no-auth-warning {TLS} --user proxy"
    members = [("redis1", 6380), ("redis2", 6380), ("redis1", 26379), ("redis2", 26379), ("watcher1", 26379)]
    return [port for name, port in members if "PONG" in on(name).run(f"{ping} -p {port} PING", password).stdout]


def test_a_changed_password_is_applied_to_the_running_nodes(on):
    """The admin's, which the run itself uses, a client's, and those of the set. A client's earlier one works until retired."""
    before, everywhere = on("redis1").check_output(RUN_ID), [6380, 6380, 26379, 26379, 26379]
    old = {user: secret(f"redis_{user}_password") for user in ("admin", "proxy", "replication", "sentinel")}
    new = {user: password[::-1] for user, password in old.items()}
    for user, password in new.items():
        (ROOT / "secrets" / os.environ["LAB_NAME"] / f"redis_{user}_password").write_text(password)
    run = playbook(CONVERGE)
    assert run.returncode == 0, run.stdout
    assert on("redis1").check_output("cat /etc/redis/admin.password") == new["admin"]
    assert accepted(on, old["proxy"]) == accepted(on, new["proxy"]) == everywhere
    retired = playbook(CONVERGE, "--tags", "retire_passwords")
    assert retired.returncode == 0, retired.stdout
    assert accepted(on, old["proxy"]) == []
    assert accepted(on, new["proxy"]) == everywhere
    # The replica and the Sentinels sign in once more, and only with the new passwords.
    on("redis1").check_output("image-editor-redis-cli CLIENT KILL TYPE replica")
    for name in ("redis1", "redis2"):
        on(name).check_output("image-editor-redis-cli CLIENT KILL USER sentinel")
    until("the replica follows", lambda: "master_link_status:up" in cli(on("redis2"), "INFO replication").stdout)
    time.sleep(3)  # three pings of the Sentinels
    quorum = "SENTINEL CKQUORUM image-editor"
    until("the Sentinels agree", lambda: cli(on("watcher1"), quorum, port=26379).stdout.startswith("OK"))
    again = playbook(CONVERGE, "--tags", "retire_passwords")
    assert again.returncode == 0, again.stdout
    assert not changed(again.stdout)
    until("the set is healthy", lambda: on("redis1").run("image-editor-redis status").rc == 0)
    assert on("redis1").check_output(RUN_ID) == before, "the node was restarted"


def test_status_on_every_host_reports_a_healthy_set(on):
    for name in ("redis1", "redis2", "watcher1"):
        status = on(name).run("image-editor-redis status")
        assert status.rc == 0, status.stdout
        assert status.stdout.count("names redis1") == 3


def test_an_acknowledged_write_reaches_the_replica(on):
    assert cli(on("redis1"), "SET photo hopper", "application").stdout.strip() == "OK"
    assert cli(on("redis1"), "WAIT 1 5000").stdout.strip() == "1"
    assert cli(on("redis2"), "GET photo", "application").stdout.strip() == "hopper"


def test_a_replica_refuses_writes(on):
    assert "READONLY" in cli(on("redis2"), "SET photo other", "application").stdout


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG GET maxmemory", "KEYS '*'", "ACL LIST", "SHUTDOWN", "REPLICAOF NO ONE"])
def test_the_application_cannot_run_dangerous_commands(on, command):
    assert "NOPERM" in cli(on("redis1"), command, "application").stdout


@pytest.mark.parametrize(("user", "command"), [("replication", "GET photo"), ("proxy", "GET photo"), ("sentinel", "GET photo")])
def test_users_that_need_no_data_cannot_read_data(on, user, command):
    assert "NOPERM" in cli(on("redis1"), command, user).stdout


def test_the_exporter_reads_figures_and_no_data(on):
    node = ("INFO ALL", "SLOWLOG GET 128", "LATENCY LATEST", "LATENCY HISTOGRAM", "CLIENT LIST", "DBSIZE", "LLEN edit")
    for command in node:
        assert not cli(on("redis2"), command, "exporter").stdout.startswith("NOPERM"), command
    for command in ("INFO", "SENTINEL MASTERS", "SENTINEL REPLICAS image-editor", "SENTINEL CKQUORUM image-editor"):
        assert not cli(on("watcher1"), command, "exporter", 26379).stdout.startswith("NOPERM"), command
    for command in ("GET photo", "LRANGE edit 0 -1", "SET photo other", "CONFIG GET masterauth"):
        assert "NOPERM" in cli(on("redis2"), command, "exporter").stdout, command


def test_the_proxy_cannot_command_a_sentinel(on):
    host = on("watcher1")
    assert "6380" in cli(host, "SENTINEL GET-MASTER-ADDR-BY-NAME image-editor", "proxy", 26379).stdout
    for command in ("SENTINEL FAILOVER image-editor", "SENTINEL REMOVE image-editor", "SENTINEL MASTERS"):
        assert "NOPERM" in cli(host, command, "proxy", 26379).stdout


@pytest.mark.parametrize(("name", "port"), [("redis1", 6380), ("watcher1", 26379)])
def test_a_client_without_name_and_password_is_refused(on, name, port):
    host = on(name)
    assert "NOAUTH" in host.run(f"redis-cli {TLS} -p {port} PING").stdout
    assert "PONG" not in host.run(f"timeout 5 redis-cli -p {port} PING").stdout
    assert "WRONGPASS" in host.run(f"redis-cli {TLS} -p {port} --user default --pass anything PING").stderr


def test_secrets_are_not_readable_by_others(on):
    host = on("redis1")
    for file in host.check_output("find /etc/redis -type f").splitlines():
        assert host.file(file).mode & 0o007 == 0, file
    assert secret("redis_application_password") not in host.file("/etc/redis/users.acl").content_string


@pytest.fixture
def slow_saves(on):
    """On redis1 a save or a rewrite of the append-only file takes 4 s, as with much data: the node waits before each key."""
    host = on("redis1")
    keys = int(host.check_output("image-editor-redis-cli DBSIZE"))
    assert keys, "an empty node would save at once"
    assert host.check_output(f"image-editor-redis-cli CONFIG SET rdb-key-save-delay {4_000_000 // keys}") == "OK"
    yield host
    host.check_output("image-editor-redis-cli CONFIG SET rdb-key-save-delay 0")


def persistence(host, name):
    (value,) = re.findall(rf"^{name}:(\w+)", host.check_output("image-editor-redis-cli INFO persistence"), re.MULTILINE)
    return value


def test_a_save_waits_for_a_rewrite_of_the_append_only_file(slow_saves):
    before = persistence(slow_saves, "rdb_last_save_time")
    slow_saves.check_output("image-editor-redis-cli BGREWRITEAOF")
    assert persistence(slow_saves, "aof_rewrite_in_progress") == "1"
    slow_saves.check_output("image-editor-redis save")
    assert persistence(slow_saves, "rdb_bgsave_in_progress") == "0"
    assert int(persistence(slow_saves, "rdb_last_save_time")) > int(before)


def test_a_save_that_redis_stops_is_reported(slow_saves):
    """Redis stops a save with this signal when the node must copy another primary. Redis does not count that as a failure."""
    slow_saves.check_output("(image-editor-redis save; echo $?) >/root/save.log 2>&1 </dev/null &")
    until("the save has begun", lambda: persistence(slow_saves, "rdb_bgsave_in_progress") == "1")
    slow_saves.check_output("pkill -USR1 -f '[r]edis-rdb-bgsave'")
    log = until("the command has ended", lambda: re.search(r"(.*)\n1\n$", slow_saves.file("/root/save.log").content_string))
    assert "did not end its save" in log[1]
    assert persistence(slow_saves, "rdb_last_bgsave_status") == "ok"


def test_acknowledged_writes_survive_a_kill(on):
    """systemd restarts the primary before the Sentinels take it for dead. Transactions survive like single commands."""
    host = on("redis1")
    cli(host, "SET survivor yes", "application")
    host.check_output("printf 'MULTI\\nSET survivor:1 yes\\nSET survivor:2 yes\\nEXEC\\n' | image-editor-redis-cli")
    cli(host, "EVAL \"redis.call('SET', 'survivor:3', 'yes'); redis.call('SET', 'survivor:4', 'yes')\" 0")
    host.run("sleep 1.1")  # appendfsync everysec
    host.check_output("pkill -9 redis-server")
    host.check_output("timeout 20 sh -c 'until image-editor-redis-cli PING | grep -q PONG; do sleep 0.2; done'")
    assert cli(host, "GET survivor", "application").stdout.strip() == "yes"
    assert cli(host, "MGET survivor:1 survivor:2 survivor:3 survivor:4").stdout.split() == ["yes"] * 4
    until("the set is healthy again", lambda: host.run("image-editor-redis status").rc == 0)


def test_full_memory_refuses_writes_and_keeps_the_data(on):
    host = on("redis1")
    cli(host, "SET keep me", "application")
    megabyte = "\"return redis.call('SET', KEYS[1], string.rep('x', 1048576))\""
    assert "OOM" in host.run("for i in $(seq 80); do echo EVAL %s 1 fill$i; done | image-editor-redis-cli", megabyte).stdout
    assert cli(host, "GET keep", "application").stdout.strip() == "me"
    host.check_output("image-editor-redis-cli UNLINK $(seq -f 'fill%g' 80)")
    assert cli(host, "SET again yes", "application").stdout.strip() == "OK"


def test_a_wrong_password_is_named(on):
    host = on("redis1")
    host.check_output("mv /etc/redis/admin.password /root/")
    try:
        refusal = host.run(f"REDISCLI_AUTH=wrong {PRIMARY}")
        assert refusal.rc == 1
        assert "redis1 answers, but refuses the admin's password" in refusal.stderr
    finally:
        host.check_output("mv /root/admin.password /etc/redis/")


def test_a_new_node_with_data_is_refused_until_an_operator_confirms_the_loss(on):
    host = on("redis2")
    host.check_output("mv /etc/redis/redis-state.conf /root/")
    try:
        refusal = host.run(PRIMARY)
        assert refusal.rc == 1
        assert "redis2 has data in /var/lib/redis and would lose it as a replica of redis1" in refusal.stderr
        assert host.check_output(f"{PRIMARY} --discard redis2") == "redis1"
    finally:
        host.check_output("mv /root/redis-state.conf /etc/redis/")


def test_two_primaries_are_refused_until_an_operator_decides(on, without_sentinels):
    redis1, redis2 = on("redis1"), on("redis2")
    redis2.check_output("image-editor-redis-cli REPLICAOF NO ONE")
    cli(redis2, "SET rival yes", "application")
    refusal = redis1.run(PRIMARY)
    assert refusal.rc == 1
    assert "redis1 and redis2 both say that they are primary" in refusal.stderr
    assert redis1.check_output(f"{PRIMARY} --discard redis1") == "redis2"
    assert redis1.check_output(f"{PRIMARY} --discard redis2") == "redis1"
    assert redis2.check_output("image-editor-redis join redis1") == "changed"
    assert cli(redis2, "GET rival", "application").stdout.strip() == ""
    assert redis2.check_output("image-editor-redis join redis1") == "unchanged"


def test_an_empty_primary_does_not_wipe_its_replica(on, without_sentinels):
    """The primary's disk was replaced, and the inventory still names it as the first primary."""
    redis1 = on("redis1")
    redis1.check_output("systemctl stop redis-server && mv /etc/redis/redis-state.conf /root/")
    try:
        refusal = redis1.run(PRIMARY)
        assert refusal.rc == 1
        assert "redis1 is empty and would become the primary of redis2" in refusal.stderr
    finally:
        redis1.check_output("mv /root/redis-state.conf /etc/redis/ && systemctl start redis-server")


def test_a_node_that_writes_its_first_aof_stops_when_it_has_written_it(on):
    """Redis answers the first SIGTERM with "Writing initial AOF, can't exit". The delay of each key makes that take 4 s."""
    host = on("redis2")
    delay = 4_000_000 // int(host.check_output("image-editor-redis-cli DBSIZE"))
    for setting in (f"rdb-key-save-delay {delay}", "appendonly no", "appendonly yes", "rdb-key-save-delay 0"):
        assert host.check_output(f"image-editor-redis-cli CONFIG SET {setting}") == "OK"
    assert "aof_rewrite_in_progress:1" in host.check_output("image-editor-redis-cli INFO persistence")
    host.check_output("timeout 30 systemctl stop redis-server")
    assert "can't exit" in host.check_output("journalctl -u redis-server -n 40 -o cat")
    assert host.check_output("systemctl show -P Result redis-server") == "success"
    host.check_output("systemctl start redis-server")
    until("the set is healthy", lambda: host.run("image-editor-redis status").rc == 0)


def test_a_node_that_hangs_is_stopped(on):
    host = on("redis2")
    pid = int(host.check_output("systemctl show -P MainPID redis-server"))
    assert pid > 0
    host.check_output(f"kill -STOP {pid}")
    host.check_output("timeout 40 systemctl stop redis-server")
    host.check_output("systemctl start redis-server")
    until("the set is healthy", lambda: host.run("image-editor-redis status").rc == 0)


def test_a_primary_whose_disk_is_full_is_replaced_and_nothing_is_lost(on):
    """The node's data is on a file system of its own, which the test fills."""
    host = on("redis1")
    host.check_output(
        "systemctl stop redis-server && cp -a /var/lib/redis /root/saved && mount -t tmpfs -o size=96m data /var/lib/redis"
        " && cp -a /root/saved/. /var/lib/redis/ && systemctl start redis-server"
    )
    until("the set is healthy", lambda: host.run("image-editor-redis status").rc == 0)
    host.run("dd if=/dev/zero of=/var/lib/redis/filler bs=1M")
    write = "\"return redis.call('SET', 'big', string.rep('x', 65536))\""
    kept = []

    def refused() -> bool:
        """Whether a write is refused. It is read before that, because the node is replaced soon after."""
        kept.append(cli(host, "GET keep", "application").stdout.strip())
        return "MISCONF" in host.run(f"image-editor-redis-cli EVAL {write} 0").stdout

    until("writes are refused", refused)
    assert kept[-1] == "me"
    status = host.run("image-editor-redis status")
    assert "node redis1 could not write to its disk" in status.stdout
    assert "could not write to its disk" in host.run("image-editor-redis switchover").stderr
    until("the Sentinels have made redis2 primary", lambda: "names redis2" in host.run("image-editor-redis status").stdout, 20)
    assert cli(on("redis2"), "GET keep", "application").stdout.strip() == "me"
    host.check_output("rm /var/lib/redis/filler")
    until("the set is healthy again", lambda: host.run("image-editor-redis status").rc == 0, 60)
    host.check_output("systemctl stop redis-server && umount /var/lib/redis && rm -r /root/saved && systemctl start redis-server")
