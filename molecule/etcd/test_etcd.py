"""The etcd cluster as Patroni sees it: a majority decides, and a member that lost its disk comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import address, changed, playbook, until

CA = "/etc/ssl/certs/image-editor-ca.crt"
HOST = "--cert /etc/ssl/certs/image-editor.crt --key /etc/ssl/private/image-editor.key"
APPLICATION = "--cert /etc/ssl/image-editor/application.crt --key /etc/ssl/image-editor/application.key"
REFUSED = (35, 56)  # curl: the TLS handshake fails
HOSTS = ("etcd1", "etcd2", "etcd3")


def etcdctl(on, command: str, host: str = "etcd1"):
    """Run etcdctl on a host, with the host's certificate and its own member."""
    return on(host).run(f"etcdctl --endpoints=https://{address(on(host))}:2379 --cacert {CA} {HOST} {command}")


def healthy(on, host: str = "etcd1") -> set[str]:
    """The addresses of the members that a member finds healthy."""
    lines = etcdctl(on, "endpoint health --cluster --write-out=json", host).stdout.splitlines()
    return {member["endpoint"] for member in json.loads(lines[-1]) if member["health"]} if lines else set()


def test_what_one_member_stores_all_members_have(on):
    assert len(healthy(on)) == 3
    assert etcdctl(on, "put here yes", "etcd1").rc == 0
    assert etcdctl(on, "get here --print-value-only", "etcd3").stdout.strip() == "yes"


def curl(on, port: int, certificate: str = ""):
    """Ask etcd2 from etcd1 for its metrics."""
    url = f"https://{address(on('etcd2'))}:{port}/metrics"
    # The port of the members offers HTTP/2 and does not speak it with curl.
    return on("etcd1").run(f"curl -sS --http1.1 --max-time 5 --cacert {CA} {certificate} {url}")


@pytest.mark.parametrize("port", [2379, 2380, 2381])
def test_a_client_without_a_certificate_is_refused(on, port):
    assert curl(on, port).rc in REFUSED
    assert curl(on, port, HOST).rc == 0


def test_a_member_needs_the_name_of_the_members(on):
    assert curl(on, 2380, APPLICATION).rc in REFUSED


def test_metrics_say_whether_a_member_has_a_leader(on):
    text = curl(on, 2381, HOST).stdout
    for line in ("etcd_server_has_leader 1", "etcd_server_quota_backend_bytes 2.68435456e+08"):
        assert line in text.splitlines()
    assert "etcd_mvcc_db_total_size_in_bytes " in text
    assert "etcd_disk_wal_fsync_duration_seconds_bucket{" in text


def test_a_killed_member_starts_again(on):
    on("etcd2").check_output("pkill -9 -x etcd")
    until("all members are healthy again", lambda: len(healthy(on)) == 3)


def test_a_member_that_stops_answers_nothing_rather_than_an_error(on):
    """Patroni asks the next member if it gets no answer. If it gets an error, the primary of PostgreSQL gives up."""
    program = (Path(__file__).parent / "gateway_client.py").read_text()
    answers = json.loads(on("etcd1").check_output("python3 -c %s %s 4", program, address(on("etcd1"))))
    assert answers.pop("ok") > 100
    assert answers == {}
    until("all members are healthy again", lambda: len(healthy(on)) == 3)


def test_any_member_may_stop_while_others_take_writes(on):
    """One of them leads."""
    for away, other in zip(HOSTS, HOSTS[1:] + HOSTS[:1], strict=True):
        on(away).check_output("systemctl stop etcd")
        assert on(away).run("systemctl is-failed etcd").stdout.strip() == "inactive"
        assert etcdctl(on, f"put without-{away} yes", other).rc == 0
        on(away).check_output("systemctl start etcd")
        until("all members are healthy again", lambda: len(healthy(on)) == 3)


def test_one_member_away_leaves_a_majority_and_two_do_not(on):
    on("etcd3").check_output("systemctl stop etcd")
    assert etcdctl(on, "put one-away yes").rc == 0
    on("etcd2").check_output("systemctl stop etcd")
    assert etcdctl(on, "put two-away yes").rc != 0  # a write that was not acknowledged may be there later
    for host in ("etcd2", "etcd3"):
        on(host).check_output("systemctl start --no-block etcd")
    until("all members are healthy again", lambda: len(healthy(on)) == 3, 60)
    assert etcdctl(on, "get one-away --print-value-only", "etcd3").stdout.strip() == "yes"


def test_a_member_that_lost_its_disk_joins_again(on):
    host = on("etcd3")
    host.check_output("systemctl stop etcd && rm -rf /var/lib/etcd/image-editor")
    ran = playbook(str(Path(__file__).parent / "converge.yml"))
    assert ran.returncode == 0, ran.stdout
    assert len(healthy(on)) == 3
    assert etcdctl(on, "member list").stdout.count(", started,") == 3, "a member has not joined: it is unstarted"
    assert etcdctl(on, "get here --print-value-only", "etcd3").stdout.strip() == "yes"
    again = playbook(str(Path(__file__).parent / "converge.yml"))
    assert changed(again.stdout) == [], again.stdout


def test_an_even_number_of_members_is_refused(on):
    nodes = json.dumps({"etcd_nodes": {name: address(on(name)) for name in HOSTS[:2]}})
    ran = playbook(str(Path(__file__).parent / "converge.yml"), "-e", nodes)
    assert ran.returncode != 0
    assert "etcd_nodes has 2 members" in " ".join(ran.stdout.split())
    assert changed(ran.stdout) == []


def test_etcd_runs_hardened(on):
    host = on("etcd1")
    main = host.check_output("systemctl show -P MainPID etcd")
    status = host.file(f"/proc/{main}/status").content_string
    assert "CapBnd:\t0000000000000000" in status
    assert host.run(f"nsenter -t {main} -m touch /usr/touched").rc != 0
