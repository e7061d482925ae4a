"""Ansible module: see ``DOCUMENTATION``."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_files import ENTRY, ensure

DOCUMENTATION = """
module: host_files
short_description: Write several files, directories and links of a host in one execution
description:
    - A task executes once on each host, however many files the list has. A loop over C(ansible.builtin.template) executes two
      modules for each file.
    - The entries are brought to their states in the order of the list. The first failure ends the module, and the files before it
      get their former content back.
options:
    files:
        description: The entries.
        type: list
        elements: dict
        required: true
        suboptions:
            path: {description: Where the entry is., type: path, required: true}
            state: {description: What the entry is., type: str, choices: [file, directory, link, absent], default: file}
            content: {description: The content of a file., type: str}
            target: {description: Where a link leads., type: path}
            owner: {description: The owner., type: str, default: root}
            group: {description: The group., type: str, default: root}
            mode: {description: 'The permissions. The default is 0644 for a file and 0755 for a directory.', type: raw}
            validate:
                description: A command that checks new content first, except in check mode. C(%s) is the path of the content.
                type: str
author: The maintainers of this repository
"""

EXAMPLES = """
- name: Write the settings of the program
  host_files:
    files:
      - {path: /etc/program, state: directory}
      - path: /etc/program/program.conf
        content: "{{ lookup('rendered', 'program.conf.j2') }}"
        mode: "0640"
  notify: Restart the program
"""

RETURN = """
changed_paths:
    description: The paths that changed, or that check mode would change.
    type: list
    returned: always
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": ENTRY,
                "required_if": [("state", "file", ["content"]), ("state", "link", ["target"])],
            }
        },
        supports_check_mode=True,
    )
    changed = ensure(module, module.params["files"])
    module.exit_json(changed=bool(changed), changed_paths=list(changed), diff=list(changed.values()))


if __name__ == "__main__":
    main()
