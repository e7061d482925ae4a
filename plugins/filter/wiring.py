"""Filters that derive a role's variables from the inventory's groups. inventories/shared uses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

GROUP_OF_ABSENT_HOSTS = "down"
NEXT_HOST_AFTER_404 = ["proxy_next_upstream error timeout http_502 http_503 http_404"]


def present(groups: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return every group without the hosts of the group ``down``, in the inventory's order.

    >>> present({"web": ["web1", "web2"], "down": ["web2"]})
    {'web': ['web1'], 'down': []}
    """
    down = set(groups.get(GROUP_OF_ABSENT_HOSTS, ()))
    return {name: [host for host in hosts if host not in down] for name, hosts in groups.items()}


def addresses_in(addresses: Iterable[str], network: str) -> list[str]:
    """Return the addresses that are in the network, in their order.

    >>> addresses_in(["192.0.2.7", "10.10.0.12"], "10.10.0.0/24")
    ['10.10.0.12']
    """
    inside = ip_network(network)
    return [address for address in addresses if ip_address(address) in inside]


def listeners(connections: Iterable[Mapping[str, Any]], groups: Iterable[str]) -> list[dict[str, Any]]:
    """Return one entry for each TCP port of the programs that run on a host of the ``groups``.

    A program (``process``) runs on the hosts of the groups in ``to`` (``all``: on every host) while its ``wanted`` is true, which
    is the default.

    >>> nginx = {"to": ["edge"], "process": "nginx", "ports": [443, 80]}
    >>> celery = {"to": ["worker"], "process": "celery", "ports": [9810], "wanted": False}
    >>> listeners([nginx, celery, {"to": ["all"], "name": "ssh", "ports": [22]}], ["edge", "worker"])
    [{'port': 443, 'process': 'nginx'}, {'port': 80, 'process': 'nginx'}]
    """
    here = {"all", *groups}
    return [
        {"port": int(port), "process": str(connection["process"])}
        for connection in connections
        if "process" in connection and connection.get("protocol", "tcp") == "tcp"
        if here.intersection(connection["to"]) and connection.get("wanted", True)
        for port in connection["ports"]
    ]


def services_on(services: Iterable[Mapping[str, Any]], host: str) -> list[dict[str, Any]]:
    """Return the operators' services that run on the host, as the role ``operators`` takes them."""
    return [
        {
            "path": service["path"],
            "port": service["port"],
            "denied": service.get("denied", []),
            "otherwise": service.get("otherwise", ""),
            "own_accounts": service.get("own_accounts", False),
            "peers": service.get("peers", False),
        }
        for service in services
        if host in service["hosts"]
    ]


def edge_locations(
    services: Iterable[Mapping[str, Any]], addresses: Mapping[str, str], port: int, sign_in: list[str]
) -> list[dict[str, Any]]:
    """Return the locations under which the edge offers the services, as the role ``nginx`` takes them.

    ``addresses``: an address for each host. ``port``: where nginx answers on a service's host. ``sign_in``: nginx settings that
    ask for an account. A viewer and a page of another site may only read. A service with accounts of its own decides itself what
    a viewer may change. A service without hosts has no location.

    The edge uses the first host, and the others while the first does not answer: each host has its own samples and sessions. If
    a host may do without the service (``otherwise``), its 404 also leads to the next host.
    """
    return [
        {
            "path": service["path"],
            "servers": [f"{addresses[service['hosts'][0]]}:{port}"],
            "spare_servers": [f"{addresses[host]}:{port}" for host in service["hosts"][1:]],
            "denied": service.get("denied", []),
            "settings": [*sign_in, *(NEXT_HOST_AFTER_404 if service.get("otherwise") and service["hosts"][1:] else [])],
            "protected": True,
            "own_accounts": service.get("own_accounts", False),
        }
        for service in services
        if service["hosts"]
    ]


def worker_targets(workers: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return a scrape target for each worker of each host, as the role ``prometheus`` takes them.

    >>> worker_targets({"worker1": [{"name": "edit", "metrics_port": 9810}]})
    [{'host': 'worker1', 'port': 9810, 'labels': {'worker': 'edit'}}]
    """
    return [
        {"host": host, "port": int(worker["metrics_port"]), "labels": {"worker": str(worker["name"])}}
        for host, listed in workers.items()
        for worker in listed
    ]


def repeated(values: Iterable[Any]) -> list[Any]:
    """Return the values that occur more than once, each once, sorted.

    >>> repeated([9810, 9811, 9810])
    ['9810']
    """
    seen = [str(value) for value in values]
    return sorted({value for value in seen if seen.count(value) > 1})


class FilterModule:
    """What Ansible loads from this file."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "addresses_in": addresses_in,
            "edge_locations": edge_locations,
            "listeners": listeners,
            "present": present,
            "repeated": repeated,
            "services_on": services_on,
            "worker_targets": worker_targets,
        }
