"""Asking all members of the set at once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redis.exceptions import ResponseError

from image_editor_tools.redis.connection import UNANSWERED, Clients, is_refusal
from image_editor_tools.redis.members import Description, Node, Sentinel, State


def survey(described: Description) -> State:
    """Ask every node and every Sentinel."""
    clients = Clients(described)
    with ThreadPoolExecutor(len(described.addresses) + len(described.sentinel_addresses)) as pool:
        nodes = pool.map(lambda name: ask_node(clients, name), described.addresses)
        sentinels = pool.map(lambda name: ask_sentinel(clients, name), described.sentinel_addresses)
        return State(
            described,
            nodes={node.name: node for node in nodes},
            sentinels={sentinel.name: sentinel for sentinel in sentinels},
        )


def ask_node(clients: Clients, name: str) -> Node:
    """What a node says about itself."""
    try:
        with clients.node(name) as client:
            return read_node(name, client.info("replication", "keyspace", "persistence"))
    except UNANSWERED as error:
        return Node(name, error=str(error), refused=is_refusal(error))


def read_node(name: str, info: Mapping[str, Any]) -> Node:
    """A node's answer to INFO."""
    return Node(
        name,
        role=info["role"],
        follows=str(info.get("master_host", "")),
        link=info.get("master_link_status", ""),
        offset=info.get("slave_repl_offset") or info["master_repl_offset"],
        keys=sum(database["keys"] for key, database in info.items() if key.startswith("db")),
        persisted=info["aof_last_write_status"] == info["rdb_last_bgsave_status"] == "ok",
    )


def ask_sentinel(clients: Clients, name: str) -> Sentinel:
    """What a Sentinel says about the set."""
    try:
        with clients.sentinel(name) as client:
            return read_sentinel(name, client.sentinel_master(clients.described.name))
    except ResponseError as error:
        return Sentinel(name) if "No such master" in str(error) else Sentinel(name, error=str(error))
    except UNANSWERED as error:
        return Sentinel(name, error=str(error), refused=is_refusal(error))


def read_sentinel(name: str, watched: Mapping[str, Any]) -> Sentinel:
    """A Sentinel's answer to SENTINEL MASTER."""
    return Sentinel(name, primary=watched["ip"], flags=watched["flags"], others=watched["num-other-sentinels"])
