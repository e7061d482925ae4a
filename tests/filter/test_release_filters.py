"""What a release or a rollback decides from the releases that hosts have."""

from __future__ import annotations

import importlib.util

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("filter_release", ROOT / "plugins/filter/release.py")
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


def status(current: str = "", previous: str = "", proven: str = "") -> dict:
    return {"current": current, "previous": previous, "proven": proven}


@pytest.mark.parametrize(
    ("found", "left"),
    [
        pytest.param({}, "", id="nothing installed"),
        pytest.param(status(), "", id="fresh host"),
        pytest.param(status(A, "", A), A, id="another release"),
        pytest.param(status(B, A, B), B, id="nothing to do"),
        pytest.param(status(B, A, A), A, id="an interrupted run has switched the host"),
        pytest.param(status(B, "", ""), "", id="an interrupted first run"),
    ],
)
def test_release_left_is_the_release_that_a_host_ran_before_this_release(found, left):
    assert release.release_left(found, B) == left


@pytest.mark.parametrize(
    ("statuses", "target"),
    [
        pytest.param([status(B, A), status(B, A)], A, id="one release everywhere"),
        pytest.param([status(B, A), status(A, C)], A, id="interrupted: the older of the two"),
        pytest.param([status(A, A), status(A, A)], A, id="rolled back already"),
        pytest.param([status(A), {}], A, id="no previous release"),
        pytest.param([status(C, A), status(C, B)], f"{A} or {B}", id="two answers"),
        pytest.param([{}, status()], "", id="nothing installed"),
    ],
)
def test_the_rollback_target_is_the_earlier_release_of_all_hosts(statuses, target):
    assert release.release_rollback_target(statuses) == target


def test_currents_lists_each_current_release_once():
    assert release.release_currents([status(B), {}, status(), status(A), status(B)]) == [A, B]


@pytest.mark.parametrize(
    ("statuses", "left"),
    [
        pytest.param([status(B, A, B), {}], [B], id="the newer release"),
        pytest.param([status(A, A, B), status(B, A, B)], [B], id="interrupted"),
        pytest.param([status(A, A, B), status(A, A, B)], [B], id="interrupted after the last switch"),
        pytest.param([status(A, A, A), status(C, A, A)], [C], id="the first hosts of a release"),
        pytest.param([status(A, A, A)], [], id="rolled back already"),
    ],
)
def test_rolled_back_lists_the_releases_that_the_rollback_leaves(statuses, left):
    assert release.release_rolled_back(statuses, A) == left


@pytest.mark.parametrize(
    ("serial", "turns"),
    [
        pytest.param(1, ["a", "b", "c", "d", "e"], id="one host at a time"),
        pytest.param("2", ["ab", "cd", "e"], id="a number from the command line"),
        pytest.param("40%", ["ab", "cd", "e"], id="a percentage"),
        pytest.param("1%", ["a", "b", "c", "d", "e"], id="at least one host"),
        pytest.param(0, ["a", "b", "c", "d", "e"], id="none is one host, too"),
        pytest.param([1, "60%"], ["a", "bcd", "e"], id="a list"),
        pytest.param([1, 1, 9], ["a", "b", "cde"], id="more than there are"),
    ],
)
def test_hosts_switch_in_turns(serial, turns):
    assert release.release_turns("abcde", serial) == [list(turn) for turn in turns]


def test_only_the_first_hosts_have_a_turn():
    assert release.release_turns("abc", 1, "2") == [["a"], ["b"]]
    assert release.release_turns("abc", 5, 9) == [["a", "b", "c"]]
    assert release.release_turns([], 1) == []


def test_the_expected_size_counts_until_the_size_of_the_release_is_known():
    assert release.release_bytes_needed({}, "128", 400) == 528 * 2**20
    assert release.release_bytes_needed({"bytes": 100 * 2**20}, 128, 400) == 268 * 2**20


@pytest.mark.parametrize("confirmed", ["app.two", ["app.two"], "app.one, app.two"])
def test_a_confirmed_migration_is_let_through(confirmed):
    pending = {"app.one": [], "app.two": ["drops a column"], "app.three": ["renames a table"]}
    assert release.release_unconfirmed(pending, confirmed) == ["app.three"]
    assert release.release_unconfirmed(pending, []) == ["app.two", "app.three"]


def test_the_reason_of_a_failure_comes_from_the_item_that_failed():
    loop = {"msg": "One or more items failed", "results": [{"failed": False}, {"failed": True, "msg": "no room"}]}
    assert release.release_failure_reason(loop) == "no room"
    assert release.release_failure_reason({"stderr": " refused \n", "msg": "non-zero return code"}) == "refused"
    assert release.release_failure_reason({"stderr": ""}) == "no reason given"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (["a", 1], "a,1"), (90, "90"), ('say "x\\y"', 'say \\"x\\\\y\\"')],
)
def test_a_setting_becomes_the_text_of_an_environment_variable(value, text):
    assert release.environment_value(value) == text
