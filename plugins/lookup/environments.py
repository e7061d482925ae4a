"""List the environments in a folder: `{{ query('environments', directory) }}`."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: environments
author: The Image Editor platform team
short_description: List the environments in a folder
description:
  - An environment is a folder with a file C(hosts.yml).
options:
  _terms:
    description: Folders of environments, such as C(inventories).
    type: list
    elements: path
    required: true
"""

RETURN = """
_raw:
  description: The names of the environments, sorted.
  type: list
  elements: str
"""


class LookupModule(LookupBase):
    """Ansible's interface to this module."""

    def run(self, terms: list[str], variables: dict | None = None, **kwargs: object) -> list[str]:
        return sorted(path.parent.name for folder in terms for path in Path(folder).glob("*/hosts.yml"))
