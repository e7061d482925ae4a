"""A planned switchover: another node becomes primary, and no acknowledged write is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis import Redis

from image_editor_tools.errors import Refusal
from image_editor_tools.output import Output
from image_editor_tools.redis.connection import UNANSWERED, Clients
from image_editor_tools.redis.members import State
from image_editor_tools.redis.save import save
from image_editor_tools.waiting import wait_for

PAUSE = 10.0  # seconds for which writes are paused at most; renewed while a switchover needs it
BEHIND = 64 * 2**20  # bytes that the replica may be behind when a switchover begins
PREFERRED = 1  # replica-priority of the node to promote: Sentinel promotes the replica with the lowest
# Milliseconds since a Sentinel last asked the replica for INFO, at which it will see a promotion soonest.
IN_PHASE = range(350, 551)


def plan(state: State, to: str) -> tuple[str, str]:
    """Return the primary and the node that replaces it. Raises Refusal if a switchover could lose a write."""
    if problems := state.problems():
        raise Refusal("unsafe, nothing was changed: " + "; ".join(problems))
    if not state.sentinels:
        raise Refusal("there is no Sentinel, so there is no replica to switch over to")
    old = state.named
    replicas = {node.name: node for node in state.nodes.values() if node.name != old}
    if to and to not in replicas:
        raise Refusal(f"{to} is not a node of the set: {', '.join(state.nodes)}")
    if not replicas:
        raise Refusal("there is no replica to switch over to")
    if any("failover" in sentinel.flags or "down" in sentinel.flags for sentinel in state.sentinels.values()):
        raise Refusal("a failover is under way, nothing was changed")
    new = replicas[to] if to else max(replicas.values(), key=lambda node: node.offset)
    if (behind := state.nodes[old].offset - new.offset) > BEHIND:
        raise Refusal(f"{new.name} is {behind >> 20} MiB behind {old}, nothing was changed: wait until it has caught up")
    return old, new.name


def is_primary_already(state: State, to: str) -> bool:
    """Whether the node ``to`` is the only primary already, and the Sentinels name it."""
    return bool(to) and state.primaries == [to] and (state.named == to or not state.sentinels)


def switchover(state: State, clients: Clients, to: str, check: bool, output: Output) -> dict[str, object]:
    """Make ``to`` the primary, or the best replica if it is empty. With ``check``, only say what would be done."""
    if is_primary_already(state, to):
        output.progress(f"{to} is primary already: nothing to do")
        return {"primary": to, "changed": False}
    old, new = plan(state, to)
    count = len(state.sentinels)
    output.progress(f"{old} -> {new}: primary and replica are sound, {count} of {count} Sentinels agree")
    if check:
        output.progress("check only: nothing was changed")
        return {"primary": old, "changed": False}
    with clients.node(old) as node:
        save(node, old)
    output.progress(f"backup: {old} has saved its data")
    with preferred(clients, new):
        try:
            _promote(clients, old, new, output)
            # Every Sentinel names the new primary, so every proxy leads its clients away from the old one at its next checks.
            # Writes stay paused until then: a client that the old primary cuts off earlier comes back before its proxy knows.
            time.sleep(clients.described.proxies_notice)
            address, port = clients.described.addresses[new], clients.described.port
            clients.tell(old, "REPLICAOF", lambda node: node.replicaof(address, port))
            clients.tell(old, "CLIENT KILL", lambda node: node.client_kill_filter(_type="normal"))
        finally:
            clients.tell(old, "CLIENT UNPAUSE", lambda node: node.client_unpause())
    for name in (old, new):
        clients.tell(name, "CONFIG REWRITE", lambda node: node.config_rewrite())
    wait_for(lambda: is_connected(clients, old), f"{old} does not follow {new}", 30, retry=UNANSWERED)
    output.progress(f"{new} is primary; {old} is its replica and up to date")
    return {"primary": new, "former": old, "changed": True}


def is_connected(clients: Clients, name: str) -> bool:
    """Whether a node is a replica that is connected to its primary."""
    with clients.node(name) as node:
        return node.info("replication").get("master_link_status") == "up"


@contextmanager
def preferred(clients: Clients, name: str) -> Iterator[None]:
    """Have Sentinel prefer a replica, and give it its own priority back at the end."""
    with clients.node(name) as node:
        before = node.config_get("replica-priority")["replica-priority"]
    clients.tell(name, "CONFIG SET", lambda node: node.config_set("replica-priority", PREFERRED))
    try:
        yield
    finally:
        clients.tell(name, "CONFIG SET", lambda node: node.config_set("replica-priority", before))


def _promote(clients: Clients, old: str, new: str, output: Output) -> None:
    """Pause writes, wait until the replica has everything, have Sentinel promote it, and wait until all Sentinels name it."""
    described = clients.described
    primary, replica = clients.node(old), clients.node(new)
    sentinels = [clients.sentinel(name) for name in described.sentinel_addresses]
    leader = _sentinel_in_phase(sentinels, described.name, described.addresses[new])
    began = renewed = time.monotonic()
    primary.client_pause(int(PAUSE * 1000), all=False)
    offset = primary.info("replication")["master_repl_offset"]
    wait_for(
        lambda: replica.info("replication").get("slave_repl_offset", 0) >= offset,
        f"{new} did not catch up; writes go on at {old}, nothing was changed",
        PAUSE / 2,
        every=0.01,
        retry=UNANSWERED,
    )
    leader.sentinel_failover(described.name)

    def switched() -> bool:
        nonlocal renewed
        if time.monotonic() - renewed > PAUSE / 4:
            clients.tell(old, "CLIENT PAUSE", lambda node: node.client_pause(int(PAUSE * 1000), all=False))
            renewed = time.monotonic()
        named = {sentinel.sentinel_get_master_addr_by_name(described.name) for sentinel in sentinels}
        return named == {(described.addresses[new], described.port)}

    wait_for(
        switched,
        f"the Sentinels did not agree on {new}: look at `image-editor-redis status`",
        3 * PAUSE,
        every=0.02,
        retry=UNANSWERED,
    )
    output.progress(f"{new} was promoted within {time.monotonic() - began:.2f} s, in which writes waited")


def _sentinel_in_phase(sentinels: Iterable[Redis], name: str, address: str) -> Redis:
    """Wait for a Sentinel that will see the promotion soonest, and return it.

    A Sentinel learns of a promotion by INFO, which it asks once a second during a failover. A Sentinel that has not asked
    for long asks at once, some 0.3 s too early, and then a second later. A Sentinel that has asked half a second ago asks
    next just after the promotion. Writes are not paused yet, so waiting for it costs nothing.
    """
    deadline = time.monotonic() + 3 * PAUSE
    while time.monotonic() < deadline:
        for sentinel in sentinels:
            if any(is_in_phase(replica, address) for replica in sentinel.sentinel_slaves(name)):
                return sentinel
        time.sleep(0.05)
    raise Refusal("no Sentinel looks at the replica, nothing was changed: look at journalctl -u redis-sentinel")


def is_in_phase(replica: Mapping[str, Any], address: str) -> bool:
    """Whether a Sentinel knows the replica's priority and has asked it about half a second ago."""
    return replica["ip"] == address and replica["slave-priority"] == PREFERRED and replica["info-refresh"] in IN_PHASE
