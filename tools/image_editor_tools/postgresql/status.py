"""The report of ``image-editor-postgresql status``. No input or output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from image_editor_tools import cli
from image_editor_tools.postgresql.members import Member, Node, State


def values(state: State) -> dict[str, object]:
    """The report for programs."""
    return {
        "primary": state.leader,
        "problems": state.problems(),
        "nodes": {name: asdict(node) for name, node in state.nodes.items()},
        "etcd": {name: asdict(member) for name, member in state.etcd.items()},
    }


def lines(state: State) -> Iterator[str]:
    """The report for people."""
    for node in state.nodes.values():
        yield f"node      {node.name:24} {_node(state, node)}"
    for member in state.etcd.values():
        yield f"etcd      {member.name:24} {_member(member)}"
    yield from cli.verdict(state.problems())


def _node(state: State, node: Node) -> str:
    if node.error:
        return node.error
    restart = "; a changed setting needs a restart" if node.pending_restart else ""
    if node.is_primary:
        return f"primary; {node.state}, timeline {node.timeline}{restart}"
    kind = "synchronous replica" if node.synchronous else "replica"
    return f"{kind}; {node.replication or node.state}, timeline {node.timeline}, {state.behind(node)} bytes behind{restart}"


def _member(member: Member) -> str:
    return member.error or ("in a majority" if member.has_leader else "without a majority")
