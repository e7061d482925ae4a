"""Who is primary, as image-editor-redis decides from what nodes and Sentinels say."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("image_editor_redis", ROOT / "roles/redis/files/image_editor_redis.py")
tool = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tool
spec.loader.exec_module(tool)

ADDRESSES = {"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"}
SILENT = ("silent", "")


def redis_set(nodes: dict[str, tuple[str, str]], votes: str = "", keys: dict[str, int] | None = None) -> object:
    """A set whose nodes say (role, whom they follow) and whose Sentinels a, b and c name the nodes in ``votes``."""
    found = tool.RedisSet("a", "image-editor", 6380, 26379, "", {name: ADDRESSES[name] for name in nodes}, ADDRESSES)
    for name, (role, follows) in nodes.items():
        error = "" if role in ("master", "slave") else role
        found.nodes[name] = tool.Node(
            name, error, "" if error else role, ADDRESSES.get(follows, follows), "up", keys=(keys or {}).get(name, 0)
        )
    for name, vote in zip(ADDRESSES, votes.ljust(3, "-"), strict=True):
        found.sentinels[name] = tool.Sentinel(name, "" if vote != "-" else "silent", ADDRESSES.get(vote, ""), "master", 2)
    return found


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
def test_the_living_decide(nodes, votes, primary):
    assert tool.choose(redis_set(nodes, votes), "a") == primary


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
            {"a": ("WRONGPASS invalid", ""), "b": SILENT}, "", {}, "a answers, but refuses the admin's password", id="password"
        ),
    ],
)
def test_what_could_discard_data_is_refused(nodes, votes, keys, says):
    with pytest.raises(tool.Refusal) as refusal:
        tool.choose(redis_set(nodes, votes, keys), "a")
    assert re.search(says, str(refusal.value))


def test_the_operator_names_whose_data_may_go():
    rivals = {"a": ("master", ""), "b": ("master", "")}
    assert tool.choose(redis_set(rivals, keys={"a": 7, "b": 9}), "a", discard="a") == "b"
    assert tool.choose(redis_set(rivals, "bb", keys={"a": 7}), "a", discard="a") == "b"


def test_an_empty_node_does_not_become_primary_of_a_full_replica(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "STATE", tmp_path / "absent")
    monkeypatch.setattr(tool, "DATA", tmp_path)
    found = redis_set({"a": SILENT, "b": ("slave", "a")}, keys={"b": 5})
    with pytest.raises(tool.Refusal, match=r"a is empty .* b, which holds 5 keys"):
        tool.refuse_to_discard(found, "a", "")
    tool.refuse_to_discard(found, "a", "b")


def test_a_new_node_does_not_lose_data_that_it_brings(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "STATE", tmp_path / "absent")
    monkeypatch.setattr(tool, "DATA", tmp_path)
    found = redis_set({"a": SILENT, "b": ("master", "")})
    tool.refuse_to_discard(found, "b", "")
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir/appendonly.aof.1.base.rdb").touch()
    with pytest.raises(tool.Refusal, match=r"a has data in .* -e redis_discard_confirm=a"):
        tool.refuse_to_discard(found, "b", "")
    tool.refuse_to_discard(found, "b", "a")
    found.me = "c"  # a Sentinel that was a node once
    tool.refuse_to_discard(found, "b", "")


@pytest.mark.parametrize(
    ("nodes", "votes", "to", "says"),
    [
        pytest.param({"a": ("master", ""), "b": SILENT}, "aaa", "", "node b does not answer", id="dead replica"),
        pytest.param({"a": ("master", ""), "b": ("slave", "a")}, "aa", "", "Sentinel c does not answer", id="dead Sentinel"),
        pytest.param({"a": ("master", ""), "b": ("slave", "a")}, "aaa", "x", "x is not a node of the set: a, b", id="unknown"),
        pytest.param({"a": ("master", "")}, "aaa", "", "there is no replica", id="alone"),
    ],
)
def test_a_switchover_refuses_when_it_cannot_promise_anything(nodes, votes, to, says):
    with pytest.raises(tool.Refusal, match=says):
        tool.switchover(redis_set(nodes, votes), to, check=True)


def test_a_switchover_to_the_primary_has_nothing_to_do(capsys):
    for found in (redis_set({"a": ("master", ""), "b": SILENT}, "aa"), redis_set({"a": ("master", "")})):
        found.sentinels = {name: sentinel for name, sentinel in found.sentinels.items() if sentinel.primary}
        tool.switchover(found, "a", check=False)
        assert "nothing to do" in capsys.readouterr().out


def test_who_leaves_the_set_still_has_its_say():
    """The inventory has one node and no Sentinel any more; the last run knew b, which is primary now."""
    alone = tool.RedisSet("a", "image-editor", 6380, 26379, "", {"a": "192.0.2.9"}, {})
    last = redis_set({"a": ("slave", "b"), "b": ("master", "")}, "bbb")
    assert tool.widened(alone, None) is alone
    found = tool.widened(alone, last)
    assert found.addresses == {"a": "192.0.2.9", "b": ADDRESSES["b"]}
    assert found.sentinel_addresses == ADDRESSES
    found.nodes, found.sentinels = last.nodes, last.sentinels
    with pytest.raises(tool.Refusal, match=r"b is the live primary, but not in redis_nodes \(a\).*redis_switchover_to=a"):
        tool.choose(found, "a", wanted=alone.addresses)


def test_force_is_for_a_dead_primary_only():
    with pytest.raises(tool.Refusal, match="a is alive and primary: use a switchover"):
        tool.failover(redis_set({"a": ("master", ""), "b": ("slave", "a")}, "a"), "", check=True)
    with pytest.raises(tool.Refusal, match="no Sentinel answers"):
        tool.failover(redis_set({"a": SILENT, "b": ("slave", "a")}), "", check=True)
