"""The templates that several roles share render for every kind of unit, and systemd accepts the units."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from conftest import ROOT, load, render

TEMPLATES = sorted((ROOT / "templates").glob("*.j2"))
DEFAULTS = load(ROOT / "roles/systemd_service/defaults/main.yml")
REQUIRED = {
    "systemd_service_name": "specimen",
    "systemd_service_description": "A specimen",
    "systemd_service_exec_start": "/bin/true --flag",
    "systemd_service_user": "root",
    "systemd_service_group": "root",
}
SPECIMENS = {
    "plain": {},
    "full": {
        "systemd_service_type": "notify",
        "systemd_service_supplementary_groups": ["adm"],
        "systemd_service_after": ["network-online.target", "dbus.service"],
        "systemd_service_environment_files": ["-/etc/default/locale"],
        "systemd_service_environment": {"NAME": "a value with spaces"},
        "systemd_service_settings": {"MemoryMax": "512M", "ExecStartPre": ["/bin/true", "/bin/false"]},
        "systemd_service_socket": {"ListenStream": ["127.0.0.1:8000", "/run/specimen"]},
    },
    "timer": {
        "systemd_service_type": "oneshot",
        "systemd_service_restart_policy": "no",
        "systemd_service_timer": {"OnCalendar": "daily", "Persistent": "true"},
    },
    "drop-in": {
        "systemd_service_hardened": True,
        "systemd_service_hardening_exceptions": {"ProtectSystem": "full", "CapabilityBoundingSet": "CAP_CHOWN"},
        "systemd_service_settings": {"ExecStart": ["", "/bin/false --flag"], "LimitNOFILE": 1024},
    },
}


def specimen(name: str) -> dict[str, str]:
    """The unit files of a specimen, by name."""
    variables = DEFAULTS | REQUIRED | SPECIMENS[name]
    kinds = ["service"] + [kind for kind in ("socket", "timer") if variables[f"systemd_service_{kind}"]]
    units = {f"specimen.{kind}": render(template(kind), **variables) for kind in kinds}
    if "systemd_service_hardened" in SPECIMENS[name]:
        units["specimen.service.d/image-editor.conf"] = render(template("drop-in"), **variables)
    return units


def template(kind: str) -> str:
    return (ROOT / f"templates/systemd.{kind}.j2").read_text()


def test_every_template_is_rendered_by_a_specimen():
    rendered = {"drop-in" if "/" in file else file.split(".")[1] for name in SPECIMENS for file in specimen(name)}
    included = {part for kind in rendered for part in re.findall(r"include 'systemd\.(.+)\.j2'", template(kind))}
    assert {path.name for path in TEMPLATES} == {f"systemd.{kind}.j2" for kind in rendered | included}, "add a specimen"


@pytest.mark.parametrize("name", SPECIMENS)
def test_rendered_units_have_the_header_and_no_template_syntax(name):
    for file, text in specimen(name).items():
        assert text.startswith("#\n# Ansible managed\n#\n"), file
        assert not any(mark in text for mark in ("{{", "{%", "None", "Undefined")), text


@pytest.mark.parametrize("name", SPECIMENS)
def test_systemd_accepts_every_rendered_unit(name, tmp_path):
    if not shutil.which("systemd-analyze"):
        warnings.warn("systemd-analyze is not here: the units were rendered, not verified", stacklevel=1)
        pytest.skip("no systemd-analyze")
    for file, text in specimen(name).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, filter(Path.is_file, tmp_path.iterdir()))],
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_hardening_is_written_in_one_template():
    """Roles harden a unit by role systemd_service; none has a copy of the directives."""
    files = [path for folder in ("roles", "templates") for path in (ROOT / folder).rglob("*") if path.is_file()]
    copies = [path for path in files if path.suffix != ".md" and b"\nProtectSystem=" in path.read_bytes()]
    assert copies == [ROOT / "templates/systemd.hardening.j2"]
