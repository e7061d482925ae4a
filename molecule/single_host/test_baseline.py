"""Baselines of a platform on one host: what they record, what Prometheus says of them, and their verdict."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from urllib.parse import quote

import pytest
from features import EDITS, TOLERANCES
from helpers import until

INTERVAL = 5  # seconds between two scrapes, and between two evaluations of the rules (hosts/scenario.yml)
WINDOW = 300  # seconds that the recording rules look back
COUNT = 'image_editor_task_seconds_count{task="edit"}'
TOTAL = COUNT.replace("count", "sum")
# No test submits a batch. A message that comes twice counts in COUNT alone: its second execution is dropped.
SUCCEEDED = 'image_editor_tasks_total{task="edit",queue="edit",outcome="succeeded"}'


def ask(bench, expression: str, at: float | None = None) -> float | None:
    """The answer of Prometheus: the value of the first series, or None if there is none."""
    query = f"query={quote(expression)}" + (f"&time={at}" if at else "")
    answer = json.loads(bench.host.check_output(f"curl -s 'http://127.0.0.1:9090/prometheus/api/v1/query?{query}'"))
    return float(answer["data"]["result"][0]["value"][1]) if answer["data"]["result"] else None


def test_a_record_has_every_metric_the_switches_and_the_release(bench, baselines):
    # The next test takes later samples for edits of this baseline. Prometheus may not have scraped their worker since it started.
    now = time.time()
    until("Prometheus has scraped the worker again", lambda: (ask(bench, f"timestamp({SUCCEEDED})") or 0) > now, 60)
    process, records = baselines.play("baseline")
    assert process.returncode == 0, process.stdout[-3000:]
    assert "there is no earlier one of the same load" in process.stdout
    record = records[-1]
    assert record["refused"] == {"count": 0, "first": ""}
    assert record["edits"] == {"accepted": EDITS, "succeeded": EDITS, "failed": 0, "cancelled": 0, "unfinished": 0}
    assert record["switches"]["task_payload"] == "full"
    assert re.fullmatch(r"[0-9a-f]{8,64}", record["release"])
    metrics = record["metrics"]
    assert metrics["success_ratio"] == 1
    for name in ("task_seconds", "edit_seconds", "api_seconds"):
        assert 0 < metrics[f"{name}_p50"] <= metrics[f"{name}_p95"] <= metrics[f"{name}_p99"] < 60
    assert metrics["task_seconds_mean"] < metrics["edit_seconds_p99"]
    assert 2**20 < metrics["redis_memory_bytes"] < 2**28
    assert 2 <= metrics["database_connections"] <= 100


def test_the_recording_rules_and_the_baseline_say_the_same(bench, baselines):
    """Prometheus has watched the baseline of the test before."""
    record = baselines.records()[-1]
    assert record["switches"]["monitoring_enabled"]
    began, seconds, succeeded = datetime.fromisoformat(record["at"]).timestamp(), record["seconds"], record["edits"]["succeeded"]

    def since_the_rollback(counter: str, at: float) -> float:
        """The sum over the workers. Prometheus also has samples from before the rollback, of older processes."""
        return ask(bench, f"sum(last_over_time({counter}[{int(at - bench.stopped_at)}s]))", at) or 0

    # The workers restarted when monitoring was switched on. Since then their counters also have edits that were submitted while
    # it was switched.
    edits, spent = since_the_rollback(SUCCEEDED, began) + succeeded, since_the_rollback(TOTAL, began)

    def found() -> float:
        return since_the_rollback(SUCCEEDED, time.time())

    until(lambda: f"{edits} edits, of which Prometheus has {found()}", lambda: found() == edits, 60)
    at = time.time() + 2 * INTERVAL
    # By then the rules do not look back at the samples from before the rollback.
    at = max(at, int(bench.stopped_at) + WINDOW + 2 * INTERVAL)
    until("the rules have been evaluated after that", lambda: time.time() > at + INTERVAL, WINDOW)
    # Both have the same edits. The worker's time also has the commit.
    mean = (since_the_rollback(TOTAL, at) - spent) / succeeded
    assert 0 < mean - record["metrics"]["task_seconds_mean"] < 0.2
    # The rule's rate() leaves out what a series had at its first scrape: the first edit after a restart, which is slow. Each
    # series has a mean of its own. rate() weighs them by their first and last scrape, so the rule's mean lies between them.
    evaluated = ask(bench, "timestamp(image_editor:task_seconds:mean5m)", at)
    grown = "(max_over_time({0}[5m]) - min_over_time({0}[5m]))"
    means = f"({grown.format(TOTAL)} / ({grown.format(COUNT)} > 0))"
    least, most = (ask(bench, f"{function}({means})", evaluated) for function in ("min", "max"))
    assert least * 0.999 <= ask(bench, "image_editor:task_seconds:mean5m", at) <= most * 1.001
    ruled = {"success_ratio": ask(bench, "image_editor:success_ratio:5m", at)}
    for metric in ("redis_memory_bytes", "database_connections"):
        ruled[metric] = ask(bench, f"avg_over_time(image_editor:{metric}[{seconds}s])", began + seconds)
    print(ruled, record["metrics"])
    # The tolerances of the verdict, without the 8 MiB of Redis's memory, which is more than the memory that is used here.
    for metric, value in ruled.items():
        least = 0 if metric == "redis_memory_bytes" else TOLERANCES[metric]["least"]
        assert value == pytest.approx(record["metrics"][metric], rel=TOLERANCES[metric]["percent"] / 100, abs=least), metric


def test_a_second_run_fails_and_names_the_metric_that_is_worse(baselines):
    """Compared with a better record, the playbook fails, names the metric, and leaves an image."""
    path = max(baselines.directory.glob("*.json"))
    before = len(baselines.records())
    better = json.loads(path.read_text())
    better["metrics"] |= {"task_seconds_mean": 1e-6, "success_ratio": 0.5}
    path.write_text(json.dumps(better))
    tolerances = {"task_seconds_mean": {"percent": 20, "least": 0.0001}, "success_ratio": {"percent": 0, "least": 0.01}}
    process, records = baselines.play("baseline", baseline_tolerances=tolerances)
    assert process.returncode != 0
    assert "baseline: worse: mean task time" in process.stdout, process.stdout[-3000:]
    assert re.search(r"success rate .* better", process.stdout)
    assert len(records) == before + 1
    image = max(baselines.directory.glob("*.json")).with_suffix(".svg")
    assert "mean task time" in image.read_text()


def test_a_load_above_the_rate_limit_is_refused_before_any_edit(baselines):
    before = len(baselines.records())
    process, records = baselines.play("baseline", baseline_load=1000, baseline_seconds=60)
    assert process.returncode != 0
    assert "a user may submit 600 a minute" in " ".join(process.stdout.split())
    assert len(records) == before
