"""The PostgreSQL cluster: its description, and what its members said when they were asked. No input or output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

PRIMARY, REPLICA = "primary", "replica"  # as Patroni itself says it
STREAMING = "streaming"
BEHIND = 16 * 2**20  # bytes that a replica may be behind; a WAL file


@dataclass(frozen=True)
class Description:
    """The cluster as role `postgresql` describes it in /etc/patroni/image-editor.json. ``me`` is the name of this host."""

    me: str
    scope: str
    nodes: Mapping[str, str]  # the address of each node
    patroni_port: int
    etcd: Mapping[str, str]  # the address of each member
    etcd_port: int
    ca: str
    certificate: str
    key: str

    @property
    def majority(self) -> int:
        """How many etcd members are more than half of all."""
        return len(self.etcd) // 2 + 1


@dataclass(frozen=True)
class Node:
    """What Patroni on one node says. ``error`` says why if it does not answer as it should."""

    name: str
    error: str = ""
    version: str = ""  # of Patroni
    role: str = ""
    state: str = ""
    replication: str = ""  # of a replica: `streaming` if all is well
    timeline: int = 0
    location: int = 0  # in the WAL, in bytes: written by a primary, or replayed by a replica
    synchronous: bool = False
    pending_restart: bool = False
    paused: bool = False
    hung: bool = False  # its loop does not run

    @property
    def is_primary(self) -> bool:
        return self.role == PRIMARY and not self.error


@dataclass(frozen=True)
class Member:
    """What an etcd member says about itself."""

    name: str
    error: str = ""
    has_leader: bool = False
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """The cluster, and what each member said. ``leader`` is the node that holds the lock in etcd; empty if none does."""

    described: Description
    leader: str = ""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    etcd: Mapping[str, Member] = field(default_factory=dict)

    @property
    def primaries(self) -> list[str]:
        """The nodes that say that they are primary."""
        return [node.name for node in self.nodes.values() if node.is_primary]

    @property
    def replicas(self) -> list[Node]:
        """The nodes that answer and are replicas."""
        return [node for node in self.nodes.values() if node.role == REPLICA and not node.error]

    @property
    def has_majority(self) -> bool:
        """Whether a majority of etcd members can decide."""
        return sum(member.has_leader for member in self.etcd.values()) >= self.described.majority

    def behind(self, replica: Node) -> int:
        """Bytes that a replica is behind the primary."""
        primary = self.nodes.get(self.leader)
        return max(primary.location - replica.location, 0) if primary and primary.is_primary else 0

    def problems(self) -> list[str]:
        """What an operator should know, worst first."""
        return [*self._leadership(), *self._silent(), *self._replication(), *self._alarms()]

    def _leadership(self) -> Iterator[str]:
        if not self.has_majority:
            yield "etcd has no majority: no replica can be promoted"
        elif not self.leader:
            yield "no node holds the lock in etcd: clients are held off"
        if len(self.primaries) != 1:
            yield f"{len(self.primaries)} nodes say that they are primary: {', '.join(self.primaries) or 'none'}"
        elif self.leader and self.primaries != [self.leader]:
            yield f"{self.leader} holds the lock in etcd, but {self.primaries[0]} says that it is primary"
        if any(node.paused for node in self.nodes.values()):
            yield "Patroni is paused: it promotes nobody (patronictl -c /etc/patroni/config.yml resume)"

    def _silent(self) -> Iterator[str]:
        for node in self.nodes.values():
            if node.hung and not node.error:
                yield f"Patroni on {node.name} hangs: it is killed and started again within a minute"
        for kind, members in (("node", self.nodes), ("etcd member", self.etcd)):
            for member in members.values():
                if member.error:
                    yield f"{kind} {member.name} does not answer: {member.error}"

    def _replication(self) -> Iterator[str]:
        for node in self.nodes.values():
            if not node.error and node.role not in (PRIMARY, REPLICA):
                yield f"node {node.name} runs no PostgreSQL: it is {node.state or 'not set up'}"
        primary = self.nodes.get(self.leader)
        for replica in self.replicas:
            if replica.replication != STREAMING:
                yield f"replica {replica.name} does not stream from the primary: it is {replica.replication or replica.state}"
            elif primary and primary.is_primary and replica.timeline != primary.timeline:
                yield f"replica {replica.name} is on timeline {replica.timeline}, the primary on {primary.timeline}"
            elif (bytes_behind := self.behind(replica)) > BEHIND:
                yield f"replica {replica.name} is {bytes_behind >> 20} MiB behind"
        if self.replicas and not any(replica.synchronous for replica in self.replicas):
            yield "no replica is synchronous: a failover now could lose writes, so Patroni would promote nobody"

    def _alarms(self) -> Iterator[str]:
        for member in self.etcd.values():
            yield from (f"etcd member {member.name} reports: {alarm}" for alarm in member.alarms)
