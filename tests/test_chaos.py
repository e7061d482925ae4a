"""scripts/chaos.py repeats a run that has the same seed, and brings every host back."""

from __future__ import annotations

import sys
from itertools import islice

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import chaos

HOSTS = ["db1", "redis1", "web1", "worker1"]


def steps(seed: int) -> list[tuple]:
    return list(islice(chaos.plan(seed, HOSTS), 20))


def test_the_same_seed_takes_the_same_hosts_away():
    assert steps(7) == steps(7) != steps(8)
    assert {host for host, *_ in steps(7)} == set(HOSTS)
    assert {failure.name for _, failure, *_ in steps(7)} == {"killed", "frozen", "cut off"}


def test_a_host_comes_back_if_the_run_is_interrupted():
    calls: list[str] = []
    failure = chaos.Failure("killed", lambda host: calls.append(f"kill {host}"), lambda host: calls.append(f"start {host}"))
    away: dict[str, str] = {}

    def interrupted() -> None:
        with chaos.gone("web1", failure, away):
            assert away == {"web1": "killed"}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert calls == ["kill image-editor-lab-web1", "start image-editor-lab-web1"]
    assert away == {}


def test_an_edit_is_open_until_it_has_ended():
    load = chaos.Client("https://localhost", edits={"a": "accepted", "b": "succeeded", "c": "failed", "d": "processing"})
    assert load.open() == ["a", "d"]
