"""When image-editor-postgresql watch kills Patroni. Scenario postgresql_ha has the test with a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.message import Message
from urllib.error import HTTPError, URLError

import pytest

from image_editor_tools.errors import Failure
from image_editor_tools.postgresql import watch
from image_editor_tools.postgresql.watch import Unit, read_unit


def refused(code: int) -> Failure:
    """What Clients.patroni raises if Patroni answers with an error."""
    failure = Failure("Patroni on a refuses")
    failure.__cause__ = HTTPError("https://192.0.2.1/liveness", code, "", Message(), None)
    return failure


TIMES_OUT, UNWELL = URLError(TimeoutError("timed out")), refused(503)
RUNS = Unit("active", 3600)


@pytest.fixture
def observe(monkeypatch) -> Iterator[Callable[..., list[float]]]:
    """A function: the seconds after which Patroni is killed, if each answer to /liveness is the next one of those that are given.

    A time-out takes three seconds, another answer none.
    """
    clock = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def observed(answers: list[Exception | None], unit: Unit = RUNS) -> list[float]:
        left, killed = list(answers), []

        class Clients:
            described = type("Described", (), {"me": "a"})

            def patroni(self, node: str, path: str) -> str:
                assert (node, path) == ("a", "/liveness")
                answer = left.pop(0)
                if answer is TIMES_OUT:
                    clock[0] += 3
                if answer:
                    raise answer
                return ""

        monkeypatch.setattr(watch, "look", lambda: unit)
        monkeypatch.setattr(watch, "end", lambda unit, reason: killed.append(clock[0]))
        watch.watch(Clients, again=lambda: bool(left))
        return killed

    return observed


def test_a_process_that_does_not_answer_is_killed_within_twenty_seconds(observe):
    (seconds,) = observe([TIMES_OUT] * 3)
    assert 10 <= seconds <= 20


def test_a_loop_that_does_not_run_is_killed_soon_after_patroni_says_so(observe):
    assert observe([UNWELL] * 2) == [3]


def test_one_late_answer_kills_nothing(observe):
    assert observe([TIMES_OUT, None] * 10) == []
    assert observe([UNWELL, None] * 10) == []


@pytest.mark.parametrize("error", [URLError(ConnectionRefusedError()), URLError("certificate has expired"), refused(404)])
def test_an_error_that_is_no_hang_kills_nothing(observe, error):
    assert observe([error] * 20) == []


@pytest.mark.parametrize("unit", [Unit("inactive", 3600), Unit("activating", 3600), Unit("active", 10)])
def test_a_patroni_that_is_stopped_or_has_just_been_started_is_left_alone(observe, unit):
    assert observe([TIMES_OUT] * 10, unit) == []


def test_a_patroni_that_hangs_while_it_stops_is_killed(observe):
    assert observe([UNWELL] * 2, Unit("deactivating", 3600)) == [3]


@pytest.mark.parametrize(("state", "signals"), [("active", ["KILL"]), ("deactivating", ["INT", "KILL"])])
def test_the_server_stops_only_if_patroni_was_to_be_stopped(monkeypatch, state, signals):
    sent = []
    monkeypatch.setattr(watch, "run", lambda *command: sent.append(command))
    watch.end(Unit(state, 3600), "reason")
    assert [command[3].removeprefix("--signal=") for command in sent] == signals
    assert sent[-1][2] == "--kill-whom=main"


def test_the_properties_of_the_unit_are_read():
    assert read_unit("ActiveState=active\nExecMainStartTimestampMonotonic=4000000\n", 10) == Unit("active", 6)
