"""What all commands have in common: the parser, ``--json``, exit codes, and how errors are reported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from image_editor_tools.errors import Failure
from image_editor_tools.language import said
from image_editor_tools.output import Output

OK = 0
PROBLEM = 1

EXIT_CODES = """\
exit codes:
  0  done, or everything is in order
  1  refused, failed, or a problem was found; standard error or the report says which
  2  the command line is wrong
"""


class Parser(argparse.ArgumentParser):
    """Its help is in the language of whoever reads it."""

    def __init__(self, description: str, epilog: str, **options: Any) -> None:
        super().__init__(description=said(description, sys.stdout), epilog=said(epilog, sys.stdout), **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        if "help" in options:
            options["help"] = said(options["help"], sys.stdout)
        return super().add_argument(*names, **options)


class CommandLine:
    """A command with subcommands, each with ``--json`` and the exit codes at the end of its ``--help``."""

    def __init__(self, prog: str, description: str) -> None:
        self.parser = _parser(Parser, prog=prog, description=description)
        self._commands = self.parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(self, name: str, summary: str) -> argparse.ArgumentParser:
        """Add a subcommand. ``summary`` is one sentence without a full stop, in lower case."""
        shown = said(summary, sys.stdout)
        description = f"{shown[:1].upper()}{shown[1:]}{'.' if shown == summary else '。'}"
        command = _parser(self._commands.add_parser, name=name, help=shown, description=description)
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        return command

    def add_changes_of_primary(self, failover: str) -> None:
        """Add ``switchover`` and ``failover``, with the same options for every kind of server. ``failover`` is a summary."""
        for name, summary in (("switchover", "change the primary while it is well, losing no write"), ("failover", failover)):
            command = self.add(name, summary)
            command.add_argument("--to", default="", metavar="HOST", help="the new primary; the best replica if not given")
            command.add_argument("--check", action="store_true", help="only say what would be done")
            if name == "failover":
                command.add_argument("--force", action="store_true", required=True, help="confirm that writes may be lost")


def verdict(problems: Sequence[str]) -> Iterator[str]:
    """The last lines of a report for people."""
    for problem in problems:
        yield f"problem   {problem}"
    yield f"{len(problems)} problem(s)" if problems else "ok"


def _parser(make: Callable[..., argparse.ArgumentParser], **options: Any) -> argparse.ArgumentParser:
    return make(**options, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)


def run(
    command: Callable[[argparse.Namespace, Output], int],
    arguments: argparse.Namespace,
    expected: tuple[type[Exception], ...] = (),
) -> int:
    """Run ``command`` and return its exit code.

    A Failure, a PermissionError and an error of ``expected`` become one line on standard error, and JSON with ``--json``. Any
    other exception is a defect of the command, and is not caught.
    """
    output = Output(as_json=getattr(arguments, "json", False))
    try:
        return command(arguments, output)
    except Failure as failure:
        text = f"{failure.prefix}{failure}"
    except PermissionError as error:
        text = f"refused: this needs root ({error})"
    except expected as error:
        text = str(error)
    if output.as_json:
        output.result({"error": text})
    print(said(text, sys.stderr), file=sys.stderr, flush=True)
    return PROBLEM
