"""Another node becomes primary: planned, which loses no write, or forced."""

from __future__ import annotations

import time

from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.output import Output
from image_editor_tools.postgresql.connection import Clients, ask_node, is_sound, survey
from image_editor_tools.postgresql.members import State
from image_editor_tools.waiting import wait_for

ANSWER = 60.0  # seconds in which Patroni reports the result
SECONDS = 120  # until the new primary and the old one are sound


def plan(state: State, to: str) -> tuple[str, str]:
    """Return the primary and the node that replaces it. Raises Refusal if a switchover could lose a write."""
    if to and to not in state.nodes:
        raise Refusal(f"{to} is not a node of the cluster: {', '.join(state.nodes)}")
    if problems := state.problems():
        raise Refusal("unsafe, nothing was changed: " + "; ".join(problems))
    synchronous = [replica.name for replica in state.replicas if replica.synchronous]
    if to and to not in synchronous:
        raise Refusal(f"{to} could lack writes, nothing was changed: the synchronous replica is {', '.join(synchronous)}")
    return state.leader, to or synchronous[0]


def switchover(state: State, clients: Clients, to: str, check: bool, output: Output) -> dict[str, object]:
    """Make ``to`` the primary, or the synchronous replica if it is empty. With ``check``, only say what would be done."""
    if to and state.leader == to and state.primaries == [to]:
        output.progress(f"{to} is primary already: nothing to do")
        return {"primary": to, "changed": False}
    old, new = plan(state, to)
    output.progress(f"{old} -> {new}: both are sound, and a majority of etcd members answers")
    if check:
        output.progress("check only: nothing was changed")
        return {"primary": old, "changed": False}
    began = time.monotonic()
    output.progress(clients.patroni(old, "/switchover", {"leader": old, "candidate": new}, timeout=ANSWER).strip())
    _settle(clients, new, old)
    output.progress(f"{new} is primary; {old} is its replica again after {time.monotonic() - began:.1f} s")
    return {"primary": new, "former": old, "changed": True}


def plan_forced(state: State, to: str) -> str:
    """Return the node to promote. Raises Refusal if the primary lives or nobody can be promoted."""
    if state.primaries:
        raise Refusal(f"{state.primaries[0]} is alive and primary: use a switchover, which loses nothing")
    if not state.has_majority:
        raise Refusal("etcd has no majority: start etcd on a majority of its hosts first (systemctl start etcd)")
    replicas = [replica for replica in state.replicas if not to or replica.name == to]
    if not replicas:
        raise Refusal(f"{to or 'no replica'} does not answer as a replica: nobody can be promoted")
    return max(replicas, key=lambda replica: (replica.synchronous, replica.location)).name


def failover(state: State, clients: Clients, to: str, check: bool, output: Output) -> dict[str, object]:
    """Promote a replica of a dead primary. Writes that the replica lacks are lost."""
    new = plan_forced(state, to)
    output.progress(f"no primary answers; {new} has the most of its data and would be promoted")
    if check:
        output.progress("check only: nothing was changed")
        return {"primary": "", "changed": False}
    output.progress(clients.patroni(new, "/failover", {"candidate": new}, timeout=ANSWER).strip())
    _settle(clients, new)
    output.progress(f"{new} is primary")
    return {"primary": new, "former": state.leader, "changed": True}


def _settle(clients: Clients, new: str, old: str = "") -> None:
    """Wait until ``new`` is the primary, and ``old`` its replica."""

    def settled() -> bool:
        state = survey(clients)
        return state.leader == new and all(is_sound(ask_node(clients, name), new) for name in (new, old) if name)

    what = f"{new} is not the primary" + (f", or {old} does not follow it" if old else "")
    wait_for(settled, f"{what}: look at `image-editor-postgresql status`", SECONDS, error=Failure)
