"""The command line of image-editor-backup."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image_editor_tools import cli
from image_editor_tools.backup import copies, dumps, first, media, ownership, postgresql, redis, status, units, verification
from image_editor_tools.backup.contents import rows_of
from image_editor_tools.backup.host import KINDS, Host
from image_editor_tools.errors import Failure
from image_editor_tools.language import said
from image_editor_tools.output import Output

SUMMARIES = {
    "status": "list the backups, their age, and when they were last verified",
    "run": "back one kind up, or verify, now: what its timer does (as root)",
    "adopt": "back this host up although the store has backups of a host before it",
    "dump": "make a logical dump of the database (on its host, as postgres)",
    "load-dump": "load a dump into a database of its own, beside the live one (on the database's host)",
    "recover": "restore the database into a directory, beside whatever runs (as postgres)",
    "discard": "remove the instance that `recover --keep` left running (on the store's host, as postgres)",
    "new": "make the first backup of a kind, unless the store has backups of a host before this one (the role does this)",
    "postgresql": "back the database up (its timer does this, on the store's host)",
    "promoted": "archive what a dead primary could not archive (Patroni does this, on a node whose role changes)",
    "redis": "back Redis up (its timer does this, on the primary's host)",
    "media": "back the images up (its timer does this, on the media host)",
    "verify": "restore the newest backups into scratch directories and compare (its timer does this, on the store's host)",
    "copies": "copy the verified repositories to where no other host writes (its timer does this, on the store's host)",
    "restore-postgresql": "put the database of a moment into the live one's place (playbooks/restore.yml does this)",
    "restore-redis": "put Redis's data of a moment into place (playbooks/restore.yml does this)",
    "restore-media": "bring back missing or damaged images (playbooks/restore.yml does this)",
}


def command_line() -> cli.CommandLine:
    """The command line."""
    line = cli.CommandLine("image-editor-backup", "Backups of the platform. docs/restore.md says when to use what.")
    add = {name: line.add(name, summary) for name, summary in SUMMARIES.items()}
    add["run"].add_argument("kind", choices=(*KINDS, "verify", "copies"))
    add["run"].add_argument("--full", action="store_true", help="of the database: make a full backup")
    add["promoted"].add_argument("event", nargs=3, help="what Patroni adds: the event, the new role, the cluster's name")
    add["adopt"].add_argument("kind", choices=KINDS)
    add["new"].add_argument("kind", choices=KINDS)
    add["new"].add_argument("--adopt", action="store_true", help="begin anew beside the backups of a host before this one")
    add["postgresql"].add_argument("--type", choices=("full", "diff"), default="", help="default: full once a week, else diff")
    add["dump"].add_argument("--reason", default="manual", help="the dump's name begins with it")
    add["recover"].add_argument("--into", type=Path, required=True, metavar="DIRECTORY")
    add["recover"].add_argument("--keep", action="store_true", help="leave the instance running")
    for name in ("recover", "restore-postgresql", "restore-redis", "restore-media", "load-dump"):
        add[name].add_argument("--to", default="latest", help="latest, a time with its zone, or the name of a backup")
    for name in ("recover", "restore-postgresql"):
        add[name].add_argument("--timeline", default="latest", help="PostgreSQL's timeline; of use after an earlier restore")
    add["restore-postgresql"].add_argument("--migrate", action="store_true", help="accept a schema older than the release's")
    return line


def lines_of(command: str, result: dict[str, Any]) -> list[str]:
    """The result of a backup or a restore, for people."""
    if reason := result.get("skipped"):
        return [reason]
    if command == "postgresql":
        size, stored = result["size_bytes"] >> 20, result["stored_bytes"] >> 10
        return [f"ok postgresql {result['backup']}: {size} MiB, {stored} KiB stored, {result['seconds']:.1f} s"]
    if command == "promoted":
        return [f"ok: the archive has all {result['archived']} WAL files of the time as a replica"]
    if command == "redis":
        return [f"ok redis: {result['keys']} keys, {result['size_bytes'] >> 10} KiB, {result['seconds']:.1f} s"]
    if command == "media":
        return [f"ok media: {result['files']} files, {result['new']} new, {result['seconds']:.1f} s"]
    if command == "dump":
        where = "and in the store" if result["shipped"] else "not in a store"
        return [f"ok {result['name']}: {result['rows']} rows, {result['bytes'] >> 10} KiB, in {result['path']}, {where}"]
    if command == "copies":
        return [f"ok copies: {result['copy']}, {result['seconds']:.1f} s"]
    if command == "restore-redis":
        return [f"ok redis: {result['keys']} keys from snapshot {result['snapshot']} of {result['reached']}"]
    if command == "restore-media":
        return [f"ok media: {result['files']} files from snapshot {result['snapshot']} of {result['reached']}"]
    lines = [f"ok postgresql: {result['backup']} restored, up to {result['reached']}, {sum(rows_of(result).values())} rows"]
    if before := result.get("before"):
        lines.append(f"what was there before: {before}, and the dump {result['dump_before'] or '(none was made)'}")
    if scratch := result.get("database"):
        lines.append(f"it is database {scratch}")
    return lines


def work(arguments: argparse.Namespace, host: Host) -> dict[str, Any]:
    """Make a backup or a restore; return its result."""
    match arguments.command:
        case "postgresql":
            return postgresql.back_up(host, arguments.type)
        case "promoted":
            primary = arguments.event[1] == "primary"
            return postgresql.archive_received(host) if primary else {"skipped": "nothing to do: this node is not the primary"}
        case "redis":
            return redis.back_up(host)
        case "media":
            return media.back_up(host)
        case "dump":
            return dumps.make(host, arguments.reason)
        case "copies":
            return copies.make(host)
        case "recover":
            return postgresql.recover(host, arguments.into, arguments.to, arguments.timeline, arguments.keep)
        case "load-dump":
            return dumps.load_beside(host, arguments.to)
        case "restore-postgresql":
            return postgresql.restore(host, arguments.to, arguments.timeline, arguments.migrate)
        case "restore-redis":
            return redis.restore(host, arguments.to)
        case _:
            return media.restore(host, arguments.to)


def run_now(kind: str, full: bool, output: Output) -> int:
    """Start the service of a kind, and print what it printed."""
    if full:
        postgresql.WANTED.touch()
    try:
        lines = units.run_now(kind)
    except units.RunFailed as failure:
        for line in failure.lines:
            output.progress(line)
        raise
    output.result({"kind": kind, "lines": lines}, lines)
    return cli.OK


def verify(host: Host, output: Output) -> int:
    """Verify the newest backups, and print the verdicts."""
    verdicts = verification.verify(host, output.progress)
    output.result({"kinds": {verdict.kind: {"ok": verdict.ok, "text": verdict.text} for verdict in verdicts}})
    if not (failed := verification.failed(verdicts)):
        return cli.OK
    print(said(f"not verified: {', '.join(failed)}", sys.stderr), file=sys.stderr, flush=True)
    return cli.PROBLEM


def dispatch(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command that was asked for."""
    host = Host.read()
    match arguments.command:
        case "status":
            report = status.status(host)
            output.result(report, status.lines(report))
        case "run":
            return run_now(arguments.kind, arguments.full, output)
        case "verify":
            return verify(host, output)
        case "new":
            result, lines = first.make(host, arguments.kind, arguments.adopt)
            output.result({"kind": arguments.kind, "result": result, "lines": lines}, lines)
        case "adopt":
            changed = ownership.adopt(host, arguments.kind)
            text = "is backed up beside the backups of the host before it" if changed else "owns the backups already"
            output.result({"kind": arguments.kind, "changed": changed}, [f"{arguments.kind}: this host {text}"])
        case "discard":
            postgresql.discard(host)
            output.result({"discarded": str(postgresql.INSPECTED)}, [f"{postgresql.INSPECTED} is removed"])
        case _:
            result = work(arguments, host)
            output.result(result, lines_of(arguments.command, result))
    return cli.OK


def command(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command with files that only their owner can read; whatever goes wrong becomes one line."""
    os.umask(0o077)
    try:
        return dispatch(arguments, output)
    except PermissionError:
        raise
    except OSError as error:
        raise Failure(str(error)) from error
    except Failure as failure:
        failure.args = (" ".join(str(failure).split()),)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the launcher."""
    return cli.run(command, command_line().parser.parse_args(arguments))
