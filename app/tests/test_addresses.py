"""Only global unicast addresses are public, however one address is embedded in another."""

import csv
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_editor import addresses, http_client
from image_editor.addresses import is_public

INSIDE = ["10.0.0.5", "100.100.100.200", "127.0.0.1", "169.254.169.254", "192.168.1.1", "168.63.129.16", "224.0.0.251"]
ISATAP = ["2606:4700::5efe:{}", "2606:4700::200:5efe:{}"]
EMBEDDED = [*ISATAP, "64:ff9b::{}", "64:ff9b:1::{}", "::ffff:{}", "::{}", "::ffff:0:{}"]


def teredo(v4: str) -> str:
    """The client's address, inverted, in the last 32 bits."""
    return str(IPv6Address(int(IPv6Address("2001:0:808:808::")) | int(IPv4Address(v4)) ^ 0xFFFFFFFF))


def six_to_four(v4: str) -> str:
    return str(IPv6Address(int(IPv6Address("2002::1")) | int(IPv4Address(v4)) << 80))


@pytest.mark.parametrize("address", ["8.8.8.8", "168.63.129.15", "223.255.255.254", "2606:4700::1111", "2a00:1450::1"])
def test_a_global_unicast_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("form", [*ISATAP, "64:ff9b::{}"])
def test_a_public_address_that_is_embedded_in_a_routed_one_is_public(form: str) -> None:
    assert is_public(IPv6Address(form.format("8.8.8.8")))


@pytest.mark.parametrize("v4", INSIDE)
def test_an_address_inside_is_not_public_in_any_embedding(v4: str) -> None:
    assert not is_public(IPv4Address(v4))
    for address in (*(form.format(v4) for form in EMBEDDED), teredo(v4), six_to_four(v4)):
        assert not is_public(IPv6Address(address)), address


@pytest.mark.parametrize("registry", addresses.REGISTRIES, ids=lambda path: path.stem)
def test_no_block_of_a_special_purpose_registry_is_public(registry: Any) -> None:
    """The exception, 64:ff9b::/96, is as public as the IPv4 address in it: here the first and the last."""
    with registry.open(newline="") as file:
        rows = [block for row in csv.DictReader(file) for block in row["Address Block"].split(",")]
    assert len(rows) >= 25
    for row in rows:
        block = ip_network(row.split()[0])
        assert not is_public(block[0]), row
        assert not is_public(block[-1]), row


@pytest.mark.parametrize("address", ["::", "fec0::1", "feff::1", "ff0e::1", "4000::1", "1fff::1", "fe80::1%eth0"])
def test_an_ipv6_address_outside_global_unicast_is_not_public(address: str) -> None:
    assert not is_public(IPv6Address(address))


@given(st.ip_addresses() | st.ip_addresses(network="2000::/3"))
@example(ip_address("2001:20::1"))
@example(ip_address("64:ff9b::100:0"))
def test_what_python_calls_private_is_not_public(address: IPv4Address | IPv6Address) -> None:
    """The standard library has the registries as well, in the state of its release."""
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved or address in addresses.NAT64, "the rest of ::/8 is reserved"


@pytest.mark.parametrize("host", [*INSIDE, "0x7f.1", "2130706433", "127.1", *(f"[{form}]" for form in EMBEDDED)])
def test_an_address_in_a_url_is_judged_without_a_look_up(host: str) -> None:
    with pytest.raises(http_client.Refused, match="no public address"):
        http_client.check_url(f"http://{host.format('10.0.0.5')}/")
