"""The filters of plugins/filter/firewall.py."""

from __future__ import annotations

import doctest
import importlib.util

import pytest
from conftest import ROOT, render

spec = importlib.util.spec_from_file_location("firewall", ROOT / "plugins/filter/firewall.py")
firewall = importlib.util.module_from_spec(spec)
spec.loader.exec_module(firewall)

GROUPS = {"all": ["web1", "web2", "db1"], "web": ["web1", "web2"], "postgresql": ["db1"], "monitoring": []}
ADDRESSES = {"web1": "10.0.0.1", "web2": "10.0.0.2", "db1": "fd00::3"}
EVERYWHERE = (["0.0.0.0/0"], ["::/0"])


def rules(host: str, *connections: dict) -> dict[str, list[dict]]:
    return firewall.firewall_rules(connections, host, GROUPS, ADDRESSES)


def connection(to: list[str], source: list[str] | dict[str, list[str] | None], **others: object) -> dict:
    return {"name": "x", "to": to, "from": source, "ports": [5432]} | others


def networks(rule: dict) -> tuple[list[str], list[str]]:
    return rule["ipv4"], rule["ipv6"]


def test_examples_in_docstrings_are_true():
    result = doctest.testmod(firewall)
    assert result.attempted >= 7
    assert result.failed == 0


def test_both_directions_follow_from_one_connection():
    given = connection(["postgresql"], ["web"], process="postgres")
    (incoming,) = rules("db1", given)["incoming"]
    assert networks(incoming) == (["10.0.0.1", "10.0.0.2"], [])
    assert (incoming["name"], incoming["protocol"], incoming["ports"]) == ("postgres", "tcp", [5432])
    (outgoing,) = rules("web1", given)["outgoing"]
    assert networks(outgoing) == ([], ["fd00::3"])
    assert outgoing["peers"] == ["postgresql"]
    assert rules("db1", given)["outgoing"] == rules("web1", given)["incoming"] == []


def test_a_host_needs_no_rule_for_itself():
    (incoming,) = rules("web1", connection(["web"], ["web"]))["incoming"]
    assert networks(incoming) == (["10.0.0.2"], [])


@pytest.mark.parametrize("nobody", [[], ["monitoring"]])
def test_a_port_for_nobody_has_a_rule_without_networks(nobody):
    (incoming,) = rules("db1", connection(["postgresql"], nobody))["incoming"]
    assert networks(incoming) == ([], [])
    assert firewall.nft_rules([incoming], "saddr") == []


@pytest.mark.parametrize(
    ("host", "accounts", "guarded"),
    [
        ("db1", ["etcd", "postgres"], [["etcd", "postgres"]]),  # a member of both ends
        ("web1", None, []),  # every account, because of one of the two ends
        ("web2", [], []),
    ],
)
def test_a_connection_may_be_for_some_accounts_of_a_host(host, accounts, guarded):
    """``db1`` serves the port, so packets from its own accounts never leave it."""
    given = connection(["postgresql"], {"postgresql": ["postgres"], "db1": ["etcd"], "web": [], "web1": None})
    found = rules(host, given)
    assert [rule["accounts"] for rule in found["outgoing"]] == [accounts]
    assert [rule["accounts"] for rule in found["guarded"]] == guarded


def test_only_a_rule_for_packets_that_go_out_names_accounts():
    given = connection(["web1"], {"db1": ["postgres"]})
    incoming, outgoing = rules("web1", given)["incoming"], rules("db1", given)["outgoing"]
    assert firewall.nft_rules(incoming, "saddr") == ['ip6 saddr { fd00::3 } tcp dport { 5432 } accept comment "x"']
    assert firewall.nft_rules(outgoing, "daddr") == [
        'ip daddr { 10.0.0.1 } tcp dport { 5432 } meta skuid { root, postgres } accept comment "x"'
    ]


@pytest.mark.parametrize("other", [["db1"], [], {"db1": None}])
def test_a_port_is_not_guarded_if_every_account_of_its_host_may_use_it(other):
    mine, others = connection(["db1"], {"db1": ["etcd"]}), connection(["db1"], other)
    assert rules("db1", mine)["guarded"] != []
    assert rules("db1", mine, others)["guarded"] == []


