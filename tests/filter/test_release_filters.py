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
def test_release_left(found, left):
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
def test_release_rollback_target(statuses, target):
    assert release.release_rollback_target(statuses) == target


def test_release_currents():
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
def test_release_rolled_back(statuses, left):
    assert release.release_rolled_back(statuses, A) == left


def test_bytes_needed_are_expected_until_they_are_known():
    assert release.release_bytes_needed({}, "128", 400) == 528 * 2**20
    assert release.release_bytes_needed({"bytes": 100 * 2**20}, 128, 400) == 268 * 2**20


@pytest.mark.parametrize("confirmed", ["app.two", ["app.two"], "app.one, app.two"])
def test_a_confirmed_migration_is_let_through(confirmed):
    pending = {"app.one": [], "app.two": ["drops a column"], "app.three": ["renames a table"]}
    assert release.release_unconfirmed(pending, confirmed) == ["app.three"]
    assert release.release_unconfirmed(pending, []) == ["app.two", "app.three"]


def test_the_reason_is_that_of_the_item_that_failed():
    loop = {"msg": "One or more items failed", "results": [{"failed": False}, {"failed": True, "msg": "no room"}]}
    assert release.release_failure_reason(loop) == "no room"
    assert release.release_failure_reason({"stderr": " refused \n", "msg": "non-zero return code"}) == "refused"
    assert release.release_failure_reason({"stderr": ""}) == "no reason given"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (["a", 1], "a,1"), (90, "90"), ('say "x\\y"', 'say \\"x\\\\y\\"')],
)
def test_environment_value(value, text):
    assert release.environment_value(value) == text
