"""The command line of image-editor-release."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from image_editor_tools import cli
from image_editor_tools.errors import Failure
from image_editor_tools.output import Output
from image_editor_tools.release.host import Host


def command_line() -> cli.CommandLine:
    """The command line."""
    line = cli.CommandLine(
        "image-editor-release", "The releases of the application on this host. docs/releases.md says when to use what."
    )
    line.parser.add_argument("--directory", type=Path, default=Path("/opt/image-editor"), help="default: /opt/image-editor")
    line.add("status", "print the current, previous, kept and rejected releases, and services that run another release")
    switch = line.add("switch", "make a release the current one and restart what runs another")
    switch.add_argument("release", nargs="?", default="", help="without it, only restart what runs another release")
    switch.add_argument("--back", action="store_true", help="the release that is left is no previous one to go back to")
    switch.add_argument("--check", action="store_true", help="print what would be done and change nothing")
    switch.add_argument("--only-from", default="", metavar="RELEASE", help="do nothing unless RELEASE is current")
    install = line.add("install", "unpack an archive if its checksum is right")
    install.add_argument("archive", type=Path)
    install.add_argument("release")
    install.add_argument("checksum", help="SHA-256 in hexadecimal")
    reject = line.add("reject", "refuse a release from now on")
    reject.add_argument("release")
    reject.add_argument("why")
    line.add("accept", "accept a release that was rejected").add_argument("release")
    conclude = line.add("conclude", "record that a release has ended well and remove the oldest releases")
    conclude.add_argument("release")
    conclude.add_argument("keep", type=int, help="number of releases that stay on the host")
    return line


def describe(status: dict[str, Any]) -> list[str]:
    """The status as text for people."""
    lines = [f"current:  {status['current'] or 'none'}", f"previous: {status['previous'] or 'none'}"]
    lines += [f"kept:     {name} (commit {facts.get('commit', 'unknown')[:12]})" for name, facts in status["releases"].items()]
    lines += [f"rejected: {name} ({why})" for name, why in status["rejected"].items()]
    lines += [f"stale:    {name} (runs another release or older settings)" for name in status["stale"]]
    return [*lines, f"free:     {status['free'] // 2**20} MiB"]


def report(done: Iterable[str], output: Output) -> int:
    """Print what was done. The last line says ``changed`` or ``unchanged``."""
    done = list(done)
    output.result({"changed": bool(done), "done": done}, [*done, "changed" if done else "unchanged"])
    return cli.OK


def command(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command that was asked for."""
    host = Host(arguments.directory)
    try:
        match arguments.command:
            case "status":
                status = host.status()
                output.result(status, describe(status))
                return cli.OK
            case "switch":
                options = {"back": arguments.back, "check": arguments.check, "only_from": arguments.only_from}
                return report(host.switch(arguments.release, **options), output)
            case "install":
                return report(host.install(arguments.archive, arguments.release, arguments.checksum), output)
            case "reject":
                return report(host.reject(arguments.release, arguments.why), output)
            case "accept":
                return report(host.accept(arguments.release), output)
            case _:
                return report(host.conclude(arguments.release, arguments.keep), output)
    except PermissionError:
        raise
    except OSError as error:
        raise Failure(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the launcher."""
    return cli.run(command, command_line().parser.parse_args(arguments))
