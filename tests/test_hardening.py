"""The role hardening: what the tests on hosts cannot see, because these are containers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT, load

ROLE = ROOT / "roles/hardening"
FILES = load(ROLE / "vars/main.yml")["__hardening_files"]


@pytest.mark.parametrize("name", load(ROLE / "defaults/main.yml")["hardening_sysctl_settings"])
def test_the_kernel_has_every_setting(name):
    """In a container, the role leaves out kernel.* and fs.*. A name that is misspelt would show on servers only."""
    assert list(Path("/proc/sys").glob(name.replace(".", "/"))), f"this kernel has no {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file["path"])
def test_the_switch_of_a_part_decides_about_its_files(file):
    part = {"core_dumps": "core_dumps_off"}.get(file["part"], file["part"])
    wanted = file["wanted"]
    if part == "clock":  # left alone if another program sets the clock
        assert wanted == "{{ __hardening_timesyncd }}"
        wanted = load(ROLE / "vars/main.yml")["__hardening_timesyncd"]
    assert f"hardening_{part} | bool" in wanted


@pytest.mark.parametrize("unit", ["certbot", "apt-daily-upgrade", "nftables", "systemd-timesyncd", "image-editor-scheduler"])
def test_a_failure_of_a_unit_of_the_system_is_seen(unit):
    """The alerts UnitFailed and SchedulerStopped know the units that the node exporter reports."""
    command = load(ROOT / "roles/exporters/vars/main.yml")["__exporters_commands"]["node"]
    (pattern,) = re.findall(r"--collector[.]systemd[.]unit-include=(\S+)", command)
    assert re.search(pattern.replace("$$", "$"), f"{unit}.service")
