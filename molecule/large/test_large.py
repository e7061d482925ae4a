"""The large example of production: 14 hosts, of which two are edges. Each runs the services of its groups alone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from urllib.parse import quote

import pytest
import yaml
from helpers import PHOTO, ROOT, address, until

sys.path.insert(0, str(ROOT / "scripts"))
import smoke

PUBLIC_NAME = "images.example.com"
EXAMPLE = yaml.safe_load((ROOT / "inventories/production/hosts.large.yml.example").read_text())["all"]["children"]
GROUPS = {group: {name.partition(".")[0] for name in EXAMPLE[group]["hosts"]} for group in EXAMPLE}
HOSTS = sorted(set().union(*GROUPS.values()))
# Services of the platform, and the groups whose hosts run them.
SERVICES = {
    "haproxy": ("web", "worker", "scheduler", "flower", "monitoring"),
    "image-editor-backup-store": ("backup",),
    "image-editor-collector": ("scheduler",),
    "image-editor-flower": ("flower",),
    "image-editor-pgbackrest": ("postgresql", "backup"),
    "image-editor-scheduler": ("scheduler",),
    "image-editor-web": ("web",),
    "image-editor-worker@edit": ("worker",),
    "nginx": ("edge", "media", "flower", "monitoring", "backup"),
    "postgresql@17-main": ("postgresql",),
    "prometheus": ("monitoring",),
    "prometheus-alertmanager": ("monitoring",),
    "redis-sentinel": ("redis_sentinel",),
    "redis-server": ("redis",),
}
# Watchdog always fires. The memory and the disk of the machine do not belong to the scenario.
UNEXPECTED = 'ALERTS{alertname!~"Watchdog|HostMemory",mountpoint!="/"}'


@pytest.fixture(scope="module")
def token(on) -> str:
    """The token of a user."""
    token = "t" * 43
    on("web1").check_output("echo %s | image-editor-manage ensure_user tester", token)
    return token


@pytest.mark.parametrize("edge", sorted(GROUPS["edge"]))
def test_each_edge_takes_an_edit_and_serves_its_result(on, token, monkeypatch, edge):
    """For the client, the public name leads to this edge alone. The result has the right pixels."""
    resolve, edge_address = socket.getaddrinfo, address(on(edge))
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *rest: resolve(edge_address if name == PUBLIC_NAME else name, *rest))
    ca = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca/ca.crt"
    with smoke.client(token, str(ca)) as session:
        smoke.edit_photo(session, f"https://{PUBLIC_NAME}", PHOTO.read_bytes(), 120)


def test_every_host_runs_the_services_of_its_groups_and_no_others(on):
    wanted = {
        name: {service for service, groups in SERVICES.items() if any(name in GROUPS[group] for group in groups)}
        for name in HOSTS
    }
    assert len(wanted) == 14
    listed = "systemctl list-units --type=service --state=active --plain --no-legend"
    active = {name: on(name).check_output(listed).splitlines() for name in HOSTS}
    found = {name: {line.split()[0].removesuffix(".service") for line in lines} for name, lines in active.items()}
    assert {name: services & SERVICES.keys() for name, services in found.items()} == wanted


def test_no_host_listens_on_a_port_that_the_inventory_does_not_know(on):
    for name in HOSTS:
        said = on(name).run("image-editor-ports")
        assert said.rc == 0, f"{name}: {said.stdout}"
        assert said.stdout.startswith("firewall: on\n")


def test_backups_of_every_kind_arrive_on_their_own_host(on):
    """The deployment has made the first ones. Each Redis node is asked, and the primary makes the backup."""

    def names() -> dict[str, set[str]]:
        report = json.loads(on("backup1").check_output("image-editor-backup status --json"))
        return {kind: {backup["name"] for backup in backups} for kind, backups in report["backups"].items()}

    before = names()
    for host, kind in (("backup1", "postgresql"), ("redis1", "redis"), ("redis2", "redis"), ("media1", "media")):
        on(host).check_output("image-editor-backup run %s", kind)
    after = names()
    assert [kind for kind in ("postgresql", "redis", "media") if after[kind] <= before[kind]] == []


def test_prometheus_reaches_every_host_and_no_unexpected_alert_fires(on):
    """No alert may be pending either, because most alerts fire only after two minutes."""

    def series(expression: str) -> list[dict[str, str]]:
        url = f"http://127.0.0.1:9090/prometheus/api/v1/query?query={quote(expression)}"
        answer = json.loads(on("monitor1").check_output("curl -sf %s", url))
        return [result["metric"] for result in answer["data"]["result"]]

    until("the alerts are evaluated", lambda: series('ALERTS{alertname="Watchdog",alertstate="firing"}'), 60)
    until("every target is up", lambda: series("up") and not series("up == 0"), 180)
    assert {target["instance"].partition(".")[0] for target in series('up{job="node"}')} == set(HOSTS)
    with contextlib.suppress(AssertionError):
        until("no unexpected alert is left", lambda: not series(UNEXPECTED), 300)
    assert series(UNEXPECTED) == []
