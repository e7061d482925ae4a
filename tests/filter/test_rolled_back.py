"""What hosts remember of rollbacks, and what an inventory would bring back."""

from __future__ import annotations

import base64
import importlib.util
import json

import pytest
from conftest import ROOT, load

spec = importlib.util.spec_from_file_location("filter_rolled_back", ROOT / "plugins/filter/rolled_back.py")
rolled_back = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rolled_back)

KNOWN = load(ROOT / "roles/feature/vars/main.yml")["__feature_known"]
BY = {"by": "anna@controller", "commit": "3dabdd0"}
OFF = rolled_back.rolled_back_remember(
    {}, ["flower"], rolled_back=True, at="2026-11-26T12:50:11Z", line="flower_enabled: false", **BY
)


def slurped(memory: dict) -> dict:
    return {"content": base64.b64encode(json.dumps(memory).encode()).decode()}


def test_the_newest_entry_counts_and_hosts_without_a_file_are_skipped():
    on = rolled_back.rolled_back_remember(OFF, ["flower"], rolled_back=False, at="2026-11-27T08:00:00Z", **BY)
    for files in ([OFF, on], [on, OFF]):
        read = rolled_back.rolled_back_read([{"failed": True}, {}, *map(slurped, files)])
        assert not read["flower"]["rolled_back"], "a host that was away must not bring an older memory back"


def test_memories_of_several_hosts_are_joined():
    release = rolled_back.rolled_back_remember({}, ["release aaa"], rolled_back=True, at="2026-11-26T12:00:00Z", **BY)
    assert set(rolled_back.rolled_back_read([slurped(OFF), slurped(release)])) == {"flower", "release aaa"}


def test_a_rollback_that_is_already_remembered_keeps_its_date_and_author():
    again = {"rolled_back": True, "at": "2027-01-01T00:00:00Z", "by": "bob@elsewhere", "line": "flower_enabled: false"}
    assert rolled_back.rolled_back_remember(OFF, ["flower"], **again) == OFF


def test_bringing_back_a_name_without_an_entry_adds_no_entry():
    assert rolled_back.rolled_back_remember({}, ["flower"], rolled_back=False, at="2026-11-26T12:00:00Z", **BY) == {}


@pytest.mark.parametrize(
    ("memory", "values", "release", "conflicts"),
    [
        pytest.param(OFF, {"flower": True}, "", ["flower"], id="the edited line is lost"),
        pytest.param(OFF, {"flower": "true"}, "", ["flower"], id="as text on the command line"),
        pytest.param(OFF, {"flower": False}, "", [], id="committed"),
        pytest.param(OFF, {"monitoring": True}, "", [], id="another feature"),
        pytest.param({}, {"flower": True}, "", [], id="nothing remembered"),
        pytest.param({"task_payload": OFF["flower"]}, {"task_payload": "full"}, "", ["task_payload"], id="not a boolean"),
        pytest.param({"release aaa": OFF["flower"]}, {}, "aaa", ["release aaa"], id="a release"),
        pytest.param({"release aaa": OFF["flower"]}, {}, "bbb", [], id="another release"),
    ],
)
def test_conflicts_are_the_rolled_back_names_that_the_inventory_would_bring_back(memory, values, release, conflicts):
    assert rolled_back.rolled_back_conflicts(memory, KNOWN, values, release) == conflicts


def test_a_refusal_names_the_author_the_time_the_line_to_commit_and_the_option():
    (text,) = rolled_back.rolled_back_refusals(OFF, ["flower"], "")
    assert "flower was rolled back on 2026-11-26 12:50:11 UTC by anna@controller, at commit 3dabdd0." in text
    assert "commit this line in group_vars/all/features.yml: flower_enabled: false." in text
    assert text.endswith("-e feature_bring_back=flower")
    (text,) = rolled_back.rolled_back_refusals({"release aaa": OFF["flower"]}, ["release aaa"], "bbb")
    assert "group_vars/all/releases.yml" in text
    assert text.endswith("-e release_bring_back=aaa")


@pytest.mark.parametrize("accepted", ["flower", "monitoring, flower", ["flower"]])
def test_a_name_that_the_operator_accepts_is_not_refused(accepted):
    assert rolled_back.rolled_back_refusals(OFF, ["flower"], accepted) == []
