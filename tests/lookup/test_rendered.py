"""The lookup plugin of plugins/lookup/rendered.py."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleError
from conftest import render

TEMPLATE = r"""{{ ansible_managed | comment }}
{% if quoted %}
{% include 'part.j2' %}
{% endif %}
{{ name | replace('.', '\\') }} {{ nested }} {{ given | default('-') }}
"""


@pytest.fixture
def template(tmp_path):
    (tmp_path / "part.j2").write_text("part of {{ name }}: ")
    (tmp_path / "whole.j2").write_text(TEMPLATE)
    return str(tmp_path / "whole.j2")


@pytest.mark.parametrize("given", ["", ", template_vars={'given': 'yes'}"])
def test_a_template_gives_what_the_lookup_of_ansible_gives(template, given):
    known = {"path": template, "name": "a.b", "nested": "{{ name }}", "quoted": True}
    ours = render(f"{{{{ lookup('rendered', path{given}) }}}}", **known)
    assert ours == render(f"{{{{ lookup('template', path{given}) }}}}", **known)
    assert ours.endswith(f"part of a.b: a\\b {{{{ name }}}} {'yes' if given else '-'}\n")


def test_an_undefined_variable_and_a_missing_template_are_errors(template):
    with pytest.raises(AnsibleError, match="'name' is undefined"):
        render("{{ lookup('rendered', path) }}", path=template, nested="", quoted=False)
    with pytest.raises(AnsibleError, match=r"there is no template missing\.j2"):
        render("{{ lookup('rendered', 'missing.j2') }}")
