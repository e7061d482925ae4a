"""Which addresses are public: the only ones that are opened when a client names a host.

The CSV files are IANA's special-purpose address registries, in the form in which IANA publishes them. They were read on
2026-07-27. IANA's last update before that was on 2025-10-09. To update them, replace the files and these dates:

- https://www.iana.org/assignments/iana-ipv4-special-registry/iana-ipv4-special-registry-1.csv
- https://www.iana.org/assignments/iana-ipv6-special-registry/iana-ipv6-special-registry-1.csv
"""

import csv
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path

REGISTRIES = [Path(__file__).parent / f"iana-{version}-special-registry-1.csv" for version in ("ipv4", "ipv6")]
MULTICAST = ip_network("224.0.0.0/4")  # of IPv6, it is outside GLOBAL_UNICAST
# Inside Azure it is the platform's agent: https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
AZURE = ip_network("168.63.129.16/32")
# IANA assigns unicast addresses from this block only: https://www.iana.org/assignments/ipv6-address-space
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: a translator sends it on to the IPv4 address in the last 32 bits


def _blocks() -> Iterator[IPv4Network | IPv6Network]:
    for registry in REGISTRIES:
        with registry.open(newline="") as file:
            for row in csv.DictReader(file):
                without_footnotes = re.sub(r"\[\d+\]", "", row["Address Block"])
                yield from (ip_network(block.strip()) for block in without_footnotes.split(","))


# The registries say of some blocks that they are globally reachable. None of those holds a web server.
SPECIAL = (*_blocks(), MULTICAST, AZURE)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is global unicast. An IPv4 address inside an IPv6 address must be public as well."""
    if isinstance(address, IPv6Address):
        last = IPv4Address(int(address) & 0xFFFFFFFF)
        if address in NAT64:
            return is_public(last)
        if address not in GLOBAL_UNICAST or (_is_isatap(address) and not is_public(last)):
            return False
    return not any(address in block for block in SPECIAL)


def _is_isatap(address: IPv6Address) -> bool:
    """RFC 5214: the interface identifier is 0000:5efe or 0200:5efe, and an IPv4 address to which packets are sent."""
    return int(address) >> 32 & 0xFDFFFFFF == 0x5EFE
