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


SWITCHES = {
    "/etc/apt/apt.conf.d/52image-editor-upgrades": "upgrades",
    "/etc/ssh/sshd_config.d/00-image-editor.conf": "sshd",
    "/etc/systemd/timesyncd.conf.d/image-editor.conf": "clock",
    "/etc/systemd/journald.conf.d/image-editor.conf": "journal",
    "/etc/sysctl.d/60-image-editor.conf": "sysctl",
    "/etc/systemd/coredump.conf.d/image-editor.conf": "core_dumps_off",
    "/etc/security/limits.d/image-editor.conf": "core_dumps_off",
    "/etc/systemd/system.conf.d/image-editor.conf": "core_dumps_off",
}


def test_the_switch_of_a_part_decides_about_its_files():
    files = {file["path"]: file["state"] for file in FILES if "content" in file}
    assert files.keys() == SWITCHES.keys()
    clock = load(ROLE / "vars/main.yml")["__hardening_timesyncd"]  # left alone if another program sets the clock
    for path, switch in SWITCHES.items():
        assert f"hardening_{switch} | bool" in files[path].replace("__hardening_timesyncd", clock), path
        assert files[path].endswith("else 'absent' }}"), path


@pytest.mark.parametrize("unit", ["certbot", "apt-daily-upgrade", "nftables", "systemd-timesyncd", "image-editor-scheduler"])
def test_a_failure_of_a_unit_of_the_system_is_seen(unit):
    """The alerts UnitFailed and SchedulerStopped know the units that the node exporter reports."""
    command = load(ROOT / "roles/exporters/vars/main.yml")["__exporters_commands"]["node"]
    (pattern,) = re.findall(r"--collector[.]systemd[.]unit-include=(\S+)", command)
    assert re.search(pattern.replace("$$", "$"), f"{unit}.service")
