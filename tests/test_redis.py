"""Settings of roles redis and proxy that must agree follow from one value."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from conftest import ROOT, load, render

DEFAULTS = {role: load(ROOT / f"roles/{role}/defaults/main.yml") for role in ("redis", "proxy")}
INTERNALS = {role: load(ROOT / f"roles/{role}/vars/main.yml") for role in ("redis", "proxy")}
WIRING = load(ROOT / "inventories/shared/redis.yml")
MEMBERS = {"redis1": "192.0.2.1", "redis2": "192.0.2.2"}


def haproxy(**variables: object) -> str:
    """The proxy's configuration."""
    required = {"proxy_redis_nodes": MEMBERS, "proxy_redis_sentinels": MEMBERS, "proxy_redis_password": "x"}
    internal = {"__proxy_set": "image-editor", "__proxy_majority": 2}
    text = (ROOT / "roles/proxy/templates/haproxy.cfg.j2").read_text()
    return render(text, **(DEFAULTS["proxy"] | internal | required | variables))


def test_both_roles_give_the_set_one_name():
    assert INTERNALS["redis"]["__redis_set"] == INTERNALS["proxy"]["__proxy_set"]


@pytest.mark.parametrize("name", ["check_interval", "check_interval_changing"])
def test_role_redis_knows_the_intervals_of_the_proxies(name):
    """A switchover waits until every proxy has noticed the new primary."""
    assert DEFAULTS["redis"][f"redis_{name}"] == DEFAULTS["proxy"][f"proxy_{name}"] == WIRING[f"proxy_{name}"]
    assert WIRING[f"redis_{name}"] == f"{{{{ proxy_{name} }}}}"


@pytest.mark.parametrize(("port", "follows"), [("redis_port", "node_port"), ("redis_sentinel_port", "sentinel_port")])
def test_a_changed_redis_port_changes_for_the_proxy_too(port, follows):
    assert DEFAULTS["redis"][port] == DEFAULTS["proxy"][f"proxy_redis_{follows}"] == WIRING[port]
    assert WIRING[f"proxy_redis_{follows}"] == f"{{{{ {port} }}}}"


def test_ports_of_redis_are_written_once():
    for path in sorted((ROOT / "inventories/shared").glob("*.yml")):
        if path.name != "redis.yml":
            assert re.findall(r"\b(?:6379|6380|26379)\b", path.read_text()) == [], path.name


def test_a_primary_that_is_cut_off_refuses_writes_before_it_is_replaced():
    lag = INTERNALS["redis"]["__redis_settings"]["min-replicas-max-lag"]
    for down_after, seconds in ((3000, 3), (5500, 5), (500, 1)):
        assert int(render(lag, redis_sentinel_down_after=down_after)) == seconds


def test_passwords_of_earlier_runs_stay_accepted_beside_the_present_one():
    passwords = {"proxy": "new", "admin": "same"}
    proxy, admin = (hashlib.sha256(password.encode()).hexdigest() for password in passwords.values())
    present = render(INTERNALS["redis"]["__redis_present"], redis_passwords=passwords)
    found = {"stdout": json.dumps({"accepted": [f"proxy #{proxy}", "proxy #b", "proxy #a", f"admin #{admin}"]})}
    earlier = render(INTERNALS["redis"]["__redis_earlier"], __redis_found=found, __redis_present=present)
    assert earlier == ["proxy #b", "proxy #a"]
    template = (ROOT / "roles/redis/templates/users.acl.j2").read_text()
    users = {"__redis_file_users": {"proxy": "+ping", "admin": "+@all"}, "redis_passwords": passwords}
    lines = render(template, **users, __redis_file_earlier=earlier).splitlines()
    assert f"user proxy on sanitize-payload #{proxy} #b #a resetchannels -@all +ping" in lines
    assert f"user admin on sanitize-payload #{admin} resetchannels -@all +@all" in lines
    retired = render(template, **users, __redis_file_earlier=[]).splitlines()
    assert f"user proxy on sanitize-payload #{proxy} resetchannels -@all +ping" in retired


@pytest.mark.parametrize(("wait", "retries"), [(5, 10), (8, 16)])
def test_the_proxy_retries_for_the_configured_wait(wait, retries):
    text = haproxy(proxy_redis_wait=wait)
    assert "timeout connect 500ms" in text
    assert f"retries {retries}\n" in text


@pytest.mark.parametrize(("interval", "seconds"), [(500, 3), (2000, 6)])
def test_the_proxy_connects_no_client_until_it_has_checked_every_node(interval, seconds):
    text = haproxy(proxy_check_interval=interval, proxy_check_interval_changing=300)
    assert f"check inter {interval}ms fastinter 300ms" in text
    assert f"acl starts date,sub(proc.started) lt {seconds}\n" in text
    assert "reject if starts { nbsrv(redis) gt 1 } || starts !{ var(txn.found) -m found }" in text


def test_each_sentinel_is_asked_once_however_many_nodes_there_are():
    nodes = MEMBERS | {"redis3": "192.0.2.3"}
    assert haproxy(proxy_redis_nodes=nodes, proxy_redis_sentinels=nodes).count("get-master-addr-by-name") == 3


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("+192.0.2.1;+192.0.2.1;+192.0.2.1;", True),
        ("+192.0.2.2;+192.0.2.1;+192.0.2.1;", True),
        ("+192.0.2.1;-192.0.2.1;+192.0.2.2;", False),  # a Sentinel that is silent now does not count
        ("+192.0.2.11;+192.0.2.1;+192.0.2.11;", False),
        ("+192x0.2.1;+192.0.2.1;+;", False),
        ("+;+;+;", False),
    ],
)
def test_a_node_is_named_by_a_majority_of_the_sentinels_that_answer(said, named):
    """The patterns of HAProxy are read by Python here; scenario redis_failover has both real."""
    patterns = re.findall(r"use-server nobody if { srv_is_up\(redis/redis1\) } !{ var\(txn.named\) -m reg '(.+?)' }", haproxy())
    assert [re.search(pattern, said) is not None for pattern in patterns] == [named]
