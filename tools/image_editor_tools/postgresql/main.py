"""The command line of image-editor-postgresql."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from image_editor_tools import cli
from image_editor_tools.errors import Refusal
from image_editor_tools.output import Output
from image_editor_tools.postgresql import role, status
from image_editor_tools.postgresql.connection import Clients, forget, hung_nodes, stored, survey
from image_editor_tools.postgresql.members import Description
from image_editor_tools.postgresql.switchover import failover, switchover
from image_editor_tools.postgresql.watch import watch

DESCRIPTION = Path("/etc/patroni/image-editor.json")


def command_line() -> cli.CommandLine:
    """The command line."""
    line = cli.CommandLine(
        "image-editor-postgresql",
        "Show or change the primary of the PostgreSQL cluster. docs/postgresql.md says when to use which command.",
    )
    line.add("status", "print every node and etcd member, and what is wrong; exit code 1 if something is")
    line.add_changes_of_primary(failover="promote a replica of a dead primary if Patroni does not")
    line.add("cluster", "for role postgresql: print what etcd knows of the cluster; standard input describes the cluster")
    line.add("forget", "for role postgresql: remove what etcd knows of a cluster that is no more")
    command = line.add("configure", "for role postgresql: give the cluster the settings of standard input")
    command.add_argument("--merge", action="store_true", help="keep the other settings")
    line.add("restart", "for role postgresql: have Patroni restart PostgreSQL on this host")
    line.add("reloaded", "for the reload of patroni.service: wait until Patroni shows the certificate in its file")
    command = line.add("wait", "for role postgresql: wait until this host is the primary or a replica that streams")
    command.add_argument("seconds", type=float)
    line.add("watch", "for role postgresql: kill Patroni on this host when it hangs; systemd starts it again")
    return line


def describe(text: str) -> Description:
    """The cluster that the text describes. Raises Refusal if the description is of another version."""
    try:
        return Description(**json.loads(text))
    except TypeError as error:
        raise Refusal(f"{DESCRIPTION} is of another version: run role postgresql on this host ({error})") from error


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command that was asked for."""
    if arguments.command != "cluster" and not DESCRIPTION.exists():
        raise Refusal("this host is not a node of a cluster")
    clients = Clients(describe(sys.stdin.read() if arguments.command == "cluster" else DESCRIPTION.read_text()))
    me = clients.described.me
    match arguments.command:
        case "status":
            state = survey(clients)
            output.result(status.values(state), status.lines(state))
            return cli.PROBLEM if state.problems() else cli.OK
        case "cluster":
            known = stored(clients)
            found = {"system": known.get("initialize", ""), "leader": known.get("leader", ""), "hung": hung_nodes(clients)}
            output.result(found)
        case "forget":
            forget(clients)
        case "configure":
            changed = role.configure(clients, json.load(sys.stdin), merge=arguments.merge)
            output.result({"changed": changed}, ["changed" if changed else "unchanged"])
        case "restart":
            role.restart(clients, me)
        case "reloaded":
            role.wait_reloaded(clients.described)
        case "wait":
            found = role.wait_joined(clients, me, arguments.seconds)
            output.result({"role": found}, [found])
        case "watch":
            watch(lambda: Clients(clients.described))
        case _:
            change = {"switchover": switchover, "failover": failover}[arguments.command]
            output.result(change(survey(clients), clients, arguments.to, arguments.check, output))
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the launcher."""
    return cli.run(run, command_line().parser.parse_args(arguments), expected=(OSError,))
