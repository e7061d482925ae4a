"""Redis sets in any state that a test needs."""

from __future__ import annotations

from image_editor_tools.redis.members import Description, Node, Sentinel, State

ADDRESSES = {"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"}
SILENT = ("silent", "")


def description(nodes=ADDRESSES, sentinels=ADDRESSES, me="a") -> Description:
    """The set as role redis describes it."""
    return Description(
        me=me,
        name="image-editor",
        port=6380,
        sentinel_port=26379,
        ca="/ca.crt",
        addresses=dict(nodes),
        sentinel_addresses=dict(sentinels),
        proxy_check_interval=500,
        proxy_check_interval_changing=200,
    )


def state(nodes: dict[str, tuple[str, str]], votes: str = "", keys: dict[str, int] | None = None, me: str = "a") -> State:
    """A set in which members give these answers.

    ``nodes``: the role of each node, and the node that it follows. Any role other than ``master`` and ``slave`` is the error of a
    node that does not answer. ``votes``: one letter for each of the Sentinels a, b and c: the node that the Sentinel names as
    primary. A Sentinel with the letter ``-``, or without a letter, does not answer.
    """
    found = {}
    for name, (role, follows) in nodes.items():
        if role in ("master", "slave"):
            found[name] = Node(
                name, role=role, follows=ADDRESSES.get(follows, follows), link="up", keys=(keys or {}).get(name, 0)
            )
        else:
            found[name] = Node(name, error=role, refused=role.startswith("refused"))
    sentinels = {
        name: Sentinel(name, error="silent")
        if vote == "-"
        else Sentinel(name, primary=ADDRESSES.get(vote, ""), flags="master", others=2)
        for name, vote in zip(ADDRESSES, votes.ljust(3, "-"), strict=True)
    }
    return State(description({name: ADDRESSES[name] for name in nodes}, me=me), found, sentinels)
