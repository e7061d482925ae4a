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
HARMLESS = re.compile(r"[{$|>(\[/*%&…]|client\.|CHANGE_ME$|(true|false|none|null|str|secret)$", re.IGNORECASE)
# The secret of the examples in the specification of Standard Webhooks. The documents for clients show it, too.
EXAMPLE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# Tests may contain passwords of services that exist only during the test. Those of `make dev` end with it, too.
TESTS = ("app/tests/", "app/benchmarks/", "app/development/", "molecule/", "tests/")
# The git hook that refuses a vault which is not encrypted as a whole, and the command with which preflight finds one.
(HOOK,) = [hook for hook in load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"] if hook["id"] == "vault"]
CONTROLLER = load(ROOT / "roles/preflight/tasks/controller.yml")
(PREFLIGHT,) = [task["ansible.builtin.command"]["argv"] for task in CONTROLLER if "Look for vaults" in task["name"]]


def text(path: Path) -> str:
    """The contents of a text file, or of all files of an archive."""
    if path.suffix != ".gz":
        return path.read_text()
    with tarfile.open(path) as archive:
        return "\n".join(archive.extractfile(member).read().decode() for member in archive if member.isfile())


def literals(path: Path) -> list[str]:
    found = (QUOTED if path.suffix == ".py" else ASSIGNED).finditer(path.read_text())
    return [match.group().strip() for match in found if not HARMLESS.match(match["value"]) and match["value"] != EXAMPLE]


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
    named = {str(path.relative_to(root)): path for path in paths}
    vaults = [name for name in named if re.search(HOOK["files"], name) and not re.search(HOOK["exclude"], name)]
    return [name for name in vaults if not re.search(HOOK["entry"], named[name].read_text())]


def test_every_vault_is_encrypted():
    assert open_vaults(ROOT, TEXTS) == []


def test_the_hook_and_preflight_find_the_same_vaults(tmp_path):
    header = "$ANSIBLE_VAULT;1.1;AES256"
    encrypted = {"ours/group_vars/all/vault.yml": f"{header}\n6162\n"}
    example = {"ours/group_vars/all/vault.yml.example": "vault_smoke_token: CHANGE_ME\n"}
    found = {
        "theirs/group_vars/all/vault.yml": "vault_smoke_token: hunter2\n",
        "late/group_vars/all/vault.yml": f"vault_smoke_token: hunter2\n# {header}\n{header}\n",
        "early/group_vars/web/vault_web.yaml": f"\n{header}\n",
        "inline/group_vars/all/vault.yml": f"vault_smoke_token: !vault |\n  {header}\n  6162\n",
        "empty/group_vars/all/vault.yml": "",
        "bare/group_vars/all/vault": "vault_smoke_token: hunter2\n",
    }
    vaults = {f"inventories/{name}": contents for name, contents in (encrypted | example | found).items()}
    for name, contents in vaults.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(contents)
    command = [word.replace("{{ inventory_dir }}", "inventories") for word in PREFLIGHT]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert set(said.splitlines()) == {f"inventories/{name}" for name in found}
    assert set(open_vaults(tmp_path, [tmp_path / name for name in vaults])) == set(said.splitlines())


@pytest.mark.parametrize("name", ["secrets/ours/ca/ca.key", ".vault_pass", ".vault-password", "inventories/ours/edge.key"])
def test_git_ignores_secrets(name):
    assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False).returncode == 0
