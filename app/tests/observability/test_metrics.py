"""Metrics are correct after restarts and kills and without Redis. A scrape needs a client certificate."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import APP, TOKEN, children, finished, gunicorn
from prometheus_client.parser import text_string_to_metric_families
from services import Process, Services, certificates, free_port, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def scrape(url: str, **how: Any) -> dict[str, float]:
    """Values by ``name{label=value,…}``, the labels in alphabetical order."""
    answer = requests.get(url, timeout=5, **how)
    answer.raise_for_status()
    values = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function: the environment of a measured process, with a directory of its own for its metrics."""

    def env(**more: str) -> dict[str, str]:
        directory = tmp_path / f"metrics{free_port()}"
        directory.mkdir()
        return {"IMAGE_EDITOR_METRICS_ENABLED": "true", "PROMETHEUS_MULTIPROC_DIR": str(directory), **more}

    return env


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(port: int, **env: str) -> Process:
        listen = {"IMAGE_EDITOR_METRICS_ENABLED": "true", "IMAGE_EDITOR_METRICS_LISTEN": f"127.0.0.1:{port}"}
        command = [sys.executable, "manage.py", "collect_metrics"]
        process = Process(command, tmp_path / "collector.log", os.environ | listen | env, APP)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def submit(api: Any, photo: bytes, prompt: str = "greyscale") -> str:
    import io

    answer = api.post("/api/v1/edits", {"image": io.BytesIO(photo), "prompt": prompt})
    assert answer.status_code == 202, answer.content
    return answer.json()["id"]


def test_requests_are_counted_once_although_processes_are_killed_or_replaced(
    user: Any, tmp_path: Path, measured: Callable[..., dict[str, str]]
) -> None:
    process, base = gunicorn(tmp_path / "web.log", **measured(WEB_CONCURRENCY="2"))
    answers = "django_http_responses_total_by_status_view_method_total{method=GET,status=200,view=api:create_edit}"
    statements = "django_db_execute_total{alias=default,vendor=postgresql}"

    def ask(times: int) -> None:
        for _ in range(times):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert requests.get(f"{base}/api/v1/edits", headers=headers, timeout=10).ok

    try:
        total = 0
        for number in (signal.SIGKILL, signal.SIGTERM, None):
            ask(30)
            total += 30
            assert {scrape(f"{base}/metrics")[answers] for _ in range(6)} == {total}, "processes differ"
            if number:
                before = children(process.popen.pid)
                for pid in before:
                    os.kill(pid, number)
                wait_for(lambda before=before: len(set(children(process.popen.pid)) - set(before)) == 2, 15, "new ones")
                wait_for(lambda: requests.get(f"{base}/healthz", timeout=5).ok, 15, "they answer")
        assert scrape(f"{base}/metrics")[statements] >= total, "a request without a counted statement"
    finally:
        process.kill()


def test_a_lookup_in_the_cache_is_a_hit_or_a_miss(
    api: Any, photo: bytes, web: Callable[..., str], measured: Callable[..., dict[str, str]], start: Callable
) -> None:
    base = web(**measured())
    edit, headers = submit(api, photo), {"Authorization": f"Bearer {TOKEN}"}
    start()
    finished(api, edit)
    for _ in range(3):
        assert requests.get(f"{base}/api/v1/edits/{edit}", headers=headers, timeout=10).json()["status"] == "succeeded"
    values = scrape(f"{base}/metrics")
    hits, misses = (values.get(f"django_cache_get_{kind}_total{{backend=redis}}", 0) for kind in ("hits", "misses"))
    assert hits >= 2
    assert hits + misses == values["django_cache_get_total{backend=redis}"] == 3


def test_without_metrics_settings_nothing_is_measured_or_served(
    web: Callable[..., str], start: Callable[..., Process], tmp_path: Path
) -> None:
    port = free_port()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "off"), "IMAGE_EDITOR_METRICS_LISTEN": f"127.0.0.1:{port}"}
    (tmp_path / "off").mkdir()
    assert requests.get(f"{web(**env)}/metrics", timeout=5).status_code == 404
    start(**env)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    assert list((tmp_path / "off").iterdir()) == [], "a process wrote metrics"


