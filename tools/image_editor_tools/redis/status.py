"""The report of ``image-editor-redis status``. No input or output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from image_editor_tools import cli
from image_editor_tools.redis.members import PRIMARY, Description, Node, Sentinel, State


def values(state: State) -> dict[str, object]:
    """The report for programs."""
    return {
        "primary": state.named or "".join(state.primaries[:1]),
        "problems": state.problems(),
        "nodes": {name: asdict(node) for name, node in state.nodes.items()},
        "sentinels": {name: asdict(sentinel) for name, sentinel in state.sentinels.items()},
    }


def lines(state: State) -> Iterator[str]:
    """The report for people."""
    for node in state.nodes.values():
        yield f"node      {node.name:24} {_node(state.described, node)}"
    for sentinel in state.sentinels.values():
        yield f"sentinel  {sentinel.name:24} {_sentinel(state.described, sentinel)}"
    yield from cli.verdict(state.problems())


def _node(described: Description, node: Node) -> str:
    if node.error:
        return node.error
    role = "primary" if node.role == PRIMARY else f"replica of {described.name_of(node.follows)}, link {node.link}"
    return f"{role}; offset {node.offset}, {node.keys} keys"


def _sentinel(described: Description, sentinel: Sentinel) -> str:
    return sentinel.error or f"names {described.name_of(sentinel.primary) or 'nobody'}"
