"""Create the secrets of an environment. Called by ``make vault ENV=<environment>``.

Each CHANGE_ME of ``vault.yml.example`` becomes a random value of its own. ansible-vault encrypts the result, which never
touches the disk in plain text. It asks for a new vault password, or takes the one of ANSIBLE_VAULT_PASSWORD_FILE.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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
    command = ["ansible-vault", "encrypt", "--output", str(vault), "-"]
    if subprocess.run(command, input=filled(example.read_text()), text=True, cwd=root, check=False).returncode:
        vault.unlink(missing_ok=True)
        raise ValueError("ansible-vault did not encrypt the secrets. No vault was written.")
    vault.chmod(0o600)
    return vault


def main() -> None:
    try:
        vault = create(sys.argv[1] if len(sys.argv) > 1 else "")
    except ValueError as error:
        sys.exit(f"make vault: {error}")
    print(f"The secrets are in {vault.relative_to(ROOT)}, encrypted. Commit this file.")
    print("Keep the vault password outside the repository.")
    print(f"To add a secret or to read one, run: ansible-vault edit {vault.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
