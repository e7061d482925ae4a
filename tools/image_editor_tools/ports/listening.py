"""The ports on which programs of this host listen, as ss lists them. For a raw socket, the number of its protocol is the port."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from image_editor_tools import shell

# The protocols of raw sockets that serve other hosts, by number. Others, such as ICMP of a network manager, are left out.
RAW = {112: "vrrp"}


@dataclass(frozen=True)
class Listener:
    """A port and the programs that listen on it."""

    port: int
    protocol: str
    programs: tuple[str, ...]
    from_outside: bool  # false: on loopback addresses only


def on_this_host() -> list[Listener]:
    """Return the listeners of this host, by port."""
    return listeners(shell.run("ss", "--no-header", "--listening", "--tcp", "--udp", "--raw", "--numeric", "--processes"))


def listeners(sockets: str) -> list[Listener]:
    """Read the listeners from the output of ss, one for each port and protocol."""
    found: dict[tuple[int, str], tuple[set[str], set[bool]]] = {}
    for line in sockets.splitlines():
        protocol, _state, _received, _sent, local, *_ = line.split()
        address, _, port = local.rpartition(":")
        if protocol == "raw":
            if int(port) not in RAW:
                continue
            protocol = RAW[int(port)]
        programs, outside = found.setdefault((int(port), protocol), (set(), set()))
        programs |= set(re.findall(r'\("([^"]+)"', line))
        outside.add(not _is_loopback(address))
    return [Listener(*key, tuple(sorted(programs)), True in outside) for key, (programs, outside) in sorted(found.items())]


def _is_loopback(address: str) -> bool:
    bare = address.partition("%")[0].strip("[]")
    return bare != "*" and ip_address(bare).is_loopback
