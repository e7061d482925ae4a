"""Every switch of an inventory belongs to a known feature, and what that touches converges in the order of site.yml."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import INVENTORIES, ROOT, each, load

KNOWN = load(ROOT / "roles/feature/vars/main.yml")["__feature_known"]
FILES = sorted((ROOT / "playbooks/features").glob("*.yml"))
# What stands for playbooks of site.yml there.
INSTEAD = {"feature_application": "application", "feature_scrapes": "prometheus", "proxy": "cache"}


def imported(path: Path) -> list[str]:
    """The names of the playbooks that a playbook imports, in order."""
    found = [play["ansible.builtin.import_playbook"] for play in load(path) if "ansible.builtin.import_playbook" in play]
    return [Path(name).stem for name in found]


@each("directory", INVENTORIES)
def test_every_switch_is_known_and_has_one_of_its_two_values(directory):
    switches = load(directory / "group_vars/all/features.yml")
    assert {known["variable"] for known in KNOWN.values()} == set(switches)
    for known in KNOWN.values():
        assert switches[known["variable"]] in known["values"].values()
        assert set(known["values"]) == {True, False}


def test_every_feature_has_a_playbook_of_what_it_touches():
    assert {path.stem for path in FILES} == {*KNOWN, "none"}


@each("path", [path for path in FILES if path.stem in KNOWN])
def test_what_a_feature_touches_converges_in_the_order_of_site_yml(path):
    names = [INSTEAD.get(name, name) for name in imported(path) if name != "facts"]
    assert names
    assert names == [name for name in imported(ROOT / "playbooks/site.yml") if name in names]


@pytest.mark.parametrize("name", KNOWN)
def test_a_rollback_converges_what_the_feature_touches(name):
    rollback = ROOT / f"playbooks/rollback/{name}.yml"
    assert imported(rollback)[-3:] == ["rollback_begin", name, "rollback_end"]
