"""Lookup plugin: which of a host's variables nothing in this repository reads. A misspelt variable is one of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unread_variables
short_description: Variables that nothing reads
description:
    - Returns each variable of the current host whose name begins with one of the prefixes and which nothing reads,
      with the nearest name that something does read.
    - A name counts as read if it occurs in a role, a playbook, the shared wiring, the environment's hooks, or the template of
      another variable.
options:
    _terms:
        description: Prefixes besides the names of the roles, such as V(platform_).
        type: list
        elements: str
    allowed:
        description: Names that count as read.
        type: list
        elements: str
        default: []
"""
EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ lookup('unread_variables', 'platform_', 'vault_', wantlist=true) }}"
"""
RETURN = """
_raw:
    description: Texts such as C(nginx_cleint_max_body_size (nearest is nginx_client_max_body_size)).
    type: list
    elements: str
"""

ROOT = Path(__file__).resolve().parents[2]
READERS = ("roles/**/*.yml", "roles/**/*.j2", "playbooks/**/*.yml", "inventories/shared/*.yml")
MAGIC = {"hostvars", "vars"}  # they hold every variable again
NAME = re.compile(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b")


def names_in(texts: Iterable[str]) -> set[str]:
    """Return everything in the texts that may be the name of a variable with a prefix."""
    return {name for text in texts for name in NAME.findall(text)}


@cache
def names_in_repository(root: Path) -> frozenset[str]:
    """Return the names that roles, playbooks and the shared wiring mention."""
    return frozenset(names_in(path.read_text() for pattern in READERS for path in root.glob(pattern)))


def templates(value: object) -> Iterator[str]:
    """Yield each string in a variable's value that is a template."""
    if isinstance(value, str):
        if "{{" in value or "{%" in value:
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from templates(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from templates(part)


def unread(variables: Mapping[str, Any], prefixes: Iterable[str], read: Iterable[str]) -> list[str]:
    """Return a text for each variable with a prefix that is not in ``read`` and in no other variable's template."""
    prefixes = tuple(prefixes)
    known = set(read) | names_in(text for name, value in variables.items() if name not in MAGIC for text in templates(value))
    candidates = [name for name in known if name.startswith(prefixes)]
    found = []
    for name in sorted(name for name in variables if name.startswith(prefixes) and name not in known):
        nearest = difflib.get_close_matches(name, candidates, n=1)
        found.append(f"{name} (nearest is {nearest[0]})" if nearest else name)
    return found


class LookupModule(LookupBase):
    """What Ansible loads from this file."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the texts described above."""
        self.set_options(var_options=variables, direct=kwargs)
        variables = variables or {}
        roles = [f"{path.name}_" for path in (ROOT / "roles").iterdir() if path.is_dir()]
        hooks = Path(str(variables.get("inventory_dir", ""))) / "hooks"
        read = names_in_repository(ROOT) | names_in(path.read_text() for path in hooks.glob("**/*.yml"))
        read |= set(self.get_option("allowed"))
        return unread(variables, [*roles, *terms], read)
