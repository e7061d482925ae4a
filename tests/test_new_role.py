"""`make role` creates a role that passes lint and the repository's tests without a change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

NAME = "image_cache"


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def new_role(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(root, sys.executable, "scripts/new_role.py", *arguments)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of the repository with a new role in it."""
    root = tmp_path_factory.mktemp("copy") / "repository"
    here = shutil.ignore_patterns(".git", ".venv", "build", "secrets", "__pycache__", ".*_cache", ".ansible")
    shutil.copytree(ROOT, root, symlinks=True, ignore=here)
    created = new_role(root, NAME)
    assert created.returncode == 0, created.stdout
    assert "The role runs in playbooks/base.yml." in created.stdout
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        assert run(root, *command).returncode == 0
    return root


CHECKS = {
    "the repository's tests": ["pytest", "-q", "tests", "-k", f"{NAME} or networks_are_distinct"],
    "ruff": ["ruff", "check", f"molecule/{NAME}"],
    "ruff's format": ["ruff", "format", "--check", f"molecule/{NAME}"],
    "yamllint": ["yamllint", "--strict", f"roles/{NAME}", f"molecule/{NAME}", "playbooks/base.yml"],
    "ansible-lint": ["ansible-lint", "--offline", "-q", f"roles/{NAME}", f"molecule/{NAME}", "playbooks/base.yml"],
}


@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS)
def test_a_new_role_passes_lint(repository, command):
    checked = run(repository, *command)
    assert checked.returncode == 0, checked.stdout


def test_no_placeholder_of_the_skeleton_is_left(repository):
    new = [path for folder in ("roles", "molecule") for path in (repository / folder / NAME).rglob("*") if path.is_file()]
    assert len(new) > 8
    assert [path for path in new if "rolename" in path.name or "rolename" in path.read_text()] == []


def test_the_new_role_is_the_last_role_of_its_playbook(repository):
    before = (ROOT / "playbooks/base.yml").read_text()
    assert (repository / "playbooks/base.yml").read_text() == before + f"    - role: {NAME}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Image-Cache", "base"], "is no name for a role"),
        (["common", "base"], "roles/common exists already"),
        ([NAME + "2", "site"], "Choose one of: base, firewall, cache,"),
        ([], "playbooks: base, firewall, cache,"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(repository, arguments, said):
    refused = new_role(repository, *arguments)
    assert refused.returncode != 0
    assert said in refused.stdout
    assert run(repository, "git", "status", "--porcelain").stdout.count("??") == 0
