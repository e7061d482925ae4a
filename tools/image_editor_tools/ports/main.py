"""The command line of image-editor-ports."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from image_editor_tools import cli, shell
from image_editor_tools.errors import Failure
from image_editor_tools.output import Output
from image_editor_tools.ports import listening

RULES = Path("/etc/image-editor-firewall/ports.json")  # role firewall writes it; without the file, the firewall is switched off
TABLE = ("/usr/sbin/nft", "list", "table", "inet", "image_editor")
THIS_HOST, ANYONE, NOBODY = "this host", "anyone", "nobody"
UNEXPECTED = "nobody: the inventory does not know this port"


def command_line() -> cli.CommandLine:
    """The command line."""
    line = cli.CommandLine("image-editor-ports", "What listens on this host, and who may connect. docs/network.md has all ports.")
    line.add("status", "print every listening port and who may come (the default); exit code 1 if a port is unexpected")
    return line


def firewall() -> str:
    """Whether the firewall is on, off, or on but not loaded."""
    if not RULES.exists():
        return "off"
    try:
        shell.run(*TABLE)
    except Failure:
        return "not loaded"
    return "on"


def may_come(listener: listening.Listener, rules: Sequence[Mapping[str, Any]] | None) -> str:
    """Who may connect to the listener, as the inventory names them. Without ``rules``, there is no firewall."""
    if not listener.from_outside:
        return THIS_HOST
    if rules is None:
        return ANYONE
    known = [rule for rule in rules if rule["protocol"] == listener.protocol and listener.port in rule["ports"]]
    if not known:
        return UNEXPECTED
    peers = [peer for rule in known if rule["ipv4"] or rule["ipv6"] for peer in rule["peers"]]
    return ", ".join(dict.fromkeys(peers)) or NOBODY


def status(output: Output) -> int:
    """Print the ports."""
    state = firewall()
    rules = None if state == "off" else json.loads(RULES.read_text())["incoming"]
    ports = [
        {
            "port": listener.port,
            "protocol": listener.protocol,
            "programs": list(listener.programs),
            "from": may_come(listener, rules),
        }
        for listener in listening.on_this_host()
    ]
    lines = [f"firewall: {state}", f"{'PORT':9} {'PROGRAM':16} WHO MAY COME"]
    lines += [f"{port['port']:>5}/{port['protocol']} {', '.join(port['programs']) or '?':16} {port['from']}" for port in ports]
    output.result({"firewall": state, "ports": ports}, lines)
    return cli.PROBLEM if state == "not loaded" or UNEXPECTED in [port["from"] for port in ports] else cli.OK


def command(_arguments: argparse.Namespace, output: Output) -> int:
    """Run the only command."""
    return status(output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the launcher."""
    given = sys.argv[1:] if arguments is None else arguments
    return cli.run(command, command_line().parser.parse_args(given or ["status"]))