def test_executions_are_counted_although_pool_processes_are_killed(
    api: Any, photo: bytes, start: Callable[..., Any], measured: Callable[..., dict[str, str]]
) -> None:
    port = free_port()
    worker = start(concurrency=2, **measured(IMAGE_EDITOR_METRICS_LISTEN=f"127.0.0.1:{port}"))
    url = f"http://127.0.0.1:{port}/metrics"
    succeeded = "image_editor_tasks_total{outcome=succeeded,queue=edit,task=edit}"
    assert scrape(url)[succeeded] == 0, "the series starts at 0"
    total = 0
    for last in (False, True):
        for edit in [submit(api, photo) for _ in range(5)]:
            assert finished(api, edit)["status"] == "succeeded"
        total += 5
        wait_for(lambda total=total: scrape(url)[succeeded] == total, 5, "all of them are counted")
        if not last:
            before = children(worker.popen.pid)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: len(set(children(worker.popen.pid)) - set(before)) == 2, 15, "new pool processes")  # noqa: B023
    edit = submit(api, photo, "crop 9999x9999")
    assert finished(api, edit)["status"] == "failed"
    wait_for(lambda: scrape(url)["image_editor_tasks_total{outcome=failed,queue=edit,task=edit}"] == 1, 5, "failures")
    values = scrape(url)
    assert values[succeeded] == total
    assert values["image_editor_task_seconds_count{queue=edit,task=edit}"] == total + 1
    assert values["image_editor_queue_wait_seconds_count{queue=edit}"] == total + 1
    assert 0 < values["image_editor_task_seconds_sum{queue=edit,task=edit}"] < 5 * total
    assert abs(values["image_editor_worker_heartbeat_seconds{queue=edit}"] - time.time()) < 10


def test_a_worker_that_takes_no_message_sends_no_heartbeat(clean: None, services: Services, monkeypatch: Any) -> None:
    """Messages wait and the worker takes none, although its main loop still runs."""
    import redis
    from django.conf import settings

    from image_editor.observability import heartbeat

    signs: list[str] = []
    step = heartbeat.Heartbeat(None)
    step.queues, step.broker = ["edit"], redis.Redis.from_url(settings.BROKER_URL)
    monkeypatch.setattr(step, "_sign", lambda queue, worker: signs.append(queue))
    monkeypatch.setattr(heartbeat, "STUCK", 0.2)
    step.beat("w")
    time.sleep(0.3)
    step.beat("w")
    assert len(signs) == 2, "an idle worker sent no heartbeat"
    services.admin().lpush("edit", "{}")
    step.beat("w")
    assert len(signs) == 3
    time.sleep(0.3)
    step.beat("w")
    assert len(signs) == 3, "a stuck worker sent a heartbeat"
    services.admin().delete("edit")
    step.beat("w")
    assert len(signs) == 4


def test_the_collector_reports_queues_edits_workers_and_lost_sources(
    api: Any, photo: bytes, services: Services, start: Callable[..., Any], collector: Callable[..., Process],
    measured: Callable[..., dict[str, str]],
) -> None:  # fmt: skip
    edits = [submit(api, photo) for _ in range(3)]
    time.sleep(1.5)
    port = free_port()
    collector(port)
    url = f"http://127.0.0.1:{port}/metrics"
    up = {f"image_editor_collector_up{{source={source}}}" for source in ("postgresql", "redis")}
    wait_for(lambda: {scrape(url).get(name) for name in up} == {1}, 15, "the collector has looked at both sources")
    values = scrape(url)
    assert values["image_editor_queue_length{queue=edit}"] == 3
    assert values["image_editor_queue_length{queue=batch}"] == 0
    assert 1.5 <= values["image_editor_queue_oldest_age_seconds{queue=edit}"] < 10
    assert values["image_editor_queue_oldest_age_seconds{queue=batch}"] == 0
    assert values["image_editor_queue_workers{queue=edit}"] == 0
    assert values["image_editor_edits{status=queued}"] == 3
    assert values["image_editor_edits{status=succeeded}"] == 0
    assert values["image_editor_callbacks{state=dead}"] == 0

    worker = start(**measured())
    for edit in edits:
        finished(api, edit)
    wait_for(lambda: scrape(url)["image_editor_queue_workers{queue=edit}"] == 1, 15, "the worker is seen")
    empty = (
        "image_editor_queue_length{queue=edit}",
        "image_editor_unacknowledged",
        "image_editor_edits{status=queued}",
    )
    wait_for(lambda: not any(scrape(url)[name] for name in empty), 15, "nothing waits any more")
    worker.kill()

    services.redis.kill()
    try:
        wait_for(lambda: scrape(url)["image_editor_collector_up{source=redis}"] == 0, 15, "Redis is missed")
        began = time.perf_counter()
        values = scrape(url)
        assert time.perf_counter() - began < 0.5, "the scrape waited for Redis"
        assert "image_editor_queue_length{queue=edit}" not in values, "an unknown length was exported"
        assert values["image_editor_collector_up{source=postgresql}"] == 1
        assert values["image_editor_edits{status=queued}"] == 0
    finally:
        services.start_redis()
    wait_for(lambda: scrape(url)["image_editor_collector_up{source=redis}"] == 1, 15, "Redis is back")
    wait_for(lambda: scrape(url)["image_editor_queue_workers{queue=edit}"] == 0, 25, "a dead worker is forgotten")