def test_networks_that_overlap_are_one():
    given = connection(["db1"], ["web1", "10.0.0.0/24", "10.0.0.0/16", "192.0.2.1", "fd00::/8"])
    (incoming,) = rules("db1", given)["incoming"]
    assert networks(incoming) == (["10.0.0.0/16", "192.0.2.1"], ["fd00::/8"])


def test_anywhere_gives_nobody_a_right_to_go_out():
    (incoming,) = rules("db1", connection(["db1"], ["anywhere", "web"]))["incoming"]
    assert networks(incoming) == EVERYWHERE
    assert firewall.nft_rules([incoming], "saddr") == [
        'meta nfproto ipv4 tcp dport { 5432 } accept comment "x"',
        'meta nfproto ipv6 tcp dport { 5432 } accept comment "x"',
    ]
    assert rules("db1", connection(["db1"], ["anywhere"]))["outgoing"] == []


def test_only_the_internet_is_marked_as_without_private_networks():
    given = [connection(["internet"], ["web"]), connection(["anywhere"], ["web"]), connection(["10.9.0.0/16"], ["web"])]
    outgoing = rules("web1", *given)["outgoing"]
    assert [rule["internet"] for rule in outgoing] == [True, False, False]
    assert networks(outgoing[0]) == EVERYWHERE
    assert networks(outgoing[2]) == (["10.9.0.0/16"], [])


def test_each_family_has_a_line_of_its_own():
    (outgoing,) = rules("web1", connection(["all"], ["web"], ports=["443", 80, 443], protocol="udp"))["outgoing"]
    assert firewall.nft_rules([outgoing], "daddr") == [
        'ip daddr { 10.0.0.2 } udp dport { 80, 443 } accept comment "x"',
        'ip6 daddr { fd00::3 } udp dport { 80, 443 } accept comment "x"',
    ]
    assert firewall.nft_rules([outgoing | {"ports": []}], "daddr") == []


def test_vrrp_is_accepted_by_its_number():
    """A host may have no /etc/protocols, in which nft would look for the name."""
    given = connection(["web"], ["web"], ports=[112], protocol="vrrp")
    found = rules("web1", given)
    assert firewall.nft_rules(found["incoming"], "saddr") == ['ip saddr { 10.0.0.2 } meta l4proto { 112 } accept comment "x"']
    assert firewall.nft_rules(found["outgoing"], "daddr") == ['ip daddr { 10.0.0.2 } meta l4proto { 112 } accept comment "x"']


@pytest.mark.parametrize(
    ("address", "port", "admitted"),
    [
        ("10.0.0.1", 22, True),  # of a group
        ("192.0.2.7", "22", True),
        ("fd00::7", 22, True),
        ("192.0.2.7", 2222, False),
        ("198.51.100.7", 22, False),
        ("fe80::7%eth0", 22, False),
    ],
)
def test_rules_let_only_their_sources_in_to_their_ports(address, port, admitted):
    ssh = connection(["all"], ["web", "192.0.2.0/24", "fd00::/8"], ports=[22])
    snmp = connection(["all"], ["anywhere"], ports=[2222], protocol="udp")
    assert firewall.firewall_admits(rules("db1", ssh, snmp)["incoming"], address, port) is admitted


def test_a_misspelt_end_is_refused():
    with pytest.raises(ValueError, match="wbe"):
        rules("db1", connection(["postgresql"], ["wbe"]))
    assert firewall.firewall_unknown([connection(["web", "db1", "internet"], ["wbe", "fd00::/8"])], GROUPS, ADDRESSES) == ["wbe"]


@pytest.mark.parametrize(
    ("entry", "address", "ports"),
    [("10.0.0.8", "10.0.0.8", [80, 443]), ("10.0.0.8:81", "10.0.0.8", [81]), ("fd00::8", "fd00::8", [80, 443])],
)
def test_own_hosts_with_an_address_can_be_reached(entry, address, ports):
    (found,) = firewall.firewall_own_hosts(f"a.example.com, b.example.com:81, {entry}", ["worker"])
    assert (found["to"], found["ports"], found["from"]) == ([address], ports, ["worker"])


def test_ansible_finds_the_filters():
    text = "{{ c | firewall_rules('db1', {'web': ['web1']}, {'web1': '10.0.0.1', 'db1': '10.0.0.3'}) }}"
    found = render(text, c=[connection(["db1"], ["web"])])
    assert found["incoming"][0]["ipv4"] == ["10.0.0.1"]
