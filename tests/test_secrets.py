"""No file in git contains a secret."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT, each, files, load

TEXTS = [path for path in files() if path.suffix not in {".jpg", ".png", ".webp", ".lock"} and not path.is_symlink()]
NAME = r"""["']?[\w.]*(?:password|passphrase|passwd|secret|secret_key|signing_key|api_key|token|private_key)["']?"""
# `name: value`, `name = "value"`. In Python only a quoted value is a literal.
ASSIGNED = re.compile(rf"""^[ \t-]*{NAME}[ \t]*[:=][ \t]*["']?(?P<value>[^\s"'#,]+)""", re.IGNORECASE | re.MULTILINE)
QUOTED = re.compile(rf"""\b{NAME}[ \t]*[:=][ \t]*["'](?P<value>[^\s"']+)["']""", re.IGNORECASE)
# Values that are computed, or plainly no secret.
HARMLESS = re.compile(r"[{$|>(\[/*%&]|CHANGE_ME$|(true|false|none|null|str|secret)$", re.IGNORECASE)
# Tests may contain passwords of services that exist only during the test.
TESTS = ("app/tests/", "app/benchmarks/", "molecule/", "tests/")
# The git hook that refuses a vault which is not encrypted.
(HOOK,) = [hook for hook in load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"] if hook["id"] == "vault"]


def text(path: Path) -> str:
    """The contents of a text file, or of all files of an archive."""
    if path.suffix != ".gz":
        return path.read_text()
    with tarfile.open(path) as archive:
        return "\n".join(archive.extractfile(member).read().decode() for member in archive if member.isfile())


def literals(path: Path) -> list[str]:
    found = (QUOTED if path.suffix == ".py" else ASSIGNED).finditer(path.read_text())
    return [match.group().strip() for match in found if not HARMLESS.match(match["value"])]


@each("path", [path for path in TEXTS if not str(path.relative_to(ROOT)).startswith(TESTS)])
def test_no_file_contains_a_literal_secret(path):
    assert literals(path) == []


@each("path", TEXTS)
def test_no_file_contains_a_private_key(path):
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY-{5}\s+[A-Za-z0-9+/=]{40}", text(path))


def test_the_search_finds_literal_secrets(tmp_path):
    yml, py = tmp_path / "bad.yml", tmp_path / "bad.py"
    yml.write_text('postgresql_password: hunter2\nvault:\n  admin_token: "hunter2"\nmedia_password: "{{ vault }}"\n')
    py.write_text('SECRET_KEY = "hunter2"\nconnect(user="x", password="hunter2")\npassword = settings.PASSWORD\n')
    assert [len(literals(path)) for path in (yml, py)] == [2, 2]


def open_vaults(root: Path, paths: list[Path]) -> list[str]:
    """The vaults among the paths that are not encrypted, as the git hook finds them."""
    vaults = [path for path in paths if re.search(HOOK["files"], str(path.relative_to(root)))]
    return [str(path.relative_to(root)) for path in vaults if not re.search(HOOK["entry"], path.read_text())]


def test_every_vault_is_encrypted():
    assert open_vaults(ROOT, TEXTS) == []


def test_the_hook_finds_vaults_that_are_not_encrypted(tmp_path):
    header = "$ANSIBLE_VAULT;1.1;AES256"
    vaults = {
        "ours/group_vars/all/vault.yml": f"{header}\n6162\n",
        "theirs/group_vars/all/vault.yml": "vault_smoke_token: hunter2\n",
        "late/group_vars/all/vault.yml": f"vault_smoke_token: hunter2\n# {header}\n{header}\n",
        "early/group_vars/web/vault_web.yaml": f"\n{header}\n",
        "example/group_vars/all/vault.yml.example": "vault_smoke_token: CHANGE_ME\n",
    }
    paths = [tmp_path / "inventories" / name for name in vaults]
    for path, contents in zip(paths, vaults.values(), strict=True):
        path.parent.mkdir(parents=True)
        path.write_text(contents)
    assert [name.split("/")[1] for name in open_vaults(tmp_path, paths)] == ["theirs", "late", "early"]


@pytest.mark.parametrize("name", ["secrets/ours/ca/ca.key", ".vault_pass", ".vault-password", "inventories/ours/edge.key"])
def test_git_ignores_secrets(name):
    assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False).returncode == 0
