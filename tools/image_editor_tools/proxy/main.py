"""The command line of image-editor-proxy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from image_editor_tools import cli
from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.language import said
from image_editor_tools.output import Output
from image_editor_tools.proxy import haproxy
from image_editor_tools.waiting import wait_for

PINNED = "virt@pinned"  # the list in HAProxy's memory that haproxy.cfg.j2 reads
CHECKED = 5.0  # seconds within which a new process of HAProxy has found the primaries, if there are any


def command_line() -> cli.CommandLine:
    """The command line."""
    line = cli.CommandLine("image-editor-proxy", "Where this host's proxy leads. docs/failover.md says when to use what.")
    line.add("status", "print the primaries to which the proxy sends clients; exit code 1 if one is missing")
    pin = line.add("pin", "lead clients of Redis to a node although no majority of Sentinels names it")
    forgotten = "A majority always wins over a pin. A restart of HAProxy forgets the pin."
    pin.epilog = f"{said(forgotten, sys.stdout)}\n\n{pin.epilog}"
    pin.add_argument("node", metavar="NODE")
    line.add("unpin", "remove the pin")
    line.add("reload", "for the reload of haproxy.service: reload HAProxy, and wait until it has found the primaries")
    return line


def status(output: Output) -> int:
    """Print where clients are led, and what HAProxy found at each node if they are led nowhere."""
    answer, lines = {}, []
    for backend, found in haproxy.backends(haproxy.ask("show stat")).items():
        primary = haproxy.primary(found)
        answer[backend] = {"primary": primary, "nodes": {node.name: node.check for node in found}}
        lines.append(f"{backend} primary: {primary or 'none'}")
        lines += [f"{node.name}: {node.check}" for node in found if not primary]
    output.result(answer, lines)
    return cli.OK if answer and all(found["primary"] for found in answer.values()) else cli.PROBLEM


def pin(node: str, output: Output) -> int:
    """Pin Redis to ``node``, or remove the pin if it is empty."""
    known = [found.name for found in haproxy.nodes(haproxy.ask("show stat"), haproxy.REDIS)]
    if node and node not in known:
        raise Refusal(f"{node} is not a node of the set: {', '.join(known)}")
    for command in [f"clear acl {PINNED}", *([f"add acl {PINNED} {node}"] if node else [])]:
        if answer := haproxy.ask(command):
            raise Failure(f"HAProxy refuses `{command}`: {answer}")
    output.result({"pinned": node}, ["done"])
    return cli.OK


def reload(output: Output) -> int:
    """Reload HAProxy. Until it has checked its nodes, it leads no client to them, so the next host's proxy is to wait."""
    haproxy.reload()

    def found() -> bool:
        backends = haproxy.backends(haproxy.statistics_of_new_process())
        return bool(backends) and all(map(haproxy.primary, backends.values()))

    try:
        wait_for(found, "reloaded; a primary is missing: image-editor-proxy status", CHECKED, every=0.1)
    except Refusal as missing:  # that is not the reload's fault
        output.result({"reloaded": True}, [str(missing)])
    else:
        output.result({"reloaded": True}, ["done"])
    return cli.OK


def command(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command that was asked for."""
    if arguments.command == "status":
        return status(output)
    if arguments.command == "reload":
        return reload(output)
    return pin(arguments.node if arguments.command == "pin" else "", output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the launcher."""
    return cli.run(command, command_line().parser.parse_args(arguments))
