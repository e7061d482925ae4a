"""Who is primary when role `redis` runs, and what the role must refuse. No input or output."""

from __future__ import annotations

from collections.abc import Collection

from image_editor_tools.errors import Refusal
from image_editor_tools.redis.members import REPLICA, State


def choose(state: State, bootstrap: str, discard: str = "", wanted: Collection[str] = ()) -> str:
    """Return the primary. ``bootstrap``, the inventory's primary, counts only if no member knows better.

    ``discard`` names the node whose data may be lost. ``wanted`` are the nodes of the inventory, if ``state`` has more.
    Raises Refusal if following the inventory could discard data.
    """
    wanted = wanted or state.described.addresses
    _refuse_untrusted_members(state)
    rivals = [name for name in state.primaries if name != discard]
    primary = _live_primary(state, rivals) or bootstrap
    if primary not in wanted:
        raise Refusal(
            f"{primary} is the live primary, but not in redis_nodes ({', '.join(wanted)}). Put it back, or switch over before it "
            f"leaves: playbooks/redis_switchover.yml -e redis_switchover_to={next(iter(wanted))}"
        )
    for name in rivals:
        if name != primary and state.nodes[name].keys:
            raise Refusal(
                f"{name} says that it is primary and holds {state.nodes[name].keys} keys, but {primary} is the primary. If it is "
                f"an old primary, Sentinel makes it a replica within seconds: run this again. To discard its data: "
                f"-e redis_discard_confirm={name}"
            )
    return primary


def _live_primary(state: State, rivals: list[str]) -> str:
    """The primary as the members know it; empty if they do not."""
    if state.named:
        return state.named
    if len(rivals) > 1:
        raise Refusal(
            f"{' and '.join(rivals)} both say that they are primary, and no majority of Sentinels decides. Compare them "
            f"(`image-editor-redis status`), then name the one whose data may be lost: -e redis_discard_confirm=<host>"
        )
    if rivals:
        return rivals[0]
    followed = {state.described.name_of(node.follows) for node in state.nodes.values() if node.role == REPLICA}
    return followed.pop() if len(followed) == 1 else ""


def _refuse_untrusted_members(state: State) -> None:
    for member in state.members:
        if not member.refused:
            continue
        if "CERTIFICATE_VERIFY_FAILED" in member.error:
            raise Refusal(
                f"{member.name} answers, but its certificate is not valid for its address, or not of the CA "
                f"{state.described.ca} ({member.error})"
            )
        raise Refusal(
            f"{member.name} answers, but refuses the admin's password: redis_passwords.admin is not the one that it knows "
            f"({member.error})"
        )


def refuse_to_discard(state: State, primary: str, discard: str, *, set_up: bool, data_directory: str) -> None:
    """Raise Refusal if a node that the role has never set up would overwrite data: its own, or its replicas'.

    ``set_up``: the role has set this host's node up before. ``data_directory``: where this host has data, empty if it has none.
    """
    me = state.described.me
    if set_up or me not in state.described.addresses:
        return
    if primary != me and discard != me and data_directory:
        raise Refusal(
            f"{me} has data in {data_directory} and would lose it as a replica of {primary}. "
            f"To discard it: -e redis_discard_confirm={me}"
        )
    for node in state.nodes.values():
        if primary == me and node.name not in (me, discard) and node.keys:
            raise Refusal(
                f"{me} is empty and would become the primary of {node.name}, which holds {node.keys} keys and would lose "
                f"them. Promote {node.name} (docs/failover.md), or discard its data: -e redis_discard_confirm={node.name}"
            )
