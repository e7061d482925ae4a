"""Create the secrets of an environment, and put its CA beside them.

vault.py ENVIRONMENT         called by ``make vault``: writes vault.yml. Each CHANGE_ME of the example becomes a random value.
vault.py --ca ENVIRONMENT    called by ``make vault-ca``: writes vault_ca.yml, with the CA from the first run or from a rotation.

ansible-vault encrypts the files, which never touch the disk in plain text. It asks for the vault password, or takes the one of
ANSIBLE_VAULT_PASSWORD_FILE.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
from image_editor_tools.language import said  # noqa: E402

UNSET = re.compile(r"\bCHANGE_ME\b")


def filled(example: str) -> str:
    """Return the example with a random value for each CHANGE_ME, without its comments at the top."""
    lines = example.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    # Hexadecimal, because some secrets become parts of URLs. 24 bytes are more than anybody can guess.
    return "".join(
        line if line.lstrip().startswith("#") else UNSET.sub(lambda _: secrets.token_hex(24), line) for line in lines[first:]
    )


def create(environment: str, root: Path = ROOT) -> Path:
    """Write the encrypted vault of an environment; return its path.

    Raises ValueError, before anything is written, if the environment has no example or has a vault already.
    """
    folder = root / "inventories" / environment / "group_vars/all"
    vault, example = folder / "vault.yml", folder / "vault.yml.example"
    if not environment or not example.is_file():
        name = f"inventories/{environment or '<yours>'}"
        raise ValueError(f"{name} has no vault.yml.example. Copy inventories/production, and run: make vault ENV=<yours>")
    if vault.exists():
        raise ValueError(f"{vault.relative_to(root)} exists. To change it, run: ansible-vault edit {vault.relative_to(root)}")
    return encrypt(filled(example.read_text()), vault, root)


def keep_ca(environment: str, root: Path = ROOT) -> Path:
    """Write the CA of an environment into its vault_ca.yml, encrypted; return its path. An earlier vault_ca.yml is replaced."""
    folder, ca = root / "inventories" / environment / "group_vars/all", root / "secrets" / environment / "ca"
    if not environment or not folder.is_dir() or not (ca / "ca.key").is_file():
        raise ValueError(f"secrets/{environment or '<yours>'}/ca has no CA. The first run of playbooks/site.yml creates it.")
    lines = ["vault_pki_ca:"]
    for name, file in (("certificate", "ca.crt"), ("private_key", "ca.key")):  # vault_pki_ca_passphrase encrypts the key
        lines += [f"  {name}: |", *(f"    {line}" for line in (ca / file).read_text().splitlines())]
    return encrypt("\n".join(lines) + "\n", folder / "vault_ca.yml", root)


def encrypt(text: str, vault: Path, root: Path) -> Path:
    """Write the text into the vault, encrypted by ansible-vault; return its path. After a failure the file is as it was."""
    new = vault.with_suffix(".new")
    command = ["ansible-vault", "encrypt", "--output", str(new), "-"]
    if subprocess.run(command, input=text, text=True, cwd=root, check=False).returncode:
        new.unlink(missing_ok=True)
        raise ValueError("ansible-vault did not encrypt the secrets. No vault was written.")
    new.chmod(0o600)
    return new.rename(vault)


def main() -> None:
    _, *arguments = sys.argv
    ca = arguments[:1] == ["--ca"]
    (environment,) = arguments[ca:] or [""]
    try:
        vault = (keep_ca if ca else create)(environment).relative_to(ROOT)
    except ValueError as error:
        sys.exit(said(f"make {'vault-ca' if ca else 'vault'}: {error}", sys.stderr))
    where = f"The CA is in {vault}" if ca else f"The secrets are in {vault}"
    for line in (
        f"{where}, encrypted. Commit this file.",
        "Keep the vault password outside the repository.",
        f"To add a secret or to read one, run: ansible-vault edit {vault}",
    ):
        print(said(line, sys.stdout))


if __name__ == "__main__":
    main()
