"""The filters of plugins/filter/wiring.py."""

from __future__ import annotations

import doctest
import importlib.util

import pytest
from conftest import ROOT, SHARED, load, render

PATH = ROOT / "plugins/filter/wiring.py"
spec = importlib.util.spec_from_file_location("wiring", PATH)
wiring = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wiring)

SERVICES = [
    {"path": "/flower/", "port": 5555, "hosts": ["monitor1"], "denied": ["/flower/metrics"]},
    {"path": "/prometheus/", "port": 9090, "hosts": ["monitor1", "monitor2"], "peers": True},
    {"path": "/grafana/", "port": 3000, "hosts": [], "otherwise": "not here"},
    {"path": "/own/", "port": 3001, "hosts": ["monitor1"], "own_accounts": True},
]


def test_examples_in_docstrings_are_true():
    result = doctest.testmod(wiring)
    assert result.attempted >= 4
    assert result.failed == 0


def test_every_filter_is_used_by_the_shared_wiring():
    text = "\n".join(path.read_text() for path in SHARED)
    assert [name for name in wiring.FilterModule().filters() if f"| {name}" not in text] == []


def test_ansible_finds_the_filters():
    assert render("{{ groups | present }}", groups={"web": ["a", "b"], "down": ["a"]}) == {"web": ["b"], "down": []}


def test_present_keeps_order_and_needs_no_group_down():
    assert wiring.present({"all": ["c", "a", "b"], "web": []}) == {"all": ["c", "a", "b"], "web": []}


def test_a_host_that_is_down_is_in_no_group():
    groups = {"all": ["a", "b", "c"], "web": ["a", "b"], "redis": ["b"], "down": ["b", "c"]}
    assert wiring.present(groups) == {"all": ["a"], "web": ["a"], "redis": [], "down": []}


def test_the_address_of_a_host_is_in_the_private_network_if_one_is_named():
    """Otherwise it is the address of the default route. If the host is not in the network, preflight refuses it."""
    address = load(ROOT / "inventories/shared/addresses.yml")["platform_address"].strip("{} \n")
    facts = {"default_ipv4": {"address": "203.0.113.7"}, "all_ipv4_addresses": ["203.0.113.7", "10.10.0.12"]}

    def chosen(network: str) -> object:
        return render("{{ (" + address + ") | default('none') }}", ansible_facts=facts, platform_network=network)

    assert [chosen(network) for network in ("", "10.10.0.0/24", "10.99.0.0/24")] == ["203.0.113.7", "10.10.0.12", "none"]


def test_listeners_leave_out_programs_that_do_not_run_on_the_host():
    programs = [
        {"to": ["media", "edge"], "process": "nginx", "ports": [443, "8088"], "wanted": True},
        {"to": ["web"], "process": "gunicorn", "ports": [8000]},
        {"to": ["edge"], "process": "celery", "ports": [9810], "wanted": False},
        {"to": ["all"], "process": "sshd", "ports": []},
        {"to": ["edge"], "process": "keepalived", "ports": [112], "protocol": "vrrp"},
        {"to": ["edge"], "name": "ssh", "ports": [22]},
    ]
    assert wiring.listeners(programs, ["edge"]) == [{"port": 443, "process": "nginx"}, {"port": 8088, "process": "nginx"}]


def test_listeners_of_the_group_all_are_on_every_host():
    programs = [{"to": ["all"], "process": "nginx", "ports": [8444]}, {"to": ["web"], "process": "gunicorn", "ports": [8000]}]
    assert wiring.listeners(programs, []) == [{"port": 8444, "process": "nginx"}]


def test_services_on_returns_the_services_of_one_host():
    flower, prometheus, _ = wiring.services_on(SERVICES, "monitor1")
    assert flower == {
        "path": "/flower/",
        "port": 5555,
        "denied": ["/flower/metrics"],
        "otherwise": "",
        "own_accounts": False,
        "peers": False,
    }
    assert (prometheus["path"], prometheus["peers"]) == ("/prometheus/", True)
    assert wiring.services_on(SERVICES, "web1") == []


def test_locations_lead_to_the_first_host_that_answers_and_ask_for_the_account_once():
    addresses = {"monitor1": "10.0.0.1", "monitor2": "10.0.0.2"}
    flower, prometheus, own = wiring.edge_locations(SERVICES, addresses, 8444, ["auth_basic x"])
    assert flower == {
        "path": "/flower/",
        "servers": ["10.0.0.1:8444"],
        "spare_servers": [],
        "denied": ["/flower/metrics"],
        "settings": ["auth_basic x"],
        "protected": True,
        "own_accounts": False,
    }
    assert (prometheus["servers"], prometheus["spare_servers"]) == (["10.0.0.1:8444"], ["10.0.0.2:8444"])
    assert (prometheus["settings"], prometheus["protected"]) == (["auth_basic x"], True)
    assert (own["settings"], own["protected"], own["own_accounts"]) == (["auth_basic x"], True, True)


@pytest.mark.parametrize(("hosts", "after_404"), [(["monitor1"], False), (["monitor1", "monitor2"], True)])
def test_a_host_without_the_service_leads_to_the_next_host(hosts, after_404):
    service = {"path": "/grafana/", "port": 3000, "hosts": hosts, "otherwise": "not here"}
    (grafana,) = wiring.edge_locations([service], {"monitor1": "10.0.0.1", "monitor2": "10.0.0.2"}, 8444, [])
    assert any("http_404" in setting for setting in grafana["settings"]) == after_404


def test_worker_targets_follow_each_hosts_own_list():
    workers = {
        "worker1": [{"name": "edit", "metrics_port": 9810}, {"name": "callback", "metrics_port": "9812"}],
        "worker2": [],
    }
    assert wiring.worker_targets(workers) == [
        {"host": "worker1", "port": 9810, "labels": {"worker": "edit"}},
        {"host": "worker1", "port": 9812, "labels": {"worker": "callback"}},
    ]


@pytest.mark.parametrize(
    ("values", "expected"), [([], []), (["a", "b"], []), ([1, "1", 2], ["1"]), ([2, 2, 1, 1, 1], ["1", "2"])]
)
def test_repeated_returns_the_values_that_occur_more_than_once(values, expected):
    assert wiring.repeated(values) == expected


def test_a_certificate_needs_no_default_route_of_ipv4():
    names = load(ROOT / "roles/pki/defaults/main.yml")["pki_subject_alt_names"]
    found = [render(name, inventory_hostname="a", ansible_facts={"default_ipv4": {}}) for name in names]
    assert found[-2:] == ["IP:127.0.0.1", "IP:127.0.0.1"]