def test_the_host_of_the_scheduler_and_the_rest_of_its_lease_are_measured(clean: None) -> None:
    from image_editor.observability.collector import Tables
    from image_editor.pipeline.scheduler import LEASE, Lease

    def left() -> float:
        seen = {(name, labels): value for name, labels, value in Tables().look()}
        return seen["image_editor_scheduler_lease_seconds", (socket.gethostname(),)]

    lease = Lease()
    assert lease.renew()
    assert 0 < left() <= LEASE
    lease.release()
    assert left() < 0


def test_the_age_of_a_message_with_an_id_alone_is_measured(api: Any, photo: bytes, settings: Any) -> None:
    from image_editor.observability.collector import Queues

    settings.TASK_PAYLOAD = "id"
    submit(api, photo)
    time.sleep(1)
    seen = {(name, labels): value for name, labels, value in Queues().look()}
    assert 1 <= seen["image_editor_queue_oldest_age_seconds", ("edit",)] < 5


def test_only_clients_with_a_listed_name_get_metrics(
    clean: None, tmp_path: Path, collector: Callable[..., Process]
) -> None:
    certificates(tmp_path, "host")
    statuses = {}
    for names in ("monitoring,host", "monitoring"):
        port = free_port()
        tls = f"{tmp_path}/host.crt,{tmp_path}/host.key,{tmp_path}/ca.crt"
        collector(port, IMAGE_EDITOR_METRICS_TLS=tls, IMAGE_EDITOR_METRICS_CLIENTS=names)

        def status(port: int = port) -> int:
            ours = {"verify": f"{tmp_path}/ca.crt", "cert": (f"{tmp_path}/host.crt", f"{tmp_path}/host.key")}
            return requests.get(f"https://127.0.0.1:{port}/metrics", timeout=5, **ours).status_code

        statuses[names] = wait_for(status, 15, "the collector answers")
    assert statuses == {"monitoring,host": 200, "monitoring": 403}


def test_metrics_need_a_client_certificate_and_a_slow_client_delays_no_scrape(
    clean: None, tmp_path: Path, collector: Callable[..., Process]
) -> None:
    certificates(tmp_path, "host")
    port = free_port()
    collector(port, IMAGE_EDITOR_METRICS_TLS=f"{tmp_path}/host.crt,{tmp_path}/host.key,{tmp_path}/ca.crt")
    url, ca = f"https://127.0.0.1:{port}/metrics", str(tmp_path / "ca.crt")
    ours = {"verify": ca, "cert": (f"{tmp_path}/host.crt", f"{tmp_path}/host.key")}
    wait_for(lambda: scrape(url, **ours), 15, "the collector answers")
    with pytest.raises((requests.ConnectionError, requests.exceptions.SSLError)):
        requests.get(url, verify=ca, timeout=5)
    with contextlib.ExitStack() as silent:
        for _ in range(5):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert "image_editor_collector_up{source=redis}" in scrape(url, **ours)
