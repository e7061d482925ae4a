"""A forced failover: promote a replica of a dead primary although no majority of Sentinels can decide."""

from __future__ import annotations

from redis.exceptions import ResponseError

from image_editor_tools.errors import Refusal
from image_editor_tools.output import Output
from image_editor_tools.redis.connection import UNANSWERED, Clients
from image_editor_tools.redis.members import PRIMARY, REPLICA, State
from image_editor_tools.redis.switchover import preferred
from image_editor_tools.waiting import wait_for

SECONDS = 60  # for the promotion


def plan(state: State, to: str) -> tuple[str, str, str]:
    """Return the dead primary, the node to promote, and the Sentinel that promotes it. Raises Refusal if that is unsafe."""
    alive = [sentinel for sentinel in state.sentinels.values() if sentinel.primary]
    if not alive:
        raise Refusal("no Sentinel answers: start one first (systemctl start redis-sentinel on a Redis host)")
    old = state.described.name_of(alive[0].primary)
    if old in state.primaries:
        raise Refusal(f"{old} is alive and primary: use a switchover, which loses nothing")
    replicas = [node for node in state.nodes.values() if node.role == REPLICA and (not to or node.name == to)]
    if not replicas:
        raise Refusal(f"{to or 'no replica'} does not answer as a replica: nobody can be promoted")
    return old, max(replicas, key=lambda node: node.offset).name, alive[0].name


def failover(state: State, clients: Clients, to: str, check: bool, output: Output) -> dict[str, object]:
    """Promote a replica. Writes that the dead primary had not replicated yet are lost."""
    old, new, leader = plan(state, to)
    output.progress(f"{old} does not answer; {new} has the most of its data and would be promoted by the Sentinel on {leader}")
    if check:
        output.progress("check only: nothing was changed")
        return {"primary": "", "changed": False}
    sentinel = clients.sentinel(leader)

    def promoted() -> bool:
        with clients.node(new) as node:
            if node.role()[0] == PRIMARY:
                return True
        try:
            sentinel.sentinel_failover(state.described.name)
        except ResponseError as error:  # a failover is under way, or the Sentinel has not seen the replica's priority yet
            output.progress(f"{leader}: {error}")
        return False

    with preferred(clients, new):
        otherwise = f"Sentinel did not promote {new}: look at journalctl -u redis-sentinel on {leader}"
        wait_for(promoted, otherwise, SECONDS, every=2, retry=UNANSWERED)
    clients.tell(new, "CONFIG REWRITE", lambda node: node.config_rewrite())
    output.progress(f"{new} is primary")
    alive = sum(bool(sentinel.primary) for sentinel in state.sentinels.values())
    if alive < state.described.majority:
        output.progress(
            f"only {alive} of {len(state.sentinels)} Sentinels answer, so clients are held off. On every client host:"
        )
        output.progress(f"  image-editor-proxy pin {new}")
    return {"primary": new, "former": old, "changed": True}
