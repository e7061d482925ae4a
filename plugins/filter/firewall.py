"""Filters that turn who connects to whom into the firewall rules of a host. inventories/shared and role firewall use them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

Network = IPv4Network | IPv6Network

EVERYWHERE: list[Network] = [ip_network("0.0.0.0/0"), ip_network("::/0")]
ANYWHERE, INTERNET = "anywhere", "internet"  # internet: anywhere except the private networks, which the role's template refuses
FAMILIES = {4: ("ip", "ipv4"), 6: ("ip6", "ipv6")}
LINK_LOCAL: list[Network] = [ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "::ffff:169.254.0.0/112")]


def firewall_rules(
    connections: Iterable[Mapping[str, Any]], host: str, groups: Mapping[str, Iterable[str]], addresses: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return what the host lets in (``incoming``) and where it may go (``outgoing``), in the order of the connections.

    A connection goes ``from`` some ends ``to`` others, to TCP ``ports``. ``protocol`` names another protocol: udp, or vrrp, which
    has no ports, so ``ports`` holds its number as an IP protocol. An end is a group, a host, a network, or the word anywhere or
    internet. A host needs no rule for itself. A rule without networks lets nobody in.

    ``from`` may also give each end the ``accounts`` of its hosts that alone may connect, besides root; None lets all of them
    connect. A port of this host to which only such connections begin here is ``guarded``, because packets that stay on a host
    need no other rule.

    >>> postgres = {"process": "postgres", "to": ["postgresql"], "ports": [5432], "from": ["web"]}
    >>> groups = {"postgresql": ["db1"], "web": ["web1"]}
    >>> rules = firewall_rules([postgres], "db1", groups, {"db1": "10.0.0.1", "web1": "10.0.0.2"})
    >>> rules["incoming"][0]["peers"], rules["incoming"][0]["ipv4"], rules["outgoing"]
    (['web'], ['10.0.0.2'], [])
    >>> etcd = {"process": "etcd", "to": ["postgresql"], "ports": [2379], "from": {"postgresql": ["postgres"]}}
    >>> firewall_rules([etcd], "db1", groups, {"db1": "10.0.0.1"})["guarded"]
    [{'name': 'etcd', 'ports': [2379], 'accounts': ['postgres']}]
    """
    connections = list(connections)
    rules: dict[str, list[dict[str, Any]]] = {
        "incoming": [],
        "outgoing": [],
        "guarded": _guarded(connections, host, groups, addresses),
    }
    for connection in connections:
        for direction, here, there in (("incoming", "to", "from"), ("outgoing", "from", "to")):
            if host in _hosts(connection[here], groups, addresses):
                rules[direction].append(_rule(connection, list(connection[there]), host, groups, addresses))
                if direction == "outgoing":
                    rules[direction][-1]["accounts"] = _accounts(connection, host, groups, addresses)
    return rules


