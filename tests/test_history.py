"""The checker of what clients saw (molecule/shared/history.py) finds each broken promise, and finds nothing in a good run."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "molecule/shared"))
from history import History, two_primaries

RESULT = "/media/results/1/1/a/0.jpg"


def answer(kind: str, at: float, status: int = 200, *, edit: str = "", again: bool = False, seen: tuple = ()) -> dict:
    """A line of the load: each answer takes half a second."""
    return {"kind": kind, "at": at, "seconds": 0.5, "status": status, "again": again, "edit": edit, "seen": seen}


def callback(at: float, webhook: str, state: str = "succeeded", result: str = RESULT) -> dict:
    return {"kind": "callback", "at": at, "webhook": webhook, "edit": "a", "state": state, "result": result}


ACCEPTED = answer("edit", 1, 202, edit="a")
SHOWN = answer("status", 5, edit="a", seen=(("a", "succeeded", RESULT),))
# An edit is accepted, and its end is seen twice, in answers and in a callback that comes twice.
GOOD = (
    ACCEPTED,
    answer("list", 3, seen=(("a", "queued", ""),)),
    SHOWN,
    callback(5.2, "c"),
    callback(20, "c"),
    answer("list", 21, seen=(("a", "succeeded", RESULT),)),
    answer("download", 22, edit="a"),
)


def history(*lines: dict) -> History:
    found = History()
    for line in lines:
        found.feed(line)
    return found


def test_a_good_run_has_nothing_to_complain_about():
    found = history(*GOOD)
    assert found.accepted == {"a": 1.5}
    assert (found.lost({"a"}), found.silent(), found.doubled(), found.vanished) == ([], [], [], [])


def test_an_accepted_edit_that_did_not_succeed_is_lost():
    assert history(*GOOD).lost(set()) == ["a"]
    assert history(answer("edit", 1, 503)).lost(set()) == []


def test_an_edit_without_a_callback_is_silent():
    assert history(ACCEPTED, SHOWN).silent() == ["a"]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(callback(30, "d"), id="another callback"),
        pytest.param(callback(30, "c", "failed", ""), id="another end"),
        pytest.param(callback(30, "c", result="/media/results/1/1/a/2.jpg"), id="another result"),
    ],
)
def test_a_second_effect_is_found(line):
    assert history(*GOOD, line).doubled() == ["a"]


@pytest.mark.parametrize("state", ["gone", "processing", "failed"])
def test_a_result_that_was_seen_and_then_gone_is_found(state):
    found = history(*GOOD, answer("download", 30, 404, edit="a", seen=(("a", state, ""),)))
    assert len(found.vanished) == 1
    assert found.vanished[0].startswith(f"a was {state} at 30")


def test_an_answer_that_was_asked_for_before_the_result_was_seen_is_no_loss():
    """The request was under way when another answer showed the result."""
    late = answer("status", 4, edit="a", seen=(("a", "processing", ""),)) | {"seconds": 10.0}
    assert history(ACCEPTED, SHOWN, late).vanished == []


def test_a_callback_shows_the_result_too():
    assert len(history(ACCEPTED, callback(3, "c"), answer("status", 4, edit="a", seen=(("a", "queued", ""),))).vanished) == 1


def test_a_request_counts_as_failed_once_and_as_failed_again_once():
    found = history(answer("edit", 1, 503), answer("edit", 7, 0, again=True), answer("list", 8)).window(0, 10)
    assert [failed.at for failed in found.failed()] == [1]
    assert [failed.at for failed in found.failed(again=True)] == [7]
    assert found.failed("download") == []


def test_the_gap_is_the_longest_time_without_a_good_answer():
    lines = (answer("edit", 1, 202, edit="a"), answer("edit", 2, 503), answer("list", 5), answer("edit", 9, 202, edit="b"))
    found = history(*lines).window(1, 10)
    assert found.gap() == 4  # from 5.5 to 9.5
    assert found.gap("edit") == 8  # from 1.5 to 9.5
    assert found.gap("download") == 9, "no answer at all"
    assert found.slowest("edit") == 0.5
    assert found.slowest("edit", before=1) == 0, "no edit was sent before"


def test_each_answer_is_in_one_window():
    found = history(answer("list", 1, 500))
    assert len(found.window(0, 2).failed()) == 1
    found.feed(answer("list", 1.5, 500))
    assert len(found.window(2, 4).failed()) == 1, "an answer that came late is not forgotten"


def test_two_primaries_are_found():
    """db1, then db2, then db1 again: each promotion begins a timeline."""
    writes = [("1", "db1", 1.0), ("1", "db1", 2.0), ("2", "db2", 9.0), ("2", "db2", 11.0), ("3", "db1", 12.0)]
    assert two_primaries(writes) == []
    (late,) = two_primaries([*writes, ("1", "db1", 9.5)])
    assert late == "timeline 1 had a write at 9.500, 0.500 s after the first on timeline 2"
    assert two_primaries([*writes, ("2", "db1", 10.0)]) == ["db1 and db2 wrote on timeline 2"]
