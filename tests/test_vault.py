"""`make vault` creates the secrets of an environment, encrypted."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import vault

EXAMPLE = ROOT / "inventories/production/group_vars/all/vault.yml.example"
FOLDER = "inventories/shop/group_vars/all"


def leaves(value) -> list[str]:
    return [leaf for each in value.values() for leaf in leaves(each)] if isinstance(value, dict) else [value]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with one environment that has no vault yet."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    (folder / "vault.yml.example").write_text(EXAMPLE.read_text())
    password = tmp_path / "password"
    password.write_text("only for this test\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))
    return tmp_path


def test_every_secret_of_the_example_gets_its_own_value():
    values = leaves(yaml.safe_load(vault.filled(EXAMPLE.read_text())))
    assert len(values) == EXAMPLE.read_text().count(": CHANGE_ME")
    assert len(set(values)) == len(values)
    assert all(len(value) == 48 and value.isalnum() for value in values)


def test_the_vault_is_encrypted_and_opens_with_the_password(root):
    made = vault.create("shop", root)
    assert made == root / FOLDER / "vault.yml"
    assert made.read_text().startswith("$ANSIBLE_VAULT;")
    assert made.stat().st_mode & 0o777 == 0o600
    opened = subprocess.run(["ansible-vault", "view", made], capture_output=True, text=True, cwd=root, check=True).stdout
    assert yaml.safe_load(opened).keys() == yaml.safe_load(EXAMPLE.read_text()).keys()
    assert sorted(path.name for path in made.parent.iterdir()) == ["vault.yml", "vault.yml.example"]


def test_a_second_run_does_not_replace_the_secrets(root):
    before = vault.create("shop", root).read_text()
    with pytest.raises(ValueError, match=f"{FOLDER}/vault.yml exists"):
        vault.create("shop", root)
    assert (root / FOLDER / "vault.yml").read_text() == before


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_an_unknown_environment_is_refused(root, name):
    with pytest.raises(ValueError, match=r"has no vault\.yml\.example"):
        vault.create(name, root)


def test_nothing_is_left_if_encryption_fails(root, monkeypatch):
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(root / "missing"))
    with pytest.raises(ValueError, match="No vault was written"):
        vault.create("shop", root)
    assert not (root / FOLDER / "vault.yml").exists()


def test_the_ca_is_put_beside_the_secrets_and_replaced_after_a_rotation(root):
    ca = root / "secrets/shop/ca"
    ca.mkdir(parents=True)
    for certificate in ("first", "second"):
        (ca / "ca.crt").write_text(f"{certificate}\nline\n")
        (ca / "ca.key").write_text("encrypted\n")
        made = vault.keep_ca("shop", root)
        assert made == root / FOLDER / "vault_ca.yml"
        assert made.read_text().startswith("$ANSIBLE_VAULT;")
        opened = subprocess.run(["ansible-vault", "view", made], capture_output=True, text=True, cwd=root, check=True).stdout
        assert yaml.safe_load(opened) == {"vault_pki_ca": {"certificate": f"{certificate}\nline\n", "private_key": "encrypted\n"}}


def test_a_ca_that_does_not_exist_yet_is_refused(root):
    with pytest.raises(ValueError, match="secrets/shop/ca has no CA"):
        vault.keep_ca("shop", root)
    assert not (root / FOLDER / "vault_ca.yml").exists()


def test_the_command_prints_one_line_for_a_mistake():
    command = [sys.executable, "scripts/vault.py", "nowhere"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "inventories/nowhere has no vault.yml.example" in ran.stderr
