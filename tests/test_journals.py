"""What counts as a fault in the journals of the tests' hosts (molecule/shared/journals.py)."""

from __future__ import annotations

import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "molecule/shared"))
import journals


@pytest.mark.parametrize(
    "line",
    [
        'gunicorn[7]: {"level": "error", "logger": "django.request", "message": "Internal Server Error: /"}',
        "redis-server[7]: == CRITICAL == This replica is sending an error to its primary",
        "image-editor-backup: Traceback (most recent call last):",
        'grafana[7]: logger=server level=error msg="Failed to start"',
    ],
)
def test_a_fault_that_nobody_has_named_is_unknown(line):
    assert journals.unknown([line]) == [line]


@pytest.mark.parametrize(
    "line",
    [
        'gunicorn[7]: {"level": "info", "message": "request", "path": "/ERRORS"}',
        "ansible-ansible.legacy.command[7]: Invoked with _raw_params=grep ERROR",
        'prometheus-alertmanager[7]: level=ERROR source=dispatch.go:360 msg="Notify for alerts failed" num_alerts=1',
        "systemd[1]: Started redis-server.service",
    ],
)
def test_what_is_no_fault_or_is_named_counts_as_nothing(line):
    assert journals.unknown([line]) == []


def test_every_known_fault_says_why():
    for program, text, why in journals.KNOWN:
        re.compile(program)
        re.compile(text)
        assert len(why) > 10
