"""Lookup plugin: the variables of the shared wiring to which the environment, a group or a host gives another value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: overridden_variables
short_description: Variables of the shared wiring that have another value here
description:
    - Returns the names of variables in inventories/shared whose value for one of the hosts is another one, before templating.
    - Variables that are made to be set (V(application_settings), V(firewall_ssh_sources), names in V(_extra)) do not count.
options:
    _terms:
        description: Names of hosts.
        type: list
        elements: str
        required: true
"""
EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ query('overridden_variables', *ansible_play_hosts) }}"
"""
RETURN = """
_raw:
    description: Names, sorted.
    type: list
    elements: str
"""

SHARED = Path(__file__).resolve().parents[2] / "inventories/shared"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C library is ten times as fast, and may be missing
MEANT_TO_BE_SET = {
    "application_settings", "firewall_dns_servers", "firewall_ssh_sources", "firewall_time_servers", "platform_down",
    "proxy_check_interval", "proxy_check_interval_changing",
}  # fmt: skip


def shared_wiring(directory: Path) -> dict[str, Any]:
    """Return the variables of all files of the shared wiring."""
    return {name: value for path in directory.glob("*.yml") for name, value in yaml.load(path.read_text(), LOADER).items()}


def overridden(variables: Mapping[str, Any], shared: Mapping[str, Any]) -> list[str]:
    """Return the names of shared variables that have another value in ``variables``."""
    return sorted(
        name
        for name, value in shared.items()
        if name in variables and variables[name] != value and name not in MEANT_TO_BE_SET and not name.endswith("_extra")
    )


class LookupModule(LookupBase):
    """What Ansible loads from this file."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the names described above."""
        shared, hostvars = shared_wiring(SHARED), (variables or {})["hostvars"]
        return sorted({name for host in terms for name in overridden(hostvars.raw_get(host), shared)})
