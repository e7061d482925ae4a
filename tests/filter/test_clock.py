"""The filter of plugins/filter/clock.py."""

from __future__ import annotations

import doctest
import importlib.util
import subprocess

import pytest
from conftest import ROOT, render

spec = importlib.util.spec_from_file_location("clock", ROOT / "plugins/filter/clock.py")
clock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(clock)


def test_the_example_in_the_docstring_is_true():
    assert doctest.testmod(clock).failed == 0


@pytest.mark.parametrize(("host", "error"), [(100, 0), (107, 0), (110, 0), (111, 1), (170, 60), (99, -1), (40, -60)])
def test_a_clock_is_wrong_if_it_shows_a_time_outside_of_the_question(host, error):
    """The controller asked at 100 and had the answer at 110."""
    assert clock.clock_error(f"{host} 100", 110.9) == error


def test_ansible_counts_the_controllers_time_as_date_does():
    """Role preflight has the same expressions."""
    answer = subprocess.check_output(["date", render("+%s {{ now().timestamp() | int }}")], text=True)
    assert render("{{ answer | clock_error(now().timestamp()) }}", answer=answer) == 0
