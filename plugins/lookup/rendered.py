"""Lookup plugin ``rendered``: the text of a role's template. It is Ansible's ``template`` without its copy of every variable."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import trust_as_template

DOCUMENTATION = """
name: rendered
short_description: The text of a template
description:
    - Ansible's own lookup C(template) copies all variables of the host for each template, which costs 60 ms of processor time.
    - In the template, C(ansible_managed) is C(Ansible managed) unless the inventory says otherwise. Others that Ansible adds,
      such as C(template_path), are not set.
options:
    _terms: {description: "Names of templates, which are looked up in the role's folder templates, or their paths."}
    template_vars: {description: Variables for these templates alone, type: dict, default: {}}
author: The maintainers of this repository
"""


class LookupModule(LookupBase):
    """See ``DOCUMENTATION``."""

    def run(self, terms, variables=None, **kwargs):
        """Return the text of each template."""
        self.set_options(var_options=variables, direct=kwargs)
        known = {"ansible_managed": "Ansible managed"} | dict(variables) | self.get_option("template_vars")
        return [self.render(term, known) for term in terms]

    def render(self, name: str, variables: dict) -> str:
        path = self.find_file_in_search_path(variables, "templates", name)
        if not path:
            raise AnsibleLookupError(f"there is no template {name}")
        # A template includes others of its own folder, and of the folders of the role.
        folders = [Path(path).parent]
        for folder in map(Path, variables.get("ansible_search_path", [])):
            folders += [folder / "templates", folder]
        templar = self._templar.copy_with_new_env(available_variables=variables, searchpath=[str(folder) for folder in folders])
        text = trust_as_template(self._loader.get_text_file_contents(path))
        return templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True})
