"""Four features are rolled back, while edits go on. Other scenarios test the three other rollbacks.

The order of the tests matters: all features are on until the first rollback, and off at the end. Rollouts bring them back.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from feature_rollback import OFF
from features import EDGE, PORTS, Bench, flower_is_on, monitoring_is_on, results_are_stored
from helpers import LOCK, ROOT, SOAK, Load, changed, in_soak, submitting, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures
import rollbacks

# Publishes an edit as a web host does that still has the old setting: with the whole task in its message.
PUBLISH = (
    "from django.conf import settings; from image_editor.models import Edit; from image_editor.pipeline import publisher;"
    " from image_editor.pipeline.message import EditMessage; settings.TASK_PAYLOAD = 'full';"
    " edit = Edit.objects.select_related('user').get(pk='%s');"
    " assert publisher.publish_edits([EditMessage.of(edit, edit.user.username)]) == 1"
)


@pytest.fixture(scope="module")
def changing() -> threading.Event:
    """Set while a rollback changes the platform."""
    return threading.Event()


@pytest.fixture(scope="module", autouse=True)
def load(bench, changing) -> Iterator[Load]:
    """The client that submits edits during all rollbacks."""
    with submitting(bench.api, [bench.host], changing.is_set) as found:
        yield found
    if SOAK:
        assert figures.record("rollback_answer_seconds_p99", round(found.p99, 2), "s", "<=1")["ok"]
        assert figures.record("rollback_answer_seconds_max", round(max(found.seconds), 2), "s", "<=5")["ok"]
    for name in bench.rollbacks.seconds:
        rollbacks.prove(name, "load")


@contextmanager
def task_payload_goes_off(bench: Bench) -> Iterator[None]:
    """A message of the API before the rollback is understood after it. Then messages of both kinds are in the queue together."""
    with bench.waiting_messages():  # until the rollback starts the worker
        before = bench.api.submit()
        argument, _ = bench.queue()[before]
        assert argument["task_id"] == before
        yield
    bench.finish(before)
    with bench.waiting_messages():
        bare, full = bench.api.submit(), bench.api.submit()
        queue = bench.queue()
        assert (queue[bare][0], queue[full][0]) == (bare, full), "the API does not publish the id alone"
        assert bench.host.check_output("image-editor-redis-cli -n 0 LREM edit 0 %s", queue[full][1]) == "1"
        bench.host.check_output("image-editor-manage shell -c %s", PUBLISH % full)
        queue = bench.queue()
        assert queue[bare][0] == bare
        assert queue[full][0]["task_id"] == full
    for edit in (bare, full):
        bench.finish(edit)


@contextmanager
def result_backend_goes_off(bench: Bench) -> Iterator[None]:
    results_are_stored(bench)
    yield
    edit = bench.finish(bench.api.submit())["id"]
    bench.finish(bench.api.submit())  # by then the worker would have stored the result of the first edit
    assert not bench.has_result(edit)


@contextmanager
def flower_goes_off(bench: Bench) -> Iterator[None]:
    flower_is_on(bench)
    yield
    assert bench.host.check_output(f"{EDGE}/flower/") == "404"
    assert not bench.active("image-editor-flower")
    assert bench.host.run("systemctl is-enabled image-editor-flower").stdout.strip() == "disabled"


@contextmanager
def monitoring_goes_off(bench: Bench) -> Iterator[None]:
    until("Prometheus has samples", lambda: bench.samples(time.time()), 60)
    bench.collected_at = time.time()
    monitoring_is_on(bench)
    yield
    bench.stopped_at = time.time()
    assert [port for port in PORTS if bench.listens(port)] == []


GOES_OFF: dict[str, Callable[[Bench], AbstractContextManager[None]]] = {
    "task_payload": task_payload_goes_off,
    "result_backend": result_backend_goes_off,
    "flower": flower_goes_off,
    "monitoring": monitoring_goes_off,
}
each = pytest.mark.parametrize("name", GOES_OFF)


@each
def test_check_mode_says_what_it_would_do_and_changes_nothing(bench, name):
    bench.rollbacks.check(name)
    rollbacks.prove(name, "check")


@each
def test_a_rollback_is_refused_while_a_release_is_under_way(bench, name):
    bench.rollbacks.refused_while_a_release_is_under_way(name)
    rollbacks.prove(name, "release")


def test_a_rollback_is_refused_while_another_operator_changes_the_platform(bench):
    """All rollbacks of features share this step."""
    bench.host.check_output(f"echo 'ann@elsewhere:12' >{LOCK}")
    try:
        said = bench.rollbacks.refused("rollback/flower.yml")
    finally:
        bench.host.check_output(f"rm {LOCK}")
    assert "ann@elsewhere:12 has been changing this environment since" in said, said[-3000:]


@each
def test_a_rollback_is_refused_while_the_host_does_not_answer(bench, name):
    bench.rollbacks.refused_while_unreachable(name, "platform1.images.example.com")
    rollbacks.prove(name, "unreachable")


@each
def test_a_rollback_is_refused_if_the_inventory_lacks_the_switch(bench, name):
    bench.rollbacks.refused_without_the_switch(name)
    rollbacks.prove(name, "missing_switch")


@each
def test_a_rollback_makes_backups_and_switches_the_feature_off(bench, load, changing, name):
    answer, before = bench.finish(bench.api.submit()), len(load.accepted)
    changing.set()
    until("edits are accepted", lambda: len(load.accepted) > before + 2, 60)
    with GOES_OFF[name](bench):
        bench.rollbacks.roll_back(name, edits=len(load.accepted))
    changing.clear()
    rollbacks.prove(name, "backups")
    assert bench.finish(bench.api.submit()).keys() == answer.keys()
    rollbacks.prove(name, "done")


@each
def test_a_second_rollback_changes_nothing(bench, name):
    bench.rollbacks.again(name)
    rollbacks.prove(name, "second_run")


@in_soak
def test_the_slowest_rollback_takes_at_most_a_minute(bench):
    assert bench.rollbacks.seconds.keys() == GOES_OFF.keys()
    slowest = max(bench.rollbacks.seconds.values())
    assert figures.record("feature_rollback_seconds_max", round(slowest, 1), "s", "<=60")["ok"]


def test_site_yml_keeps_features_off_and_refuses_an_inventory_without_the_commits(bench):
    assert changed(bench.rollbacks.play("site.yml")) == []
    assert not bench.host.file(LOCK).exists, "site.yml has not unlocked the environment"
    committed = bench.rollbacks.switches.read_text()
    bench.rollbacks.switches.write_text((ROOT / "inventories/single_host/group_vars/all/features.yml").read_text())
    try:
        said = bench.rollbacks.refused("site.yml")
    finally:
        bench.rollbacks.switches.write_text(committed)
    for name in GOES_OFF:
        assert OFF[name] in committed
        assert f"{name} was rolled back on" in said
        assert f"commit this line in group_vars/all/features.yml: {OFF[name]}" in said
        rollbacks.prove(name, "site")
