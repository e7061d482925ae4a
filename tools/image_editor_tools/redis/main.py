"""The command line of image-editor-redis."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from image_editor_tools import cli
from image_editor_tools.errors import Refusal
from image_editor_tools.output import Output
from image_editor_tools.redis import status
from image_editor_tools.redis.connection import Clients
from image_editor_tools.redis.decision import choose, refuse_to_discard
from image_editor_tools.redis.discovery import survey
from image_editor_tools.redis.failover import failover
from image_editor_tools.redis.members import Description
from image_editor_tools.redis.membership import join, watch
from image_editor_tools.redis.save import save
from image_editor_tools.redis.switchover import switchover

DESCRIPTION = Path("/etc/redis/image-editor.json")
STATE = Path("/etc/redis/redis-state.conf")
DATA = Path("/var/lib/redis")
USERS = (Path("/etc/redis/users.acl"), Path("/etc/redis/sentinel-users.acl"))


def command_line() -> cli.CommandLine:
    """The command line."""
    line = cli.CommandLine(
        "image-editor-redis",
        "Show or change the primary of the Redis set. docs/failover.md says when to use which command.",
    )
    line.add("status", "print every node and Sentinel, and what is wrong; exit code 1 if something is")
    line.add_changes_of_primary(failover="promote a replica of a dead primary if no majority of Sentinels can")
    line.add("save", "have this host's node write its data to dump.rdb, and wait until it has")
    command = line.add("primary", "for role redis: print the primary; standard input describes the set")
    command.add_argument("bootstrap", help="the primary if no live member knows better")
    command.add_argument("--discard", default="", metavar="HOST", help="the node whose data may be lost")
    command = line.add("join", "for role redis: give this host's node its place in the set")
    command.add_argument("primary")
    command = line.add("watch", "for role redis: have this host's Sentinel watch the set")
    command.add_argument("primary")
    command.add_argument("--apply", action="store_true", help="tell a Sentinel that watches already its settings again")
    return line


def stored_description() -> dict[str, Any] | None:
    """The description that the last run of the role left, if there is one."""
    return json.loads(DESCRIPTION.read_text()) if DESCRIPTION.exists() else None


def describe() -> Description:
    """The set of this host. Raises Refusal if there is none."""
    stored = stored_description()
    if not stored:
        raise Refusal("this host is neither a node nor a Sentinel of a set")
    try:
        return Description(**stored)
    except TypeError as error:
        raise Refusal(f"{DESCRIPTION} is of another version: run role redis on this host ({error})") from error


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command that was asked for."""
    if arguments.command == "primary":
        return print_primary(arguments, output)
    described = describe()
    clients = Clients(described)
    match arguments.command:
        case "status":
            state = survey(described)
            output.result(status.values(state), status.lines(state))
            return cli.PROBLEM if state.problems() else cli.OK
        case "save":
            with clients.node(described.me) as node:
                save(node, described.me)
            output.result({"saved": described.me}, [f"backup: {described.me} has saved its data"])
        case "join":
            print_changed(join(clients, arguments.primary), output)
        case "watch":
            print_changed(watch(clients, arguments.primary, arguments.apply), output)
        case _:
            change = {"switchover": switchover, "failover": failover}[arguments.command]
            output.result(change(survey(described), clients, arguments.to, arguments.check, output))
    return cli.OK


def print_primary(arguments: argparse.Namespace, output: Output) -> int:
    """Print the primary, for a run of the role. Members that only the last run knew are asked, too."""
    described = Description(**json.load(sys.stdin))
    state = survey(described.widened(stored_description()))
    primary = choose(state, arguments.bootstrap, arguments.discard, described.addresses)
    data = DATA if any((DATA / "appendonlydir").glob("*.base.*")) else ""
    refuse_to_discard(state, primary, arguments.discard, set_up=STATE.exists(), data_directory=str(data))
    output.result({"primary": primary, "accepted": accepted(USERS)}, [primary])
    return cli.OK


def accepted(files: Iterable[Path]) -> list[str]:
    """The hashes of the passwords that ACL files accept, each as ``user #hash``. A missing file accepts none."""
    users = [line.split() for file in files if file.exists() for line in file.read_text().splitlines() if line]
    return list(dict.fromkeys(f"{name} {rule}" for _, name, *rules in users for rule in rules if rule.startswith("#")))


def print_changed(changed: bool, output: Output) -> None:
    """Print whether a command was needed; the role reads it."""
    output.result({"changed": changed}, ["changed" if changed else "unchanged"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the launcher."""
    return cli.run(run, command_line().parser.parse_args(arguments), expected=(RedisError,))
