"""How image-editor-redis decides who is primary, from the answers of nodes and Sentinels."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from redis_specimens import ADDRESSES, SILENT, description, state

from image_editor_tools.errors import Refusal
from image_editor_tools.redis import failover, switchover
from image_editor_tools.redis.decision import choose, refuse_to_discard


@pytest.mark.parametrize(
    ("nodes", "votes", "primary"),
    [
        pytest.param({"a": SILENT, "b": SILENT}, "", "a", id="nobody lives: the inventory's"),
        pytest.param({"a": ("master", ""), "b": ("slave", "a")}, "aaa", "a", id="as on the first day"),
        pytest.param({"a": ("slave", "b"), "b": ("master", "")}, "bbb", "b", id="after a failover"),
        pytest.param({"a": ("slave", "b"), "b": ("master", "")}, "", "b", id="without Sentinels"),
        pytest.param({"a": SILENT, "b": ("slave", "a")}, "", "a", id="a replica knows whom it followed"),
        pytest.param({"a": SILENT, "b": SILENT}, "bb", "b", id="Sentinels remember a set that is down"),
        pytest.param({"a": ("master", ""), "b": ("master", "")}, "bb", "b", id="an empty old primary is back"),
        pytest.param({"a": ("master", ""), "b": ("slave", "a")}, "b", "a", id="one Sentinel alone decides nothing"),
    ],
)
def test_live_members_decide_who_is_primary(nodes, votes, primary):
    assert choose(state(nodes, votes), "a") == primary


@pytest.mark.parametrize(
    ("nodes", "votes", "keys", "says"),
    [
        pytest.param(
            {"a": ("master", ""), "b": ("master", "")}, "", {}, "a and b both say that they are primary", id="two primaries"
        ),
        pytest.param(
            {"a": ("master", ""), "b": ("master", "")}, "bb", {"a": 7}, "a .* holds 7 keys, but b is the primary", id="old data"
        ),
        pytest.param(
            {"a": ("slave", "c")}, "", {}, "192.0.2.3 is the live primary, but not in redis_nodes", id="primary left out"
        ),
        pytest.param(
            {"a": ("refused: WRONGPASS", ""), "b": SILENT}, "", {}, "a answers, but refuses the admin's password", id="password"
        ),
        pytest.param(
            {"a": ("refused: CERTIFICATE_VERIFY_FAILED", ""), "b": SILENT},
            "",
            {},
            "a answers, but its certificate is not valid for its address",
            id="certificate",
        ),
    ],
)
def test_a_set_that_could_lose_data_is_refused(nodes, votes, keys, says):
    with pytest.raises(Refusal) as refusal:
        choose(state(nodes, votes, keys), "a")
    assert re.search(says, str(refusal.value))


def test_the_operator_names_the_node_whose_data_may_be_lost():
    rivals = {"a": ("master", ""), "b": ("master", "")}
    assert choose(state(rivals, keys={"a": 7, "b": 9}), "a", discard="a") == "b"
    assert choose(state(rivals, "bb", keys={"a": 7}), "a", discard="a") == "b"


def test_an_empty_node_does_not_become_primary_of_a_full_replica():
    found = state({"a": SILENT, "b": ("slave", "a")}, keys={"b": 5})
    with pytest.raises(Refusal, match=r"a is empty .* b, which holds 5 keys"):
        refuse_to_discard(found, "a", "", set_up=False, data_directory="")
    refuse_to_discard(found, "a", "b", set_up=False, data_directory="")
    refuse_to_discard(found, "a", "", set_up=True, data_directory="")


def test_a_new_node_does_not_lose_its_own_data():
    nodes = {"a": SILENT, "b": ("master", "")}
    refuse_to_discard(state(nodes), "b", "", set_up=False, data_directory="")
    with pytest.raises(Refusal, match=r"a has data in /data .* -e redis_discard_confirm=a"):
        refuse_to_discard(state(nodes), "b", "", set_up=False, data_directory="/data")
    refuse_to_discard(state(nodes), "b", "a", set_up=False, data_directory="/data")
    refuse_to_discard(state(nodes, me="c"), "b", "", set_up=False, data_directory="/data")  # a Sentinel that was a node once


@pytest.mark.parametrize(
    ("nodes", "votes", "to", "says"),
    [
        pytest.param({"a": ("master", ""), "b": SILENT}, "aaa", "", "node b does not answer", id="dead replica"),
        pytest.param({"a": ("master", ""), "b": ("slave", "a")}, "aa", "", "Sentinel c does not answer", id="dead Sentinel"),
        pytest.param({"a": ("master", ""), "b": ("slave", "a")}, "aaa", "x", "x is not a node of the set: a, b", id="unknown"),
        pytest.param({"a": ("master", "")}, "aaa", "", "there is no replica", id="alone"),
    ],
)
def test_a_switchover_that_could_lose_a_write_is_refused(nodes, votes, to, says):
    with pytest.raises(Refusal, match=says):
        switchover.plan(state(nodes, votes), to)


def test_a_switchover_waits_for_a_failover_and_for_a_slow_replica():
    healthy = state({"a": ("master", ""), "b": ("slave", "a")}, "aaa")
    assert switchover.plan(healthy, "") == ("a", "b")
    flagged = replace(healthy.sentinels["c"], flags="master,failover_in_progress")
    with pytest.raises(Refusal, match="a failover is under way"):
        switchover.plan(replace(healthy, sentinels=healthy.sentinels | {"c": flagged}), "")
    ahead = replace(healthy.nodes["a"], offset=65 * 2**20 + 1)
    with pytest.raises(Refusal, match="b is 65 MiB behind a"):
        switchover.plan(replace(healthy, nodes=healthy.nodes | {"a": ahead}), "")


def test_a_switchover_goes_to_the_replica_with_the_most_data():
    found = state({"a": ("master", ""), "b": ("slave", "a"), "c": ("slave", "a")}, "aaa")
    nodes = {name: replace(node, offset={"a": 9, "b": 7, "c": 8}[name]) for name, node in found.nodes.items()}
    assert switchover.plan(replace(found, nodes=nodes), "") == ("a", "c")
    assert switchover.plan(replace(found, nodes=nodes), "b") == ("a", "b")


def test_a_switchover_to_the_primary_has_nothing_to_do():
    found = state({"a": ("master", ""), "b": SILENT}, "aa")
    assert switchover.is_primary_already(found, "a")
    assert not switchover.is_primary_already(found, "")
    assert not switchover.is_primary_already(found, "b")
    assert switchover.is_primary_already(replace(state({"a": ("master", "")}), sentinels={}), "a")
    assert not switchover.is_primary_already(state({"a": ("master", "")}, "b"), "a")


def test_a_member_that_leaves_the_set_is_still_asked():
    """The inventory has one node and no Sentinel any more; the last run knew b, which is primary now."""
    alone = description({"a": "192.0.2.9"}, {})
    former = {"addresses": {"a": ADDRESSES["a"], "b": ADDRESSES["b"]}, "sentinel_addresses": ADDRESSES, "of": "another version"}
    assert alone.widened(None) is alone
    wide = alone.widened(former)
    assert wide.addresses == {"a": "192.0.2.9", "b": ADDRESSES["b"]}
    assert wide.sentinel_addresses == ADDRESSES
    found = replace(state({"a": ("slave", "b"), "b": ("master", "")}, "bbb"), described=wide)
    with pytest.raises(Refusal, match=r"b is the live primary, but not in redis_nodes \(a\).*redis_switchover_to=a"):
        choose(found, "a", wanted=alone.addresses)


def test_a_forced_failover_is_for_a_dead_primary_only():
    with pytest.raises(Refusal, match="a is alive and primary: use a switchover"):
        failover.plan(state({"a": ("master", ""), "b": ("slave", "a")}, "a"), "")
    with pytest.raises(Refusal, match="no Sentinel answers"):
        failover.plan(state({"a": SILENT, "b": ("slave", "a")}), "")
    with pytest.raises(Refusal, match="c does not answer as a replica"):
        failover.plan(state({"a": SILENT, "b": ("slave", "a")}, "a"), "c")
    assert failover.plan(state({"a": SILENT, "b": ("slave", "a")}, "-a"), "") == ("a", "b", "b")
