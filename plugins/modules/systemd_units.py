"""Ansible module: see ``DOCUMENTATION``."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_files import ENTRY, ensure

DOCUMENTATION = """
module: systemd_units
short_description: Write, check, enable and start the platform's units in one execution
description:
    - Changed units are checked by C(systemd-analyze verify) before any of them is written.
    - An active unit restarts if one of its files changed. A socket restarts only if a socket's file changed, because connections
      wait in the socket while its service restarts.
options:
    units:
        description: Files of C(/etc/systemd/system), each with name and content.
        type: list
        elements: dict
        required: true
        suboptions:
            name: {description: 'The file, such as C(web.service).', type: str, required: true}
            content: {description: The content., type: str, required: true}
    active:
        description: The units to enable and start.
        type: list
        elements: str
        default: []
    restart:
        description: Whether the active units restart although none of their files changed.
        type: bool
        default: false
    template:
        description:
            - A template unit without suffix, such as C(worker@). Instances that are not in O(active) are stopped and disabled.
        type: str
author: The maintainers of this repository
"""

EXAMPLES = """
- name: Run the program
  systemd_units:
    units: [{name: program.service, content: "{{ lookup('rendered', 'program.service.j2') }}"}]
    active: [program.service]
"""

RETURN = """
changed_units:
    description: The files that changed, or that check mode would change.
    type: list
    returned: always
"""

DIRECTORY = Path("/etc/systemd/system")


class Systemd:
    """systemctl, for one execution of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def ask(self, *arguments: str) -> list[str]:
        """Return the lines that systemctl prints."""
        return self.module.run_command(["systemctl", *arguments])[1].splitlines()

    def do(self, verb: str, *arguments: str) -> None:
        """Run a command that must succeed."""
        rc, out, err = self.module.run_command(["systemctl", verb, *arguments])
        if rc != 0:
            units = " ".join(arguments)
            self.module.fail_json(
                msg=f"systemctl {verb} {units} failed: {(out + err).strip()}. To see why: journalctl -n 50 -u {arguments[-1]}",
                rc=rc,
            )

    def states(self, verb: str, units: list[str]) -> dict[str, str]:
        """Return what ``is-enabled`` or ``is-active`` says of each unit."""
        lines = self.ask(verb, *units) if units else []
        # An error is on standard error. Without its line, nobody knows which line is of which unit, so each unit is asked alone.
        if len(lines) != len(units):
            lines = ["".join(self.ask(verb, unit)) for unit in units]
        return dict(zip(units, lines, strict=True))

    def not_enabled(self, units: list[str]) -> list[str]:
        """Return those of ``units`` that do not start at boot. Enabling costs time: it runs the scripts of SysV again."""
        enabled = re.compile("enabled|static|alias|indirect|generated")
        return [unit for unit, state in self.states("is-enabled", units).items() if not enabled.match(state)]

    def not_started(self, units: list[str]) -> list[str]:
        """Return those of ``units`` that do not run and are not about to run."""
        started = ("active", "activating", "reloading")
        return [unit for unit, state in self.states("is-active", units).items() if state not in started]

    def instances(self, template: str) -> list[str]:
        """Return the instances of a template unit that systemd knows."""
        lines = self.ask("list-units", "--plain", "--no-legend", "--all", f"{template}*.service")
        return [line.split()[0] for line in lines if line.strip()]


def service(unit: str) -> str:
    """Return what the units of one service have in common: ``worker@`` of ``worker@a.service``, ``web`` of ``web.socket``."""
    return re.sub("@.*", "@", unit.rpartition(".")[0])


def verify(module: AnsibleModule, units: list[dict]) -> None:
    """Fail if systemd finds an error in one of the units."""
    directory = Path(module.tmpdir) / "units"
    directory.mkdir()
    for unit in units:
        (directory / unit["name"]).write_text(unit["content"])
    paths = [str(directory / unit["name"]) for unit in units]
    rc, out, err = module.run_command(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths])
    if rc != 0:
        message = (out + err).strip().replace(f"{directory}/", "")
        module.fail_json(msg=f"systemd refuses the unit, and nothing was written: {message}", rc=rc)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {name: {"type": "str", "required": True} for name in ("name", "content")},
            },
            "active": {"type": "list", "elements": "str", "default": []},
            "restart": {"type": "bool", "default": False},
            "template": {"type": "str"},
        },
        supports_check_mode=True,
    )
    units, active, systemd = module.params["units"], module.params["active"], Systemd(module)
    wanted = {unit["name"]: DIRECTORY / unit["name"] for unit in units}
    if not module.check_mode and any(
        not path.is_file() or path.read_text(errors="replace") != unit["content"]
        for unit, path in zip(units, wanted.values(), strict=True)
    ):
        verify(module, units)

    entry = {name: option.get("default") for name, option in ENTRY.items()}
    differences = ensure(module, [entry | {"path": str(wanted[unit["name"]]), "content": unit["content"]} for unit in units])
    changed_units = [unit["name"] for unit in units if str(wanted[unit["name"]]) in differences]
    services = {service(name) for name in (wanted if module.params["restart"] else changed_units)}
    sockets = any(name.endswith(".socket") for name in changed_units)
    restarted = [unit for unit in active if service(unit) in services and (sockets or not unit.endswith(".socket"))]
    known = [] if module.check_mode and changed_units else active  # check mode has not written the units of a fresh host
    enabled = systemd.not_enabled(known)
    started = systemd.not_started([unit for unit in known if unit not in restarted])
    unwanted = sorted(set(systemd.instances(module.params["template"])) - set(active)) if module.params["template"] else []

    if not module.check_mode:
        if enabled:
            systemd.do("enable", "--quiet", "--no-reload", *enabled)
        if changed_units or enabled:
            systemd.do("daemon-reload")
        if unwanted:
            systemd.do("disable", "--now", *unwanted)
        if restarted:
            systemd.do("restart", *restarted)
        if started:
            systemd.do("start", *started)
    module.exit_json(
        changed=bool(changed_units or restarted or enabled or started or unwanted),
        changed_units=changed_units,
        diff=list(differences.values()),
    )


if __name__ == "__main__":
    main()
