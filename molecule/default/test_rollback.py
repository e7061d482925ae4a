"""Redis replication is rolled back to one node and switched on again, while edits go on. No key and no edit is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import Api, changed, in_soak, playbook, until

CLIENTS = ("web1", "web2", "worker1", "worker2", "monitor1")
KEYS = 1000
# Seconds. A worker gives its message back when its connection is cut. If Redis does not answer then, the broker delivers the
# message again after the visibility timeout of 300 s, and looks for such messages every 10 s.
DELIVERED_AGAIN = 330


@pytest.fixture(scope="module")
def inventory(tmp_path_factory) -> Path:
    """A copy of the scenario's inventory, in which tests change switches."""
    copy = tmp_path_factory.mktemp("rollback") / "hosts"  # the scenario's folder name, after which the environment is named
    shutil.copytree(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory/hosts", copy)
    return copy


@pytest.fixture(scope="module")
def play(inventory) -> Callable[..., str]:
    """Run a playbook for that inventory; return its output."""

    def run(path: str, *arguments: str, fails: bool = False) -> str:
        ran = playbook(f"playbooks/{path}", *arguments, inventory=inventory)
        assert (ran.returncode != 0) == fails, ran.stdout[-6000:]
        return ran.stdout

    return run


def status(on) -> dict:
    return json.loads(on("redis1").run("image-editor-redis status --json").stdout)


@pytest.fixture(scope="module", autouse=True)
def primary(on, play) -> None:
    """Make redis1 the primary, because redis1 is the node that stays. An earlier test may have killed the primary."""
    if status(on)["primary"] != "redis1":
        play("redis_switchover.yml", "-e", "redis_switchover_to=redis1")
    until("the set is whole", lambda: not status(on)["problems"], 60)


@pytest.fixture(scope="module")
def edits(on) -> Iterator[list[str]]:
    """Ids of the edits that a client submits during the tests. At the end, all must have been accepted and have succeeded."""
    api, accepted, refused, stop = Api(on("web1"), "rollback", "https://web1:8000"), [], [], threading.Event()

    def work() -> None:
        while not stop.wait(1):
            try:
                accepted.append(api.submit())
            except AssertionError as error:
                refused.append(str(error))

    client = threading.Thread(target=work)
    client.start()
    yield accepted
    stop.set()
    client.join()
    assert not refused

    def unfinished() -> str:
        ids = ",".join(f"'{edit}'" for edit in accepted)
        query = f"SELECT * FROM edit WHERE id IN ({ids}) AND status <> 'succeeded'"
        return on("db1").check_output("runuser -u postgres -- psql -xtA image_editor -c %s", query)

    with contextlib.suppress(AssertionError):  # the assertion below says which edits have not succeeded
        until("every edit has succeeded", lambda: not unfinished(), DELIVERED_AGAIN)
    assert not unfinished()


def units(on) -> dict[str, str]:
    """The state of every Redis and Sentinel unit of the set."""
    wanted = dict.fromkeys(("redis1", "redis2"), ("redis-server", "redis-sentinel")) | {"monitor1": ("redis-sentinel",)}
    return {
        f"{unit}@{host}": on(host).run("systemctl is-active %s", unit).stdout.strip()
        for host, names in wanted.items()
        for unit in names
    }


@in_soak
def test_a_set_that_is_not_whole_is_left_alone(on, inventory, play):
    before = (inventory / "group_vars/all/features.yml").read_text()
    on("redis2").check_output("systemctl stop redis-server")
    try:
        said = play("rollback/redis_replication.yml", fails=True)
    finally:
        on("redis2").check_output("systemctl start redis-server")
    assert "so it has to be the primary of a healthy set" in " ".join(said.split())
    assert not changed(said)
    assert (inventory / "group_vars/all/features.yml").read_text() == before
    until("the set is whole", lambda: not status(on)["problems"], 60)


def test_a_rollback_is_refused_while_the_node_that_stays_is_declared_down(inventory, play):
    before = (inventory / "group_vars/all/features.yml").read_text()
    said = play("rollback/redis_replication.yml", "-e", "platform_down=redis1", fails=True)
    assert "redis1 is declared down, but it is the node that stays" in " ".join(said.split())
    assert not changed(said)
    assert (inventory / "group_vars/all/features.yml").read_text() == before


def test_redis_replication(on, inventory, play, edits):
    """All keys are kept, the proxies lead to the node that stays, and no other unit of the set runs."""
    redis1 = on("redis1")
    redis1.check_output(
        f"for i in $(seq {KEYS}); do echo SET kept:$i $i EX 3600; done | image-editor-redis-cli -n 1 | grep -c OK"
    )
    said = play("rollback/redis_replication.yml")
    assert "redis_replication is off. Commit its line" in said
    assert "redis_replication_enabled: false" in (inventory / "group_vars/all/features.yml").read_text()
    assert redis1.check_output("image-editor-redis-cli -n 1 --scan --pattern 'kept:*' | wc -l") == str(KEYS)
    assert {on(host).check_output("image-editor-redis-proxy status") for host in CLIENTS} == {"primary: redis1"}
    active = {unit for unit, state in units(on).items() if state == "active"}
    assert active == {"redis-server@redis1"}
    count = len(edits)
    until("edits go on", lambda: len(edits) > count + 2, 60)


@in_soak
def test_it_stays_so(play, on):
    assert not changed(play("rollback/redis_replication.yml"))
    assert not changed(play("site.yml"))


def test_an_inventory_without_the_commit_is_refused(inventory, play):
    """Preflight, with which site.yml begins, says who rolled replication back, when, and what to commit."""
    switches = inventory / "group_vars/all/features.yml"
    kept = switches.read_text()
    switches.write_text(kept.replace("redis_replication_enabled: false", "redis_replication_enabled: true"))
    try:
        said = play("preflight.yml", fails=True)
    finally:
        switches.write_text(kept)
    assert not changed(said)
    assert "redis_replication was rolled back on" in " ".join(said.split())
    assert "redis_replication_enabled: false" in " ".join(said.split())


def test_it_comes_again(on, play, edits):
    play("feature.yml", "-e", "feature_name=redis_replication")
    assert set(units(on).values()) == {"active"}

    until("the set is whole", lambda: status(on)["primary"] == "redis1" and not status(on)["problems"], 60)
    replica = on("redis2").check_output("image-editor-redis-cli -n 1 --scan --pattern 'kept:*' | wc -l")
    assert replica == str(KEYS), "what was there before is on the replica, too"
