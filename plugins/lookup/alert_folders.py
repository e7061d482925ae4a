"""Read alert folders: `{{ query('alert_folders', directory, ...) }}`."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: alert_folders
author: The Image Editor platform team
short_description: Read the alert folders in directories
description:
  - An alert folder is named after its alert. It holds C(rule.yml) (Prometheus rules) or C(rule.yml.j2) (a template of them),
    C(test.yml) (promtool unit tests), C(runbook.md), and may hold C(thresholds.yml) (the rule's thresholds with their defaults).
  - A folder in a later directory replaces the folder of the same name in an earlier directory.
options:
  _terms:
    description: Directories of alert folders. A directory that does not exist has none.
    type: list
    elements: path
    required: true
"""

RETURN = """
_raw:
  description:
    - For each folder, sorted by name, its C(name), the path of its C(rule), and the contents of its files as C(tests), C(runbook)
      and C(thresholds).
  type: list
  elements: dict
"""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C library is ten times as fast, and may be missing


def read(folder: Path) -> dict:
    """Return the contents of one alert folder; raise ValueError if a file is missing or is not what it should be."""
    rules = [folder / name for name in ("rule.yml", "rule.yml.j2") if (folder / name).is_file()]
    if len(rules) != 1:
        raise ValueError(f"alert folder {folder}: needs either rule.yml or rule.yml.j2")
    for name in ("test.yml", "runbook.md"):
        if not (folder / name).is_file():
            raise ValueError(f"alert folder {folder}: {name} is missing")
    tests = (yaml.load((folder / "test.yml").read_text(), LOADER) or {}).get("tests")
    if not tests:
        raise ValueError(f"alert folder {folder}: test.yml has no tests")
    thresholds = folder / "thresholds.yml"
    return {
        "name": folder.name,
        "rule": str(rules[0]),
        "tests": tests,
        "runbook": (folder / "runbook.md").read_text(),
        "thresholds": (yaml.load(thresholds.read_text(), LOADER) or {}) if thresholds.is_file() else {},
    }


def folders(directories: list[str]) -> list[Path]:
    """Return the alert folders in ``directories`` sorted by name; of two with the same name, the later one."""
    found = {
        folder.name: folder
        for directory in directories
        if Path(directory).is_dir()
        for folder in Path(directory).iterdir()
        if folder.is_dir()
    }
    return [found[name] for name in sorted(found)]


class LookupModule(LookupBase):
    """Ansible's interface to this module."""

    def run(self, terms: list[str], variables: dict | None = None, **kwargs: object) -> list[dict]:
        try:
            return [read(folder) for folder in folders(terms)]
        except (ValueError, yaml.YAMLError) as error:
            raise AnsibleLookupError(str(error)) from error
