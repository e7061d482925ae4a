"""Giving this host's node and Sentinel their place in the set. Role `redis` runs both commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_editor_tools.redis.connection import UNANSWERED, Clients
from image_editor_tools.redis.discovery import ask_sentinel
from image_editor_tools.redis.members import PRIMARY, REPLICA
from image_editor_tools.waiting import wait_for

SENTINEL_COMMANDS = Path("/etc/redis/image-editor-sentinel.commands")
START = 30  # seconds for Redis or Sentinel to answer after its start
SYNCHRONISATION = 60  # seconds for a new replica to be connected


def follows(info: Mapping[str, Any], address: str) -> bool:
    """Whether INFO says that the node is a replica of the node with this address."""
    return (info["role"], str(info.get("master_host"))) == (REPLICA, address)


def in_place(info: Mapping[str, Any], is_primary: bool) -> bool:
    """Whether INFO says that the node is primary, or a replica that is connected to its primary."""
    return info["role"] == PRIMARY if is_primary else info.get("master_link_status") == "up"


def join(clients: Clients, primary: str) -> bool:
    """Make this host's node the primary's replica, unless it is the primary, and wait until it is in place.

    Returns whether that took a command.
    """
    described = clients.described
    me, is_primary = described.me, described.me == primary
    node = wait_for(lambda: clients.node(me), f"{me}: Redis does not answer", START, retry=UNANSWERED)
    changed = not is_primary and not follows(node.info("replication"), described.addresses[primary])
    if changed:
        node.replicaof(described.addresses[primary], described.port)
        node.config_rewrite()
    wanted = "the primary" if is_primary else f"a connected replica of {primary}"
    wait_for(
        lambda: in_place(node.info("replication"), is_primary),
        f"{me} is not {wanted}; look at journalctl -u redis-server on both",
        SYNCHRONISATION,
        retry=UNANSWERED,
    )
    return changed


def watch(clients: Clients, primary: str, apply: bool) -> bool:
    """Have this host's Sentinel watch the set. With ``apply``, tell a Sentinel that watches already its changed settings.

    Returns whether that took a command.
    """
    described = clients.described
    me = described.me
    sentinel = wait_for(lambda: clients.sentinel(me), f"{me}: Sentinel does not answer", START, retry=UNANSWERED)
    watches = bool(ask_sentinel(clients, me).primary)
    if watches and not apply:
        return False
    if not watches:
        sentinel.sentinel_monitor(described.name, described.addresses[primary], described.port, described.majority)
    for command in read_commands(SENTINEL_COMMANDS.read_text()):
        sentinel.execute_command(*command)
    return True


def read_commands(text: str) -> list[list[str]]:
    """The commands of a file, one on each line; lines that begin with # are comments."""
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]
