"""The table of ports in docs/network.md is the list from which the firewall's rules follow."""

from __future__ import annotations

import pytest
from conftest import ROOT, derived
from test_settings import GIVEN, PRODUCTION, refusals

DOCUMENT = ROOT / "docs/network.md"
SMARTHOST = {"alertmanager_smtp_smarthost": "mail.example.com:587"}
NAMES = ("edge1", "app1", "app2", "db1", "monitor1", "media1")
HOSTS = {name: f"10.0.0.{number}" for number, name in enumerate(NAMES, 10)}  # an address for each of production's hosts


def row(connection: dict) -> str:
    def end(name: str) -> str:
        accounts = connection["from"][name] if isinstance(connection["from"], dict) else None
        return name if accounts is None else f"{name} ({', '.join(accounts or ['root'])})"

    ports = ", ".join(str(port) for port in connection["ports"])
    protocol = f" ({connection['protocol'].upper()})" if "protocol" in connection else ""
    name = connection.get("process") or connection["name"]
    ends = ", ".join(map(end, connection["from"])) or "this host"
    return f"| {', '.join(connection['to'])} | {ports}{protocol} | {name} | {ends} |"


def test_the_table_has_every_connection():
    connections = derived(PRODUCTION, "web", "platform_connections", **GIVEN, **SMARTHOST)["platform_connections"]
    first = "| to | ports | program | from |"
    (table,) = [part.splitlines() for part in DOCUMENT.read_text().split("\n\n") if part.startswith(first)]
    assert table[2:] == [row(connection) for connection in connections]


def rules(group: str, **extra: object) -> dict[str, dict[tuple, dict]]:
    """The rules of production's first host of a group, by the name and the ports of the connection."""
    address = f"{{{{ {HOSTS!r}[inventory_hostname.split('.')[0]] }}}}"
    found = derived(PRODUCTION, group, "firewall_rules", **GIVEN | {"platform_address": address} | extra)["firewall_rules"]
    return {direction: {(rule["name"], *rule["ports"]): rule for rule in listed} for direction, listed in found.items()}


def test_a_database_lets_the_application_and_the_store_in():
    found = rules("postgresql")
    clients = [HOSTS[name] for name in ("app1", "app2", "monitor1")]
    assert found["incoming"]["postgres", 5432]["ipv4"] == clients
    assert found["incoming"]["prometheus-node", 9100]["ipv4"] == [HOSTS["monitor1"]]
    assert ("gunicorn", 8000) not in found["incoming"]


def test_only_their_own_accounts_reach_etcd_the_backups_and_all_of_the_database():
    """Other programs of these hosts may read the host's certificate, which opens these."""

    def accounts(group: str) -> dict[tuple, list[str]]:
        return {name: rule["accounts"] for name, rule in rules(group)["outgoing"].items() if rule["accounts"] is not None}

    assert accounts("postgresql") == {
        ("postgres", 5432): ["postgres"],
        ("etcd", 2379): ["etcd", "postgres"],
        ("etcd", 2380): ["etcd"],
        ("pgbackrest", 8432): ["postgres"],
        ("nginx", 8433): ["postgres"],
    }
    assert accounts("media")["nginx", 8433] == []  # root
    assert accounts("backup")["postgres", 5432] == accounts("backup")["nginx", 8433] == ["postgres"]
    assert accounts("worker") == {}


def test_other_accounts_of_a_member_do_not_reach_its_etcd():
    guarded = {port: rule["accounts"] for port, rule in rules("media")["guarded"].items()}
    assert guarded == {("etcd", 2379): ["etcd"], ("etcd", 2380): ["etcd"]}


def test_a_worker_reaches_its_peers_and_the_internet():
    outgoing = rules("worker")["outgoing"]
    assert {name for name, *_ in outgoing} == {
        "nginx", "postgres", "patroni", "redis-server", "redis-sentinel", "DHCP", "DNS", "time", "web",
    }  # fmt: skip
    assert [name for name, rule in outgoing.items() if rule["internet"]] == [("web", 80, 443)]


def test_named_servers_replace_every_other_server():
    outgoing = rules("worker", firewall_dns_servers=["192.0.2.53"], firewall_time_servers=["192.0.2.123"])["outgoing"]
    found = {name: (rule["ipv4"], rule["ipv6"]) for (name, *_), rule in outgoing.items() if name in ("DNS", "time")}
    assert found == {"DNS": (["192.0.2.53"], []), "time": (["192.0.2.123"], [])}


def test_rules_do_not_depend_on_the_switches_of_features():
    """So switching a feature needs no other rules, and works on its first hosts."""
    off = {
        "monitoring_enabled": False,
        "flower_enabled": False,
        "redis_replication_enabled": False,
        "postgresql_replication_enabled": False,
        "celery_result_backend_enabled": False,
        "task_payload": "id",
    }
    for group in ("redis", "monitoring", "worker"):
        assert rules(group, **off) == rules(group)


def test_own_hosts_and_extra_connections_of_an_environment():
    extra = [{"name": "proxy", "to": ["192.0.2.8"], "ports": [3128], "from": ["worker"]}]
    outgoing = rules("worker", application_settings={"FETCH_ALLOWED_HOSTS": ["10.9.0.1:8080"]}, firewall_extra=extra)["outgoing"]
    assert outgoing["own host", 8080]["ipv4"] == ["10.9.0.1"]
    assert outgoing["proxy", 3128]["ipv4"] == ["192.0.2.8"]
    assert ("proxy", 3128) not in rules("postgresql", firewall_extra=extra)["outgoing"]


def test_preflight_names_a_misspelt_end():
    extra = [{"name": "proxy", "to": ["192.0.2.8"], "ports": [3128], "from": ["wroker"]}]
    (message,) = refusals(firewall_extra=extra, firewall_ssh_sources=["192.0.2.1/24", "anywhere"])
    assert "names 192.0.2.1/24, wroker, which is no group" in message


@pytest.mark.parametrize("end", ["169.254.169.254", "169.254.0.0/24", "168.0.0.0/6", "fe80::1", "::/0", "anywhere"])
def test_preflight_refuses_a_connection_to_link_local_addresses(end):
    extra = [{"name": "metadata", "to": ["192.0.2.8", "internet", end], "ports": [80], "from": ["worker"]}]
    (message,) = refusals(firewall_extra=extra)
    assert f"opens {end} to hosts" in message


@pytest.mark.parametrize("own", ["169.254.169.254", "169.254.169.254:8080", "fe80::1", "::ffff:169.254.169.254"])
def test_preflight_refuses_an_own_host_with_a_link_local_address(own):
    (message,) = refusals(application_settings={"FETCH_ALLOWED_HOSTS": ["10.9.0.1", own]})
    assert "FETCH_ALLOWED_HOSTS opens" in message
    assert "10.9.0.1" not in message


def test_an_address_that_only_comes_in_may_be_link_local():
    extra = [{"name": "snmp", "to": ["all"], "ports": [161], "protocol": "udp", "from": ["169.254.7.7"]}]
    assert refusals(firewall_extra=extra) == []
