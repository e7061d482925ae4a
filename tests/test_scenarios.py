"""Every Molecule scenario has hosts, tests that are found, and a network of its own."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import INVENTORIES, ROLES, ROOT, SCENARIOS, SHARED, each, load, render, runs_role

LINKED = "${MOLECULE_PROJECT_DIRECTORY}"
# The group_vars/all of scenarios that link the shared wiring, as environments do.
WIRED = sorted(path.parent for path in (ROOT / "molecule").glob("**/all/000_shared"))


def in_group(group: dict) -> dict[str, dict]:
    """The hosts of an inventory's group and of the groups in it, with their variables."""
    found = dict(group.get("hosts", {}))
    for child in group.get("children", {}).values():
        found |= {name: host or found.get(name) for name, host in in_group(child or {}).items()}
    return found


@each("scenario", SCENARIOS)
def test_container_names_contain_the_name_of_the_scenario(scenario):
    """Hosts are in hosts.yml or in an inventory that molecule.yml links. A container's name contains the scenario's name."""
    links = ((load(scenario / "molecule.yml") or {}).get("provisioner") or {}).get("inventory", {}).get("links", {})
    hosts = Path(str(links.get("hosts", scenario / "hosts.yml")).replace(LINKED, str(ROOT)))
    assert hosts.exists()
    if hosts.is_file():
        names = {name: host["ansible_host"] for name, host in in_group(load(hosts)["all"]).items()}
        assert names
        assert names == {name: f"image-editor-test-{scenario.name}-{name}" for name in names}


@each("scenario", SCENARIOS)
def test_every_scenario_has_a_test(scenario):
    """A verifier that finds no test passes, so every scenario must have a test in a file test_*.py."""
    tests = [path for path in scenario.glob("test_*.py") if re.search(r"^def test_", path.read_text(), re.MULTILINE)]
    assert tests, "no test_*.py with a test in it"


@each("test", sorted(path for role in ROLES for path in (ROOT / "molecule").glob(f"*/test_{role.name}.py")))
def test_the_scenario_with_a_roles_test_runs_the_role(test):
    """Otherwise the test passes on hosts that another scenario's roles have set up. The file's name says which role it tests."""
    role, scenario = test.stem.removeprefix("test_"), test.parent
    settings = load(scenario / "molecule.yml") or {}
    converge = settings.get("ansible", {}).get("playbooks", {}).get("converge", str(scenario / "converge.yml"))
    played = re.findall(r'(?:\bplay\("|["/](?=\w+\.yml"))(\w+)', test.read_text())  # play("baseline"), "release.yml"
    named = [ROOT / f"playbooks/{name}.yml" for name in played]
    playbooks = [Path(converge.replace(LINKED, str(ROOT))), *(path for path in named if path.exists())]
    assert any(runs_role(path, role) for path in playbooks)


@each("scenario", SCENARIOS)
def test_no_scenario_leaves_out_a_step(scenario):
    """A scenario may add a second run of its roles, and nothing else differs."""
    settings = load(scenario / "molecule.yml") or {}
    steps = load(ROOT / ".config/molecule/config.yml")["scenario"]["test_sequence"]
    own = settings.get("scenario", {"test_sequence": steps})
    assert own.keys() == {"test_sequence"}
    assert [step for step in own["test_sequence"] if step != "idempotence"] == steps
    assert "verifier" not in settings


def test_every_skipped_test_says_why():
    tests = [path for folder in ("molecule", "tests", "app/tests") for path in (ROOT / folder).rglob("*.py")]
    without_reason = r"mark\.skip(?:\(\))?$|mark\.skipif\((?![^\n]*reason=)|pytest\.skip\(\)"
    assert [path for path in tests if re.search(without_reason, path.read_text(), re.MULTILINE)] == []


def test_every_scenario_and_the_lab_have_different_networks():
    """Scenarios run at the same time, and beside a lab that is up."""
    formula = load(ROOT / "playbooks/lab/create.yml")[0]["vars"]["lab_network"]
    names = ["image-editor-lab", *(f"image-editor-test-{scenario.name}" for scenario in SCENARIOS)]
    networks: dict[str, list[str]] = {}
    for name in names:
        networks.setdefault(render(formula, lab_name=name), []).append(name)
    assert [clash for clash in networks.values() if len(clash) > 1] == [], "rename one of them"
    assert all(re.fullmatch(r"10\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.\d{1,3}", network) for network in networks)


@each("directory", WIRED)
def test_a_scenario_with_the_shared_wiring_defines_the_variables_of_environments(directory):
    """The shared wiring reads these variables. Without this test, a missing variable shows only when a role runs."""

    def defined(files: Path) -> set[str]:
        return {name for path in files.glob("*.yml") for name in load(path) or {}}

    everywhere = set.intersection(*(defined(inventory / "group_vars/all") for inventory in INVENTORIES))
    assert "media_backend" in everywhere
    optional = set(re.findall(r"\b(\w+) \| default\(", "\n".join(path.read_text() for path in SHARED)))
    assert everywhere - optional - defined(ROOT / "inventories/shared") - defined(directory) == set()
