"""The filters of plugins/filter/capacity.py, and the values that the shared wiring derives with them."""

from __future__ import annotations

import doctest
import importlib.util

import pytest
from conftest import ROOT, SHARED, load, render, variables_of

spec = importlib.util.spec_from_file_location("capacity", ROOT / "plugins/filter/capacity.py")
capacity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(capacity)

WORKERS = [{"name": "edit", "concurrency": 8}, {"name": "callback", "concurrency": 2}]


def test_examples_in_docstrings_are_true():
    result = doctest.testmod(capacity)
    assert result.attempted >= 4
    assert result.failed == 0


def test_every_filter_is_used_by_the_shared_wiring():
    text = "\n".join(path.read_text() for path in SHARED)
    assert [name for name in capacity.FilterModule().filters() if f"| {name}" not in text] == []


@pytest.mark.parametrize(
    ("groups", "connections"), [(["web"], 12), (["worker"], 10), (["web", "worker", "edge"], 22), (["postgresql"], 0)]
)
def test_only_web_and_worker_processes_hold_connections(groups, connections):
    assert capacity.host_connections(groups, 8, WORKERS, {}, web_workers=3, web_threads=3) == connections


def test_a_workers_own_number_of_processes_counts():
    assert capacity.host_connections(["worker"], 8, WORKERS, {"edit": "2"}) == 4


def test_without_settings_the_api_has_the_defaults_of_its_role():
    defaults = load(ROOT / "roles/web/defaults/main.yml")
    processes = render(defaults["web_workers"], ansible_facts={"processor_vcpus": 3})
    explicit = capacity.host_connections(["web"], 3, [], {}, processes, defaults["web_threads"])
    assert capacity.host_connections(["web"], 3, [], {}) == explicit


def test_a_host_that_is_away_does_not_change_what_equal_hosts_need():
    assert capacity.connections_needed([30, None, 30]) == capacity.connections_needed([30, 30, 30])


def test_without_any_facts_only_the_other_connections_are_needed():
    assert capacity.connections_needed([None, None]) == capacity.OTHER_CONNECTIONS


@pytest.mark.parametrize(("total", "said"), [(6144, ""), (6143, "PostgreSQL 4096, Redis 2048")])
def test_services_may_take_all_memory_and_no_more(total, said):
    assert capacity.memory_exceeded({"PostgreSQL": 4096, "Redis": "2048"}, total) == said


def test_only_workers_that_open_images_take_the_memory_of_edits():
    queues = {"edit": ["edit"], "callback": ["callback", "maintenance"], "mixed": ["callback", "thumbnail"]}
    workers = [{"name": name, "queues": listed, "concurrency": 4} for name, listed in queues.items()]
    assert capacity.workers_mib(workers, {"edit": "3"}) == 7 * capacity.EDIT_MIB


def test_the_memory_of_an_edit_is_what_the_role_allows():
    assert f" {capacity.EDIT_MIB} * " in load(ROOT / "roles/celery/defaults/main.yml")["celery_memory_max"]


def exceeded(inventory: str, group: str, cores: int, mib: int) -> str:
    """What the services of the group's first host take, if its memory does not suffice."""
    facts = {"ansible_facts": {"memtotal_mb": mib, "processor_vcpus": cores}}
    return render("{{ platform_memory_exceeded }}", **variables_of(ROOT / "inventories" / inventory, group) | facts)


# The sizes of docs/production.md. The kernel keeps a part of the memory.
@pytest.mark.parametrize(
    ("inventory", "group", "cores", "mib"),
    [
        ("single_host", "all", 4, 7900),
        ("single_host", "all", 2, 3900),
        ("production", "edge", 2, 1900),
        ("production", "web", 4, 7900),
        ("production", "postgresql", 4, 7900),
        ("production", "media", 2, 3900),
        ("production", "monitoring", 2, 3900),
    ],
)
def test_the_services_of_an_example_fit_into_the_memory_of_its_hosts(inventory, group, cores, mib):
    assert exceeded(inventory, group, cores, mib) == ""


def test_every_service_of_a_host_counts():
    said = exceeded("single_host", "all", 4, 3900)
    assert said == "PostgreSQL 975, Redis 487, Prometheus 487, workers 2000, API 512, Flower 128, Grafana 128"


@pytest.mark.parametrize(
    ("service", "role", "variable"),
    [
        ("PostgreSQL", "postgresql", "postgresql_memory_mib"),
        ("Redis", "redis", "redis_maxmemory_mib"),
        ("Prometheus", "prometheus", "prometheus_memory_max_mib"),
    ],
)
def test_without_settings_a_service_takes_what_its_role_takes(service, role, variable):
    facts = {"ansible_facts": {"memtotal_mb": 4096}}
    groups = {"group_names": ["postgresql", "monitoring"], "platform_monitoring": True}
    host = {"inventory_hostname": "a", "platform_redis_hosts": ["a"]}
    wired = render(load(ROOT / "inventories/shared/preflight.yml")["platform_memory"][service], **groups, **host, **facts)
    assert int(wired) == int(render(str(load(ROOT / f"roles/{role}/defaults/main.yml")[variable]), **facts))
