"""The table of `make status` shows failed units, silent hosts and different releases."""

from __future__ import annotations

import json
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from status import redis_role, table

UNIT = {"load": "loaded", "active": "active", "sub": "running"}


def host(*units: dict, failed: tuple = (), release: str = "", packages: str = "", redis: str = "", scheduler: str = "") -> dict:
    return {
        "units": json.dumps(units),
        "failed": json.dumps(failed),
        "packages": packages,
        "release": release,
        "redis": redis,
        "scheduler": scheduler,
    }


def test_a_healthy_platform_is_reported_with_units_and_versions():
    web = host({"unit": "image-editor-web.service", **UNIT}, release="abc")
    database = host({"unit": "postgresql@17-main.service", **UNIT}, packages="ii  postgresql-17 17.6-1\nun  nginx \n")
    text, well = table({"environment": "lab", "hosts": {"web1": web, "db1": database}})
    assert well
    assert [line.split() for line in text.splitlines()[:3]] == [
        ["HOST", "UNIT", "STATE", "VERSION"],
        ["web1", "image-editor-web", "active", "(running)", "release", "abc"],
        ["db1", "postgresql@17-main", "active", "(running)", "17.6-1"],
    ]
    assert "2 of 2 hosts answer" in text
    assert "failed       nothing" in text


def test_a_failed_unit_is_named_even_if_it_is_not_part_of_the_platform():
    broken = {"unit": "cron.service", "load": "loaded", "active": "failed", "sub": "failed"}
    text, well = table({"environment": "lab", "hosts": {"web1": host(failed=(broken,))}})
    assert not well
    assert "failed       cron on web1" in text


def test_a_host_that_does_not_answer_is_named():
    text, well = table({"environment": "lab", "hosts": {"web1": {}}})
    assert not well
    assert "0 of 1 hosts answer" in text
    assert "no answer    web1" in text


def test_different_releases_are_named():
    unit = {"unit": "image-editor-web.service", **UNIT}
    hosts = {"web1": host(unit, release="abc"), "web2": host(unit, release="abd")}
    assert "release      abc, abd (hosts differ)" in table({"environment": "lab", "hosts": hosts})[0]


def test_the_host_whose_scheduler_has_the_lease_is_named():
    database = {"unit": "postgresql@17-main.service", **UNIT}
    hosts = {"worker1": host(), "db1": host(database, scheduler="worker1"), "db2": host(database, scheduler="worker1")}
    assert "scheduler    worker1\n" in table({"environment": "lab", "hosts": hosts})[0]
    assert "scheduler    no lease found" in table({"environment": "lab", "hosts": {"db1": host(database)}})[0]


def test_problems_of_the_database_are_printed_with_the_role_of_each_node():
    unit = {"unit": "patroni.service", **UNIT}
    problem = "2 nodes say that they are primary: db1, db2"
    nodes = {"db1": {"role": "primary", "version": "4.1.5"}, "db2": {"role": "primary", "version": "4.1.5"}}
    seen = json.dumps({"nodes": nodes, "problems": [problem]})
    hosts = {name: host(unit) | {"postgresql": seen} for name in nodes}
    text, well = table({"environment": "lab", "hosts": hosts})
    assert not well
    assert text.count(f"postgresql   {problem}") == 1
    assert "4.1.5, primary" in text
    sound = {"db1": host(unit) | {"postgresql": json.dumps({"nodes": nodes, "problems": []})}}
    assert table({"environment": "lab", "hosts": sound})[1]


def test_the_role_of_a_redis_node_is_read_from_its_replication_info():
    assert redis_role("role:master\r\nconnected_slaves:1\r\n") == "primary, 1 replica"
    assert redis_role("role:slave\nmaster_host:10.0.0.2\nmaster_link_status:up\n") == "replica of 10.0.0.2, link up"
    assert redis_role("") == "does not answer"
