"""Create a role with everything that the repository's tests require. Called by ``make role NAME=<role> [LAYER=<playbook>]``.

The role, its Molecule scenario and its entry in a playbook are copies of scripts/role_skeleton, with ``rolename`` replaced.
They pass lint, the repository's tests and their own scenario as they are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKELETON = Path(__file__).resolve().parent / "role_skeleton"
PLACEHOLDER = "rolename"
DEFAULT_LAYER = "base"  # runs on every host
ROLES = "  roles:"  # the line of a play after which its roles are listed


def layers(root: Path = ROOT) -> list[str]:
    """Return the playbooks of site.yml that list roles: those that can take another role."""
    imported = re.findall(r"import_playbook: (\w+)\.yml", (root / "playbooks/site.yml").read_text())
    imported.remove("preflight")  # changes nothing on hosts
    return [name for name in imported if ROLES in (root / f"playbooks/{name}.yml").read_text().splitlines()]


def copy(source: Path, target: Path, name: str) -> list[Path]:
    """Copy the files of ``source`` to ``target`` with the placeholder replaced; return the new files."""
    created = []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        new = target / str(path.relative_to(source)).replace(PLACEHOLDER, name)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(path.read_text().replace(PLACEHOLDER, name))
        created.append(new)
    return created


def add_to_playbook(playbook: Path, name: str) -> None:
    """Add the role at the end of the first list of roles in the playbook."""
    lines = playbook.read_text().splitlines()
    end = lines.index(ROLES) + 1
    while end < len(lines) and lines[end].startswith("    "):
        end += 1
    lines.insert(end, f"    - role: {name}")
    playbook.write_text("\n".join(lines) + "\n")


def create(name: str, layer: str, root: Path = ROOT) -> list[Path]:
    """Create role and scenario, add the role to the playbook; return the files that are new or changed.

    Raises ValueError, before anything is written, if the name or the layer cannot be used.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ValueError(f"{name!r} is no name for a role: use lower-case letters, digits and underscores, such as image_cache")
    for taken in (root / "roles" / name, root / "molecule" / name):
        if taken.exists():
            raise ValueError(f"{taken.relative_to(root)} exists already")
    if layer not in layers(root):
        raise ValueError(f"{layer!r} is no playbook that takes a role. Choose one of: {', '.join(layers(root))}")
    created = copy(SKELETON / "role", root / "roles" / name, name) + copy(SKELETON / "scenario", root / "molecule" / name, name)
    playbook = root / f"playbooks/{layer}.yml"
    add_to_playbook(playbook, name)
    return [*created, playbook]


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    if len(arguments) not in (1, 2):
        print(f"usage: make role NAME=<role> [LAYER=<playbook>]\nplaybooks: {', '.join(layers())}", file=sys.stderr)
        return 2
    name, layer = [*arguments, DEFAULT_LAYER][:2]
    try:
        for path in create(name, layer):
            print(path.relative_to(ROOT))
    except ValueError as error:
        print(f"make role: {error}", file=sys.stderr)
        return 1
    print(f"\nThe role runs in playbooks/{layer}.yml. Playbooks that can be chosen with LAYER=: {', '.join(layers())}")
    print(f"Try next: make lint, make test SCENARIO={name}. Then replace the example's packages, settings and texts.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
