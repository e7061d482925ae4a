"""The Redis set: its description, and what its members said when they were asked. No input or output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

PRIMARY, REPLICA = "master", "slave"  # as Redis itself says it
# A margin for the checks themselves, which take some milliseconds each, and more on a busy host. Seconds.
CHECK_MARGIN = 0.3


@dataclass(frozen=True)
class Description:
    """The set as role `redis` describes it in /etc/redis/image-editor.json. ``me`` is the name of this host."""

    me: str
    name: str
    port: int
    sentinel_port: int
    ca: str
    addresses: Mapping[str, str]
    sentinel_addresses: Mapping[str, str]
    proxy_check_interval: int  # milliseconds, as in role proxy
    proxy_check_interval_changing: int  # milliseconds, as in role proxy

    def name_of(self, address: str) -> str:
        """The name of the node with this address; the address itself if no node has it."""
        return next((name for name, known in self.addresses.items() if known == address), address)

    @property
    def majority(self) -> int:
        """How many Sentinels are more than half of all."""
        return len(self.sentinel_addresses) // 2 + 1

    @property
    def proxies_notice(self) -> float:
        """Seconds after which every proxy has left a primary that the Sentinels no longer name.

        A proxy asks the Sentinels every check interval. After that, two checks of the node must fail: the first is due within
        a check interval, the second follows after the interval for servers that are changing.
        """
        return (2 * self.proxy_check_interval + self.proxy_check_interval_changing) / 1000 + CHECK_MARGIN

    def widened(self, former: Mapping[str, Any] | None) -> Description:
        """This set together with members that only the ``former`` description has: a member that leaves is still asked.

        New Sentinels are left out. They know nothing yet, and would only make a majority harder to find.
        """
        if not former:
            return self
        sentinels = {name: self.sentinel_addresses.get(name, at) for name, at in former["sentinel_addresses"].items()}
        return replace(
            self,
            addresses=former["addresses"] | dict(self.addresses),
            sentinel_addresses=sentinels or self.sentinel_addresses,
        )


@dataclass(frozen=True)
class Node:
    """What a data node says about itself. ``error`` says why if it does not answer as it should."""

    name: str
    error: str = ""
    refused: bool = False  # it answers, but the certificate or the password is wrong
    role: str = ""
    follows: str = ""  # address of its primary
    link: str = ""
    offset: int = 0
    keys: int = 0
    persisted: bool = True


@dataclass(frozen=True)
class Sentinel:
    """What a Sentinel says. ``primary`` is an address; it is empty while the Sentinel watches nothing."""

    name: str
    error: str = ""
    refused: bool = False
    primary: str = ""
    flags: str = ""
    others: int = 0


@dataclass(frozen=True)
class State:
    """The set, and what each member said."""

    described: Description
    nodes: Mapping[str, Node] = field(default_factory=dict)
    sentinels: Mapping[str, Sentinel] = field(default_factory=dict)

    @property
    def members(self) -> list[Node | Sentinel]:
        """All nodes and Sentinels."""
        return [*self.nodes.values(), *self.sentinels.values()]

    @property
    def named(self) -> str:
        """The node that a majority of all Sentinels names; empty if there is none."""
        votes = [sentinel.primary for sentinel in self.sentinels.values() if sentinel.primary]
        majority = [address for address in set(votes) if votes.count(address) >= self.described.majority]
        return self.described.name_of(majority[0]) if majority else ""

    @property
    def primaries(self) -> list[str]:
        """The nodes that say that they are primary."""
        return [node.name for node in self.nodes.values() if node.role == PRIMARY]

    def problems(self) -> list[str]:
        """What an operator should know, worst first."""
        return [*self._disagreements(), *self._silent_members(), *self._unsound_members()]

    def _disagreements(self) -> list[str]:
        found = []
        if self.sentinels and not self.named:
            found.append("no majority of Sentinels names a primary: clients are held off")
        if len(self.primaries) != 1:
            found.append(f"{len(self.primaries)} nodes say that they are primary: {', '.join(self.primaries) or 'none'}")
        elif self.named and self.primaries != [self.named]:
            found.append(f"Sentinels name {self.named}, but {self.primaries[0]} says that it is primary")
        return found

    def _silent_members(self) -> list[str]:
        return [
            f"{'node' if isinstance(member, Node) else 'Sentinel'} {member.name} does not answer: {member.error}"
            for member in self.members
            if member.error
        ]

    def _unsound_members(self) -> list[str]:
        found = []
        for node in self.nodes.values():
            if node.role == REPLICA and node.link != "up":
                found.append(f"replica {node.name} is not connected to {self.described.name_of(node.follows)}")
            if not node.error and not node.persisted:
                found.append(f"node {node.name} could not write to its disk")
        others = len(self.described.sentinel_addresses) - 1
        for sentinel in self.sentinels.values():
            if not sentinel.error and sentinel.others != others:
                found.append(f"Sentinel {sentinel.name} knows {sentinel.others} others, not {others}")
        return found
