"""Lookup plugin ``systemd_units``: the files of the units that role systemd_service writes, for module ``systemd_units``."""

from __future__ import annotations

from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: systemd_units
short_description: The units of several services of the same kind, with their contents
description:
    - Renders a template for each service and kind of unit.
    - In the template, the variable C(systemd_service_each) is the name of the service.
options:
    _terms: {description: Names of the services.}
    templates: {description: 'The path of a template for each kind of unit, such as C(service).', type: dict, required: true}
author: The maintainers of this repository
"""


class LookupModule(LookupBase):
    """See ``DOCUMENTATION``."""

    def run(self, terms, variables=None, **kwargs):
        """Return ``[{name, content}]``."""
        self.set_options(var_options=variables, direct=kwargs)
        template = lookup_loader.get("rendered", loader=self._loader, templar=self._templar)
        return [
            {
                "name": f"{name}.{kind}",
                "content": template.run([path], variables=variables, template_vars={"systemd_service_each": name})[0],
            }
            for name in terms
            for kind, path in self.get_option("templates").items()
        ]
