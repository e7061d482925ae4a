"""Every alert says how bad it is and what to do, and has a unit test in which it fires and one in which it ends."""

from __future__ import annotations

import re

import jinja2
import pytest
import yaml
from conftest import ROOT, load

LIMITS = load(ROOT / "roles/prometheus/vars/main.yml")["__prometheus_thresholds"]


def rules(name: str) -> list[dict]:
    """The rules as the role renders them."""
    environment = jinja2.Environment(variable_start_string="<<", variable_end_string=">>", undefined=jinja2.StrictUndefined)
    environment.filters["comment"] = "# {}".format
    template = environment.from_string((ROOT / f"roles/prometheus/templates/{name}.yml.j2").read_text())
    text = template.render(
        ansible_managed="",
        prometheus_alert_delay="2m",
        __prometheus_limits=LIMITS,
        prometheus_backup_kinds=["postgresql", "redis"],
    )
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


ALERTS = rules("alerts")
UNIT_TESTS = [
    test for file in load(ROOT / "roles/prometheus/files/rules_test.yml")["tests"] for test in file.get("alert_rule_test", [])
]


@pytest.mark.parametrize("name", sorted({alert["alert"] for alert in ALERTS}))
def test_alert_is_complete(name):
    for alert in (alert for alert in ALERTS if alert["alert"] == name):
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert "flower_worker_online" not in alert["expr"], "a dead worker stays in it for ever"
    assert re.search(rf"^### {name}\n\*(critical|warning)", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    tests = [test["exp_alerts"] for test in UNIT_TESTS if test["alertname"] == name]
    assert [expected for expected in tests if expected], "no test in which it fires"
    assert [] in tests, "no test in which it does not"


def test_no_two_rules_have_the_same_name_and_labels():
    """Prometheus refuses such a file."""
    names = [(alert["alert"], tuple(sorted(alert["labels"].items()))) for alert in ALERTS]
    assert len(names) == len(set(names))


def test_runbook_has_no_section_too_many():
    assert set(re.findall(r"^### (\w+)", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)) == {a["alert"] for a in ALERTS}


def test_every_limit_is_used():
    templates = (ROOT / "roles/prometheus/templates/alerts.yml.j2").read_text()
    assert [name for name in LIMITS if not re.search(rf"limit\.{name}\b", templates)] == []


def test_the_baselines_are_recorded():
    assert {rule["record"] for rule in rules("recording")} >= {
        "image_editor:task_seconds:mean5m",
        "image_editor:success_ratio:5m",
        "image_editor:redis_memory_bytes",
        "image_editor:database_connections",
    }
