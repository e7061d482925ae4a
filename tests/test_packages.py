"""Packages that a host has before the role that needs them: those of the lab's image, and those of the first run of apt."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT, derived, load

BASE = [line for line in (ROOT / "scripts/host-image-base").read_text().splitlines() if not line.startswith("#")]
DEBIAN = {"ca-certificates"}  # every image of Debian's own has it
EARLY = load(ROOT / "inventories/shared/packages.yml")["common_packages_early"]


def removed(scenario):
    """Return the packages of its role that the scenario removes from its hosts before it applies the role."""
    plays = load(scenario / "prepare.yml")
    if any(play.get("ansible.builtin.import_playbook") == "../shared/bare.yml" for play in plays):
        return set(load(ROOT / "roles" / scenario.name / "defaults/main.yml")[f"{scenario.name}_packages"])
    tasks = [task for play in plays for task in play.get("tasks", [])]
    uninstalls = [task["ansible.builtin.apt"] for task in tasks if "ansible.builtin.apt" in task]
    return {name for task in uninstalls if task.get("state") == "absent" for name in task["name"]}


@pytest.mark.parametrize("package", BASE)
def test_a_scenario_removes_each_package_of_the_image_that_a_role_installs(package):
    scenarios = [path.parent for path in ROOT.glob("molecule/*/prepare.yml")]
    assert any(package in removed(scenario) for scenario in scenarios)


def test_the_image_has_the_base_packages():
    assert set(load(ROOT / "roles/common/defaults/main.yml")["common_packages"]) - DEBIAN <= set(BASE)


def test_a_role_asks_for_each_package_of_the_first_run():
    names = set(re.findall(r"'([^']+)'", " ".join(re.findall(r"\[([^][]*)\] if", EARLY))))
    assert len(names) > 20
    roles = "\n".join(path.read_text() for path in ROOT.glob("roles/*/*/*.yml") if path.parent.name != "meta")
    assert {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", roles)} == set()


@pytest.mark.parametrize(
    ("host", "wanted"), [("edge1", False), ("web1", True), ("worker1", True), ("db1", False), ("monitor1", True)]
)
def test_only_hosts_with_a_release_get_the_library_for_images(host, wanted):
    early = derived(ROOT / "inventories/lab", host, "common_packages_early", platform_edge_address="10.0.0.1")[
        "common_packages_early"
    ]
    assert ("libvips42t64" in early) == wanted
