"""Real edits through real queues, on the host's own PostgreSQL, Redis and media."""

import pytest
from helpers import Api, until


@pytest.fixture(scope="module")
def api(host):
    return Api(host)


def test_an_edit_succeeds_and_its_result_is_stored(host, api):
    edit_id = api.submit()
    edit = until("the edit has ended", lambda: api.ended(edit_id))
    assert edit["status"] == "succeeded", edit
    assert host.check_output(f"find /var/lib/image-editor-media/files/results/{edit['id']} -type f -size +1k | wc -l") == "1"


def test_a_restart_in_the_middle_finishes_what_runs_and_loses_nothing(host, api):
    edits = [api.submit("sepia") for _ in range(8)]
    host.check_output("systemctl restart image-editor-worker@edit.service")
    ended = [until(f"edit {edit_id} has ended", lambda edit_id=edit_id: api.ended(edit_id), 60) for edit_id in edits]
    assert {edit["status"] for edit in ended} == {"succeeded"}
    assert {edit["attempt"] for edit in ended} == {1}, "a warm restart repeats nothing"


def test_killed_pool_processes_lose_nothing(host, api):
    edits = [api.submit("blur") for _ in range(4)]
    main = host.check_output("systemctl show -P MainPID image-editor-worker@edit.service")
    host.check_output(f"pkill -9 -P {main}")
    ended = [until(f"edit {edit_id} has ended", lambda edit_id=edit_id: api.ended(edit_id), 60) for edit_id in edits]
    assert {edit["status"] for edit in ended} == {"succeeded"}


def test_a_killed_worker_comes_back_by_itself(host, api):
    host.check_output("systemctl kill --signal=KILL image-editor-worker@edit.service")
    edit_id = api.submit()
    edit = until("an edit after the kill", lambda: api.ended(edit_id), 60)
    assert edit["status"] == "succeeded"


def test_one_scheduler_hands_out_the_clocks_work(host):
    assert host.check_output("pgrep -fc '[c]elery .* beat'") == "1"
    until(
        "the scheduler has sent the reconciler",
        lambda: host.run("journalctl -u image-editor-scheduler | grep -q reconcile").rc == 0,
    )


def test_worker_cannot_write_the_release_nor_the_system(host):
    pid = host.check_output("systemctl show -P MainPID image-editor-worker@edit.service")
    assert host.run(f"nsenter -t {pid} -m touch /opt/image-editor/current/x").rc != 0
    assert host.run(f"nsenter -t {pid} -m touch /etc/x").rc != 0
