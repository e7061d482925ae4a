"""Edits pass through the queues of a host that has its own PostgreSQL, Redis and media store."""

import time

from helpers import APPLICATION_CURL, CURL, main_process, until


def kill_pool(host) -> None:
    """Kill the worker's pool processes. A restarted worker starts them after it has loaded the application."""
    main = main_process(host, "image-editor-worker@edit")
    until("the pool's processes are there and killed", lambda: host.run(f"pkill -9 -P {main}").rc == 0)


def test_an_edit_succeeds_and_its_result_is_stored(host, api):
    edit_id = api.submit()
    edit = until("the edit has ended", lambda: api.ended(edit_id))
    assert edit["status"] == "succeeded", edit
    results = "/var/lib/image-editor-media/files/results"
    assert host.check_output(f"find {results} -path '*/{edit['id']}/*' -type f -size +1k | wc -l") == "1"


def test_a_restart_under_load_finishes_running_edits_and_loses_none(host, api):
    edits = [api.submit("sepia") for _ in range(8)]
    host.check_output("systemctl restart image-editor-worker@edit.service")
    ended = [until(f"edit {edit_id} has ended", lambda edit_id=edit_id: api.ended(edit_id), 60) for edit_id in edits]
    assert {edit["status"] for edit in ended} == {"succeeded"}
    assert {edit["attempt"] for edit in ended} == {1}, "an edit was repeated"


def test_killed_pool_processes_lose_no_edit(host, api):
    edits = [api.submit("blur") for _ in range(4)]
    kill_pool(host)
    ended = [until(f"edit {edit_id} has ended", lambda edit_id=edit_id: api.ended(edit_id), 60) for edit_id in edits]
    assert {edit["status"] for edit in ended} == {"succeeded"}


def test_every_process_has_the_memory_that_an_edit_may_take(host):
    processes = host.check_output("grep -h ^WORKER_CONCURRENCY= /etc/image-editor/worker-*.env | cut -d= -f2").split()
    limit = int(host.check_output("systemctl show -P MemoryMax image-editor-worker@edit.service"))
    assert limit == (256 + 400 * max(map(int, processes))) * 2**20


def test_the_loss_of_a_child_for_its_memory_does_not_stop_the_worker(host):
    assert host.check_output("systemctl show -P OOMPolicy image-editor-worker@edit.service") == "continue"


def test_a_killed_worker_restarts(host, api):
    host.check_output("systemctl kill --signal=KILL image-editor-worker@edit.service")
    edit_id = api.submit()
    edit = until("an edit after the kill", lambda: api.ended(edit_id), 60)
    assert edit["status"] == "succeeded"


def test_one_scheduler_sends_periodic_tasks(host):
    assert host.check_output("pgrep -fc '[c]elery .* beat'") == "1"
    until(
        "the scheduler has sent the reconciler",
        lambda: host.run("journalctl -u image-editor-scheduler | grep -q reconcile").rc == 0,
    )


def sent(host) -> int:
    """How many periodic jobs the scheduler has sent."""
    return len(host.run("journalctl -u image-editor-scheduler -o cat --grep 'Sending due task'").stdout.splitlines())


def test_worker_cannot_write_the_release_nor_the_system(host):
    pid = main_process(host, "image-editor-worker@edit")
    assert host.run(f"nsenter -t {pid} -m touch /opt/image-editor/current/x").rc != 0
    assert host.run(f"nsenter -t {pid} -m touch /etc/x").rc != 0


def metrics(host, port: int) -> dict[str, float]:
    """Return the metrics of a scrape: values by name and labels."""
    lines = host.check_output(f"{CURL} -f https://localhost:{port}/metrics").splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


SUCCEEDED = 'image_editor_tasks_total{outcome="succeeded",queue="edit",task="edit"}'


def test_each_worker_reports_only_its_own_tasks(host, api):
    before = metrics(host, 9810)[SUCCEEDED]
    kill_pool(host)
    edit_id = api.submit()
    until("the edit has ended", lambda: api.ended(edit_id), 60)
    until(
        "the edit is counted, and the counts of killed processes are kept", lambda: metrics(host, 9810)[SUCCEEDED] == before + 1
    )
    reconciled = 'image_editor_tasks_total{outcome="done",queue="maintenance",task="reconcile"}'
    until("the reconciler has run", lambda: metrics(host, 9812)[reconciled] > 0)
    for port in (9810, 9820):
        assert host.run(f"curl -sS --cacert /etc/ssl/certs/image-editor-ca.crt https://localhost:{port}/metrics").rc != 0
        assert host.run(f"curl -sS http://localhost:{port}/metrics").rc != 0
        other_name = host.check_output(f"{APPLICATION_CURL} -o /dev/null -w '%{{http_code}}' https://localhost:{port}/metrics")
        assert other_name == "403"


def test_the_collector_sees_workers_come_and_go(host, api):
    workers = 'image_editor_queue_workers{queue="edit"}'
    until("the worker is seen", lambda: metrics(host, 9820).get(workers) == 1)
    host.check_output("systemctl stop image-editor-worker@edit.service")
    try:
        edit_id = api.submit()
        until("no worker takes edits", lambda: metrics(host, 9820).get(workers) == 0, 40)
        seen = metrics(host, 9820)
        assert seen['image_editor_queue_length{queue="edit"}'] == 1
        assert seen['image_editor_queue_oldest_age_seconds{queue="edit"}'] > 5
        assert seen['image_editor_edits{status="queued"}'] == 1
    finally:
        host.check_output("systemctl start image-editor-worker@edit.service")
    until("the edit has ended", lambda: api.ended(edit_id), 60)
    until("the worker is seen again", lambda: metrics(host, 9820).get(workers) == 1)


def test_collector_and_scheduler_survive_a_loss_of_the_database(host):
    """Without the database the scheduler cannot renew its lease, so it sends nothing."""
    up = 'image_editor_collector_up{source="%s"}'
    scheduler = "systemctl show -P MainPID image-editor-scheduler"
    process = host.check_output(scheduler)
    host.check_output("systemctl stop postgresql@17-main")
    try:
        before = sent(host)
        until("the collector reports the database as down", lambda: metrics(host, 9820)[up % "postgresql"] == 0, 40)
        seen = metrics(host, 9820)
        assert seen[up % "redis"] == 1
        assert not any(name.startswith("image_editor_edits") for name in seen), "stale numbers are exported"
        time.sleep(12)  # a scheduler sends the retention every 10 s
        assert sent(host) == before
    finally:
        host.check_output("systemctl start postgresql@17-main")
    until("the collector reports the database as up", lambda: metrics(host, 9820)[up % "postgresql"] == 1, 40)
    until("the scheduler sends again", lambda: sent(host) > before, 40)
    assert host.check_output(scheduler) == process
