"""image-editor-baseline: records, tolerances, verdicts, the table and the plot."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import ROOT, load

from image_editor_tools.baseline import edits, main, records
from image_editor_tools.baseline.comparison import compare, described, judge, switched, worse
from image_editor_tools.baseline.load import Load
from image_editor_tools.baseline.metrics import BASELINES, METRICS
from image_editor_tools.baseline.plot import plot
from image_editor_tools.baseline.records import earlier, percentiles
from image_editor_tools.baseline.report import table
from image_editor_tools.baseline.sampling import primary_memory, redis_memory

TOLERANCES = load(ROOT / "roles/baseline/defaults/main.yml")["baseline_tolerances"]
MEAN, SUCCESS, MEMORY, CONNECTIONS = BASELINES


def raw(**edits: object) -> dict:
    """The input that the role gives to the command: from the play, the table of edits, two hosts and the client."""
    counted = {"accepted": 10, "succeeded": 9, "failed": 1, "cancelled": 0, "unfinished": 0, "task_seconds_mean": 0.25}
    return {
        "about": {"at": "2026-01-01T00:00:00Z", "load": 10, "seconds": 5, "switches": {"task_payload": "full"}},
        "edits": counted | edits,
        "samples": [{"connections": [10, 14]}, {"redis_memory": [2**20, 3 * 2**20]}, {"redis_memory": []}],
        "load": {"release": "abc", "api_seconds": [0.1, 0.2, 0.3], "refused": 0, "refusal": ""},
    }


def record(name: str = "", **metrics: float | None) -> dict:
    """A record in which only the named metrics differ from a good one."""
    made = records.record(raw())
    return made | {"at": name, "metrics": made["metrics"] | metrics}


def verdicts(before: dict, after: dict) -> dict[str, str]:
    return {row.metric.key: row.verdict for row in compare(before, after, TOLERANCES)}


def test_a_record_is_computed_from_the_samples():
    made = records.record(raw())
    assert made["metrics"]["success_ratio"] == 0.9
    assert made["metrics"]["task_seconds_mean"] == 0.25
    assert made["metrics"]["redis_memory_bytes"] == 2 * 2**20
    assert made["metrics"]["database_connections"] == 12
    assert made["metrics"]["api_seconds_p50"] == 0.2
    assert made["peaks"] == {"redis_memory_bytes": 3 * 2**20, "database_connections": 14}
    assert set(made["metrics"]) == {metric.key for metric in METRICS}


def test_redis_memory_counts_the_primary_without_its_replication_backlog():
    info = "# Memory\r\nused_memory:3000\r\nused_memory_rss:9\r\nmem_replication_backlog:{}\r\n# Replication\r\nrole:{}\r\n"
    looks = [info.format(0, "master"), info.format(1000, "master"), info.format(1000, "slave")]
    assert primary_memory("".join(looks)) == [3000, 2000]


def test_unfinished_edits_lower_the_success_ratio():
    assert records.record(raw(succeeded=5, failed=0, unfinished=5))["metrics"]["success_ratio"] == 0.5


def test_refused_edits_lower_the_success_ratio():
    seen = raw(succeeded=9, failed=0)
    seen["load"] |= {"refused": 1, "refusal": "POST answered 503"}
    made = records.record(seen)
    assert made["metrics"]["success_ratio"] == 0.9
    assert described(made).endswith("10 edits in 5 s, 1 more refused: POST answered 503")


def test_a_metric_without_samples_is_missing_and_not_zero():
    made = records.record(raw(accepted=0, succeeded=0, failed=0, task_seconds_mean=None) | {"samples": []})
    assert [made["metrics"][metric.key] for metric in BASELINES] == [None] * 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], (None, None, None)), ([0.5], (0.5, 0.5, 0.5)), (list(range(101)), (50, 95, 99))],
)
def test_percentiles_are_exact_and_missing_for_an_empty_list(values, expected):
    assert tuple(percentiles(values).values()) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "before", "after", "verdict"),
    [
        (MEAN, 1.0, 1.19, "same"),
        (MEAN, 1.0, 1.21, "worse"),
        (MEAN, 1.0, 0.79, "better"),
        pytest.param(MEAN, 0.01, 0.029, "same", id="less than what counts"),
        (SUCCESS, 1.0, 0.996, "same"),
        (SUCCESS, 1.0, 0.99, "worse"),
        (SUCCESS, 0.9, 1.0, "better"),
        (MEMORY, 100 * 2**20, 126 * 2**20, "worse"),
        (MEMORY, 2**20, 8 * 2**20, "same"),
        (CONNECTIONS, 10, 15, "same"),
        (CONNECTIONS, 10, 16, "worse"),
        (CONNECTIONS, 0, 6, "worse"),
        (MEAN, 1.0, None, "missing"),
        (MEAN, None, 1.0, "none"),
    ],
)
def test_the_verdict_depends_on_the_relative_and_the_absolute_tolerance(metric, before, after, verdict):
    assert judge(metric, before, after, TOLERANCES[metric.key]).verdict == verdict


def test_a_comparison_of_equal_records_finds_no_change():
    assert set(verdicts(record(), record()).values()) == {"same"}


def test_every_metric_has_a_tolerance():
    assert set(TOLERANCES) == {metric.key for metric in METRICS}


def test_a_metric_is_worse_if_it_disappears_and_not_if_it_was_never_measured():
    rows = compare(record(), record(task_seconds_mean=None), TOLERANCES)
    assert worse(rows)
    assert not worse(compare(record(task_seconds_mean=None), record(), TOLERANCES))


def test_the_comparison_names_the_switch():
    before = record() | {"switches": {"task_payload": "id", "flower_enabled": True}}
    after = record() | {"switches": {"task_payload": "full", "flower_enabled": True}}
    assert switched(before, after) == "task_payload id → full"
    assert switched(after, after) == "nothing"


def test_the_table_ends_with_the_verdict():
    before, worse = record("monday"), record("tuesday", success_ratio=0.5, task_seconds_mean=0.1)
    *_, last = table(before, before, compare(before, before, TOLERANCES))
    assert last == "baseline: ok, nothing is worse than it may be"
    lines = table(before, worse, compare(before, worse, TOLERANCES))
    assert lines[-1] == "baseline: worse: success rate"
    assert [line.split()[-1] for line in lines if line.startswith(("mean task", "success"))] == ["better", "worse"]
    assert any("90 %" in line and "50 %" in line for line in lines)


def test_the_plot_is_an_svg_with_the_verdict_of_each_metric():
    before, after = record("<monday>"), record("tuesday", success_ratio=0.5, task_seconds_mean=None)
    root = ElementTree.fromstring(plot(before, after, compare(before, after, TOLERANCES)))
    assert root.tag.endswith("svg")
    text = " ".join(root.itertext())
    assert "success rate" in text
    assert "90 % → 50 % (worse)" in text
    assert "<monday>" in text
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(box.get("x", 0)) >= 0
        assert float(box.get("x", 0)) + float(box.get("width")) <= 860


def test_only_records_of_the_same_duration_are_compared(tmp_path):
    for name, seconds in (("20260101T000000Z", 5), ("20260102T000000Z", 60), ("20260103T000000Z", 5), ("20260104T000000Z", 5)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(name) | {"seconds": seconds}))
    assert earlier(tmp_path / "20260103T000000Z.json").name == "20260101T000000Z.json"
    assert earlier(tmp_path / "20260102T000000Z.json") is None


def compared(*arguments: object) -> int:
    return main.main(["compare", "--tolerances", json.dumps(TOLERANCES), *map(str, arguments)])


def test_the_exit_code_is_1_if_a_metric_is_worse(tmp_path, capsys):
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    first.write_text(json.dumps(record()))
    second.write_text(json.dumps(record(success_ratio=0.5)))
    assert compared(first) == 0
    assert "no earlier one" in capsys.readouterr().out
    assert compared(second, "--svg", tmp_path / "2.svg") == 1
    assert (tmp_path / "2.svg").exists()
    assert compared(first, "--before", second) == 0


def test_the_comparison_as_json_tells_worse_from_failed(tmp_path, capsys):
    """Both have exit code 1, and the role has to tell one from the other."""
    path = tmp_path / "1.json"
    path.write_text(json.dumps(record(success_ratio=0.5)))
    (tmp_path / "0.json").write_text(json.dumps(record()))
    assert compared(path, "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == "worse"
    assert {row["metric"]: row["verdict"] for row in printed["rows"]}["success_ratio"] == "worse"
    assert compared(tmp_path / "missing.json", "--json") == 1
    assert "verdict" not in json.loads(capsys.readouterr().out)


def test_a_record_is_made_from_standard_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(raw())))
    assert main.main(["record", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["success_ratio"] == 0.9


def test_the_load_is_spread_evenly_over_the_measurement():
    load = Load("https://platform", "", Path("photo.jpg"), "greyscale", edits=120, seconds=60)
    assert [load.due(number) for number in (0, 1, 119)] == [0, 0.5, 59.5]


def test_a_host_without_redis_has_no_memory_to_sample():
    assert redis_memory(1) == []


def test_the_query_counts_all_that_a_record_needs():
    query = edits.count_query()
    for name in ("accepted", "succeeded", "failed", "cancelled", "unfinished", "task_seconds_mean", "edit_seconds_p95"):
        assert f"'{name}'" in query
    assert query.count("%s") == 2
