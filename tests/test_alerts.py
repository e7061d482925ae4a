"""Every alert is one complete folder, with a unit test in which it fires and one in which it ends. Watchdog never ends."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
from conftest import INVENTORIES, ROOT, load

sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "plugins/lookup"))
import alerts
from alert_folders import folders, read

spec = importlib.util.spec_from_file_location("prometheus_filters", ROOT / "plugins/filter/prometheus.py")
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)

PLATFORM = folders([str(alerts.DIRECTORY)])
FOLDERS = PLATFORM + folders([str(directory / "alerts") for directory in INVENTORIES])
RECORDING_RULES = sorted((ROOT / "roles/prometheus/files/recording_rules").glob("*.yml"))


def test_alert_folders_were_found():
    assert len(PLATFORM) >= 33


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_alert_folder_is_complete(folder):
    alert = read(folder)
    for rule in alerts.rules(alert):
        assert rule["alert"] == folder.name
        assert rule["labels"]["severity"] in (("none",) if folder.name == "Watchdog" else ("critical", "warning"))
        assert rule["annotations"]["summary"]
        assert "flower_worker_online" not in rule["expr"], "Flower never removes a dead worker from this metric"
    headings = re.findall(r"^#+ (.+)", alert["runbook"], re.MULTILINE)
    assert headings == [folder.name, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    tests = [
        test["exp_alerts"]
        for group in alert["tests"]
        for test in group.get("alert_rule_test", [])
        if test["alertname"] == folder.name
    ]
    assert [expected for expected in tests if expected], "no unit test in which the alert fires"
    assert [] in tests or folder.name == "Watchdog", "no unit test in which the alert does not fire"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_threshold_is_used_in_its_own_folder(folder):
    alert = read(folder)
    used = set(re.findall(r"\bthreshold\.(\w+)", (folder / "rule.yml.j2").read_text())) if alert["rule"].endswith("j2") else set()
    assert used == set(alert["thresholds"])


def test_no_two_folders_have_the_same_threshold():
    names = [name for folder in FOLDERS for name in read(folder)["thresholds"]]
    assert len(names) == len(set(names))


def test_no_two_rules_have_the_same_name_and_labels():
    """Prometheus refuses such a file."""
    found = [rule for folder in PLATFORM for rule in alerts.rules(read(folder))]
    names = [(rule["alert"], tuple(sorted(rule["labels"].items()))) for rule in found]
    assert len(names) == len(set(names))


def test_the_alerts_page_is_up_to_date():
    assert alerts.PAGE.read_text() == alerts.generate(), "run .venv/bin/python scripts/alerts.py"


def test_the_alerts_page_has_a_section_for_every_alert():
    sections = re.findall(r"^### (\w+)\n\*(?:critical|warning|none)\*", alerts.PAGE.read_text(), re.MULTILINE)
    assert sorted(sections) == [folder.name for folder in PLATFORM]


@pytest.mark.parametrize("missing", ["rule.yml", "test.yml", "runbook.md"])
def test_an_incomplete_folder_is_refused_by_name(tmp_path, missing):
    folder = tmp_path / "QueueLong"
    folder.mkdir()
    for name, text in {"rule.yml": "groups: []", "test.yml": "tests: [{}]", "runbook.md": "# QueueLong"}.items():
        if name != missing:
            (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"QueueLong: .*{missing}"):
        read(folder)


def test_a_folder_of_a_later_directory_replaces_the_earlier_one(tmp_path):
    for directory in ("role", "inventory"):
        (tmp_path / directory / "HostDisk").mkdir(parents=True)
    (tmp_path / "role/HostDown").mkdir()
    assert folders([str(tmp_path / name) for name in ("role", "inventory", "missing")]) == [
        tmp_path / "inventory/HostDisk",
        tmp_path / "role/HostDown",
    ]


def test_groups_of_the_same_name_are_merged_and_alerts_get_their_runbook():
    text = "groups: [{{name: Hosts, rules: [{{alert: {}, expr: up == 0{}}}]}}]"
    files = [text.format("A", ""), text.format("B", ", annotations: {runbook_url: https://own}"), "groups: [{name: X, rules: }]"]
    (group,) = filters.prometheus_rules(files, "https://page")["groups"]
    assert [rule["annotations"]["runbook_url"] for rule in group["rules"]] == ["https://page#a", "https://own"]
    assert "annotations" not in filters.prometheus_rules(files)["groups"][0]["rules"][0]


@pytest.mark.parametrize(
    ("job", "problem"),
    [
        ({"hosts": ["web1"], "port": 1}, None),
        ({"targets": [{"host": "web1", "port": 1}]}, None),
        ({"hosts": ["switch1"], "port": 1, "address": "192.0.2.1"}, None),
        ({"hosts": []}, "port is missing"),
        ({"port": 1}, "needs hosts and port, or targets"),
        ({"targets": [{"host": "web1"}]}, "a target needs host and port"),
        ({"hosts": ["web9"], "port": 1}, "host web9 has no address"),
        ({"hosts": ["web1"], "port": 1, "pat": "/x"}, "unknown pat"),
    ],
)
def test_an_incomplete_scrape_job_is_refused_by_name(job, problem):
    problems = filters.prometheus_job_problems({"extra": job}, {"web1": "192.0.2.7"})
    assert [text for text in problems if problem in text and "Scrape job extra" in text] == problems if problem else not problems
    assert bool(problems) == bool(problem)


def test_the_baselines_are_recorded():
    recorded = {rule["record"] for path in RECORDING_RULES for group in load(path)["groups"] for rule in group["rules"]}
    assert recorded >= {
        "image_editor:task_seconds:mean5m",
        "image_editor:success_ratio:5m",
        "image_editor:redis_memory_bytes",
        "image_editor:database_connections",
    }
