"""The client that submits edits during tests (molecule/shared/helpers.py) fails a test for whatever a client would notice."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "molecule/shared"))
import helpers


class FakeApi:
    """An API that accepts edits, and the host of its worker. Subclasses have one fault each."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.asked = threading.Event()

    def submit_timed(self) -> tuple[str, float]:
        self.accepted.append(f"edit-{len(self.accepted)}")
        self.asked.set()
        return self.accepted[-1], 0.25

    def statuses(self) -> dict[str, str]:
        return dict.fromkeys(self.accepted, "succeeded")

    def __call__(self, path: str) -> tuple[int, dict]:
        return 200, {"id": path.rpartition("/")[2], "status": "queued", "attempt": 7}

    def ends(self) -> list[str]:
        """The edits whose end is in the worker's journal."""
        return self.accepted

    def run(self, command: str) -> SimpleNamespace:
        lines = [json.dumps({"message": "edit ended", "task_id": edit, "outcome": "succeeded"}) for edit in self.ends()]
        return SimpleNamespace(stdout="\n".join(lines))


class Refusing(FakeApi):
    def submit_timed(self) -> tuple[str, float]:
        edit = super().submit_timed()
        assert self.accepted != ["edit-0", "edit-1"], "503 Service Unavailable"
        return edit


class Unavailable(FakeApi):
    """Asks to repeat the first requests."""

    def __init__(self, requests: int) -> None:
        super().__init__()
        self.requests = requests

    def submit_timed(self) -> tuple[str, float]:
        if self.requests:
            self.requests -= 1
            raise helpers.Unavailable({"status": 503})
        return super().submit_timed()


class Losing(FakeApi):
    def statuses(self) -> dict[str, str]:
        return super().statuses() | {"edit-0": "queued"}


class Doubling(FakeApi):
    def ends(self) -> list[str]:
        return [*self.accepted, "edit-0"]


class Forgetting(FakeApi):
    def ends(self) -> list[str]:
        return self.accepted[1:]


def submit(api: FakeApi, edits: int = 1) -> helpers.Load:
    with helpers.submitting(api, [api]) as load:
        while len(api.accepted) < edits:
            assert api.asked.wait(10)
            api.asked.clear()
    return load


@pytest.fixture
def impatient(monkeypatch):
    """Half a minute passes each time that somebody looks at the clock."""
    clock = itertools.count(0, 30)
    monkeypatch.setattr(helpers, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))


def test_a_load_without_a_fault_states_what_was_accepted_and_how_fast(capsys):
    load = submit(FakeApi())
    assert load.accepted[0] == "edit-0"
    assert f"{len(load.accepted)} edits accepted, 0 repeated; answers: p99 0.25 s, slowest 0.25 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("api", "edits", "says"),
    [
        pytest.param(Refusing, 2, r"1 edits were refused, \d+ accepted: .*503", id="refused"),
        pytest.param(Losing, 1, '"attempt": 7', id="lost"),
        pytest.param(Doubling, 1, "not once: {'edit-0': 2}", id="doubled"),
        pytest.param(Forgetting, 1, "not once: {'edit-0': 0}", id="not in the journal"),
    ],
)
def test_a_fault_that_a_client_would_notice_fails_the_test(impatient, api, edits, says):
    with pytest.raises(AssertionError, match=says):
        submit(api(), edits)


def test_a_request_is_repeated_once_if_the_api_asks_for_it(monkeypatch):
    monkeypatch.setattr(helpers, "AGAIN", 0)
    load = submit(Unavailable(1))
    assert (load.accepted[0], len(load.repeated), load.refused) == ("edit-0", 1, [])


def test_an_api_that_asks_twice_refuses_the_edit(monkeypatch):
    monkeypatch.setattr(helpers, "AGAIN", 0)
    with pytest.raises(AssertionError, match="1 edits were refused"):
        submit(Unavailable(2))


def test_too_many_repetitions_fail_the_test(monkeypatch):
    monkeypatch.setattr(helpers, "AGAIN", 0)
    monkeypatch.setattr(helpers, "REPEATED", 0)
    with pytest.raises(AssertionError, match="1 edits had to be repeated"):
        submit(Unavailable(1))


def test_a_client_that_is_told_when_to_submit_does_nothing_at_other_times():
    """It asks every second. Here it may submit once it has asked for the second time, and no more."""
    api, asked = FakeApi(), []

    def second_time() -> bool:
        asked.append(api.accepted.copy())
        return len(asked) == 2

    with helpers.submitting(api, [api], when=second_time) as load:
        helpers.until("the client has asked four times", lambda: len(asked) == 4)
    assert asked[:4] == [[], [], ["edit-0"], ["edit-0"]]
    assert load.accepted == ["edit-0"]


def wait_until_stopped(api: FakeApi) -> None:
    with helpers.submitting(api, [api]):
        client = next(thread for thread in threading.enumerate() if thread.name == "client of the API")
        assert api.asked.wait(10)
        client.join(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_client_that_has_stopped_fails_the_test(monkeypatch):
    monkeypatch.setattr(FakeApi, "submit_timed", lambda self: self.asked.set() or 1 / 0)
    with pytest.raises(AssertionError, match="the client stopped before the tests ended"):
        wait_until_stopped(FakeApi())


def test_a_test_whose_thread_dies_fails(tmp_path):
    """With the settings of this repository, which the scenarios use, too."""
    (tmp_path / "test_it.py").write_text(
        "import threading\ndef test_it():\n    t = threading.Thread(target=lambda: 1 / 0)\n    t.start()\n    t.join()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", tmp_path]
    assert "1 failed" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
