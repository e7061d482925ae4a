"""Functions and constants of the repository's own tests. These tests run nothing on any host: `pytest tests`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

# Tests run the tools of .venv by their names, also if pytest was started as .venv/bin/pytest.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

ROOT = Path(__file__).resolve().parent.parent
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
SCENARIOS = sorted(path.parent for path in (ROOT / "molecule").glob("*/molecule.yml"))
SHARED = sorted((ROOT / "inventories/shared").glob("*.yml"))  # the wiring that all inventories link
PLAYBOOKS = sorted(path for path in (ROOT / "playbooks").rglob("*.yml") if "host_vars" not in path.parts)


def environments(root: Path) -> list[Path]:
    """The repository's own environments: in git, and without a vault. Only its operators can read an environment with a vault."""
    names = subprocess.check_output(["git", "ls-files", "-z", "inventories/*/hosts.yml"], cwd=root, text=True)
    found = [(root / name).parent for name in names.split("\0") if name]
    return sorted(path for path in found if not list(path.rglob("vault*.yml")))


INVENTORIES = environments(ROOT)


class Loader(yaml.CSafeLoader):
    """A YAML loader that reads a value with one of Ansible's tags as plain text."""


Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


def load(path: Path) -> object:
    """The contents of a YAML file; None if it is empty."""
    return yaml.load(path.read_text(), Loader)


def runs_role(path: Path, role: str) -> bool:
    """Whether a playbook, or a playbook that it imports, runs the role."""
    text = path.read_text()
    imported = re.findall(r"import_playbook: (\S+\.yml)", text)
    return bool(re.search(rf"\b(?:role|name): {role}\b", text)) or any(runs_role(path.parent / name, role) for name in imported)


@cache
def files() -> list[Path]:
    """Every file that git tracks or would add. Ignored files, such as tools, results and secrets, are left out."""
    names = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True)
    return sorted(path for name in names.split("\0") if name and (path := ROOT / name).is_file())


def short(path: Path) -> str:
    """The path as a test's name."""
    return path.name if path.parent in (ROOT / "roles", ROOT / "molecule") else str(path.relative_to(ROOT))


def each(name: str, paths: list[Path]) -> pytest.MarkDecorator:
    """Parametrise by path; refuses an empty list, which would test nothing."""
    assert paths, f"nothing to test for {name}"
    return pytest.mark.parametrize(name, paths, ids=short)


def render(text: str, **variables: object) -> object:
    """The result of a template as Ansible itself computes it; an undefined variable is an error."""
    loader = DataLoader()
    loader.set_basedir(str(ROOT / "templates"))  # the folder of included templates
    return Templar(loader, variables={"ansible_managed": "Ansible managed", **variables}).template(trust_as_template(text))


SOURCES = tempfile.TemporaryDirectory()


def variables_of(inventory: Path, pattern: str, **given: object) -> dict[str, object]:
    """The variables of the pattern's first host, before templating. ``given``: facts and values of the vault.

    Inventory plugins do not run: Ansible warns about hosts_down.yml and lab.yml, and reads hosts.yml.
    """
    source = Path(tempfile.mkdtemp(dir=SOURCES.name))
    (source / "group_vars").mkdir()
    (source / "group_vars/all.yml").write_text(json.dumps(given))
    (source / "hosts.yml").write_text("all: {}\n")
    loader = DataLoader()
    manager = InventoryManager(loader, sources=[str(inventory), str(source)])
    variables = VariableManager(loader, manager)
    (host, *_) = manager.get_hosts(pattern)
    return variables.get_vars(host=host) | {"hostvars": HostVars(manager, variables, loader)}


def derived(inventory: Path, pattern: str, *names: str, **given: object) -> dict[str, object]:
    """The values of variables of the pattern's first host, as a role sees them."""
    wanted = "{{ {" + ", ".join(f"'{name}': {name}" for name in names) + "} | to_json }}"
    text = Templar(DataLoader(), variables=variables_of(inventory, pattern, **given)).template(trust_as_template(wanted))
    return json.loads(text)