def _guarded(
    connections: Iterable[Mapping[str, Any]], host: str, groups: Mapping[str, Iterable[str]], addresses: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the ports of the host that only some of its own accounts may reach."""
    found: dict[tuple[str, tuple[int, ...]], list[list[str] | None]] = {}
    for connection in connections:
        ends = connection["from"]
        begins_here = not ends or host in _hosts(ends, groups, addresses)
        if begins_here and host in _hosts(connection["to"], groups, addresses):
            accounts = _accounts(connection, host, groups, addresses)
            found.setdefault((_name(connection), tuple(_ports(connection))), []).append(accounts)
    return [
        {"name": name, "ports": list(ports), "accounts": sorted({account for accounts in listed for account in accounts or ()})}
        for (name, ports), listed in found.items()
        if None not in listed
    ]


def _accounts(
    connection: Mapping[str, Any], host: str, groups: Mapping[str, Iterable[str]], addresses: Mapping[str, str]
) -> list[str] | None:
    """Return the accounts of the host that alone may connect, besides root. None: every account may."""
    ends = connection["from"]
    if not isinstance(ends, Mapping):
        return None
    listed = [accounts for end, accounts in ends.items() if host in _hosts([end], groups, addresses)]
    return None if None in listed else sorted({account for accounts in listed for account in accounts})


def _name(connection: Mapping[str, Any]) -> str:
    return str(connection.get("process") or connection["name"])


def _ports(connection: Mapping[str, Any]) -> list[int]:
    return sorted({int(port) for port in connection["ports"]})


def _rule(
    connection: Mapping[str, Any],
    peers: Sequence[str],
    host: str,
    groups: Mapping[str, Iterable[str]],
    addresses: Mapping[str, str],
) -> dict[str, Any]:
    found = {ip_network(addresses[peer]) for peer in _hosts(peers, groups, addresses) - {host}}
    found |= {network for peer in peers if peer not in groups and peer not in addresses for network in _networks(peer)}
    largest = [network for network in found if not _is_inside_another(network, found)]
    v4, v6 = (sorted(network for network in largest if network.version == version) for version in FAMILIES)
    return {
        "name": _name(connection),
        "protocol": str(connection.get("protocol", "tcp")),
        "ports": _ports(connection),
        "peers": [str(peer) for peer in peers],
        "internet": INTERNET in peers,
        "ipv4": [_text(network) for network in v4],
        "ipv6": [_text(network) for network in v6],
    }


def _hosts(ends: Iterable[str], groups: Mapping[str, Iterable[str]], addresses: Mapping[str, str]) -> set[str]:
    return {host for end in ends for host in groups.get(end, [end] if end in addresses else [])}


def _networks(end: str) -> list[Network]:
    return EVERYWHERE if end in (ANYWHERE, INTERNET) else [ip_network(end)]


def _is_inside_another(network: Network, others: Iterable[Network]) -> bool:
    """Whether another network contains this one. nftables refuses sets whose elements overlap."""
    return any(network != other and network.version == other.version and network.subnet_of(other) for other in others)


def _text(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def firewall_unknown(connections: Iterable[Mapping[str, Any]], groups: Container[str], hosts: Container[str]) -> list[str]:
    """Return every end that is no group, no host and no network, sorted.

    >>> firewall_unknown([{"to": ["web", "wbe"], "from": ["192.0.2.0/24", "192.0.2.1/24"]}], ["web"], [])
    ['192.0.2.1/24', 'wbe']
    """

    def is_unknown(end: str) -> bool:
        try:
            return end not in groups and end not in hosts and not _networks(end)
        except ValueError:
            return True

    return sorted({end for connection in connections for side in ("to", "from") for end in connection[side] if is_unknown(end)})


def firewall_admits(rules: Iterable[Mapping[str, Any]], address: str, port: int) -> bool:
    """Return whether the rules let a TCP connection of the address in to the port. ``rules``: ``incoming`` of firewall_rules.

    >>> ssh = {"protocol": "tcp", "ports": [22], "ipv4": ["192.0.2.0/24"], "ipv6": []}
    >>> firewall_admits([ssh], "192.0.2.7", 22), firewall_admits([ssh], "198.51.100.7", 22)
    (True, False)
    """
    source = ip_address(address)
    _, family = FAMILIES[source.version]
    fitting = [rule for rule in rules if rule["protocol"] == "tcp" and int(port) in rule["ports"]]
    return any(source in ip_network(network) for rule in fitting for network in rule[family])


def firewall_link_local(connections: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every end in ``to`` that has link-local addresses, sorted. The word internet has none.

    >>> firewall_link_local([{"to": ["web", "internet", "10.0.0.8", "169.254.169.254"]}])
    ['169.254.169.254']
    """

    def is_link_local(end: str) -> bool:
        try:
            networks = [] if end == INTERNET else _networks(end)
        except ValueError:  # a group or a host
            return False
        return any(local.version == network.version and local.overlaps(network) for local in LINK_LOCAL for network in networks)

    return sorted({end for connection in connections for end in connection["to"] if is_link_local(end)})


def firewall_own_hosts(entries: str | Iterable[str], clients: Sequence[str]) -> list[dict[str, Any]]:
    """Return a connection for each address in FETCH_ALLOWED_HOSTS (``host`` or ``host:port``). Names have no address here.

    >>> firewall_own_hosts(["images.example.com", "10.0.0.8:8080"], ["worker"])
    [{'name': 'own host', 'ports': [8080], 'to': ['10.0.0.8'], 'from': ['worker']}]
    """
    listed = entries.split(",") if isinstance(entries, str) else entries
    found = [own for entry in listed if (own := _address_and_ports(entry.strip()))]
    return [{"name": "own host", "ports": ports, "to": [address], "from": list(clients)} for address, ports in found]


def _address_and_ports(entry: str) -> tuple[str, list[int]] | None:
    host, _, port = entry.rpartition(":")
    if _is_address(entry):
        return entry, [80, 443]
    return (host, [int(port)]) if _is_address(host) and port.isdigit() else None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def nft_rules(rules: Iterable[Mapping[str, Any]], address: str) -> list[str]:
    """Return a line of nftables for each rule and family of addresses. ``address``: saddr for incoming rules, daddr for outgoing.

    >>> rule = {"name": "dns", "protocol": "udp", "ports": [53], "ipv4": ["10.0.0.1", "10.1.0.0/16"], "ipv6": []}
    >>> nft_rules([rule], "daddr")
    ['ip daddr { 10.0.0.1, 10.1.0.0/16 } udp dport { 53 } accept comment "dns"']
    """
    return [line for rule in rules for line in _lines(rule, address)]


def _lines(rule: Mapping[str, Any], address: str) -> Iterator[str]:
    ports = ", ".join(str(port) for port in rule["ports"])
    what = "meta l4proto" if rule["protocol"] == "vrrp" else f"{rule['protocol']} dport"
    for everywhere in EVERYWHERE:
        keyword, family = FAMILIES[everywhere.version]
        networks = list(rule[family])
        if networks and ports:
            all_of_them = networks == [str(everywhere)]
            match = f"meta nfproto {family}" if all_of_them else f"{keyword} {address} {{ {', '.join(networks)} }}"
            who = "" if rule.get("accounts") is None else f" meta skuid {_nft_accounts(rule['accounts'])}"
            yield f'{match} {what} {{ {ports} }}{who} accept comment "{rule["name"]}"'


def _nft_accounts(accounts: Iterable[str]) -> str:
    return f"{{ {', '.join(['root', *accounts])} }}"


def nft_guards(guarded: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line of nftables for each guarded port, for packets that stay on the host. ``guarded``: of firewall_rules.

    >>> nft_guards([{"name": "etcd", "ports": [2379], "accounts": ["postgres"]}])
    ['oifname "lo" tcp dport { 2379 } meta skuid != { root, postgres } jump blocked comment "etcd"']
    """
    return [
        f'oifname "lo" tcp dport {{ {", ".join(map(str, guard["ports"]))} }} meta skuid != {_nft_accounts(guard["accounts"])}'
        f' jump blocked comment "{guard["name"]}"'
        for guard in guarded
    ]


class FilterModule:
    """What Ansible loads from this file."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "firewall_admits": firewall_admits,
            "firewall_link_local": firewall_link_local,
            "firewall_own_hosts": firewall_own_hosts,
            "firewall_rules": firewall_rules,
            "firewall_unknown": firewall_unknown,
            "nft_guards": nft_guards,
            "nft_rules": nft_rules,
        }
