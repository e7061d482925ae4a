"""The command line of image-editor-baseline."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from image_editor_tools import cli
from image_editor_tools.baseline import comparison, edits, plot, records, report, sampling
from image_editor_tools.baseline.load import Load, submit
from image_editor_tools.errors import Failure
from image_editor_tools.output import Output

SUMMARIES = {
    "clock": "print the database's time (on its host, as root)",
    "sample": "sample connections to the database and Redis's memory every second (on their hosts, as root)",
    "edits": "count the edits that were accepted since a time, when they have ended (on the database's host, as root)",
    "load": "submit edits at a constant rate; the API token comes on standard input (on the controller)",
    "record": "make one record of everything that was measured, which comes as JSON on standard input (on the controller)",
    "compare": "compare two records: a table, an image, a verdict; exit code 1 if the second is worse (on the controller)",
}


def command_line() -> cli.CommandLine:
    """The command line."""
    line = cli.CommandLine("image-editor-baseline", "Measure the platform, and compare two measurements. See docs/baseline.md.")
    add = {name: line.add(name, summary) for name, summary in SUMMARIES.items()}
    for name in ("clock", "edits"):
        add[name].add_argument("--database", required=True)
    add["sample"].add_argument("--seconds", type=int, required=True)
    add["sample"].add_argument("--database", default="", help="the database whose connections are counted")
    add["sample"].add_argument("--redis", action="store_true", help="sample the memory of this host's Redis node")
    add["edits"].add_argument("--since", required=True, help="the database's time at the start, as `clock` printed it")
    add["edits"].add_argument("--settle", type=int, default=0, help="seconds to wait for unfinished edits")
    add["load"].add_argument("--client", type=Path, required=True, help="folder of smoke.py")
    add["load"].add_argument("--url", required=True)
    add["load"].add_argument("--ca", default="", help="certificate of a CA to trust besides the system's")
    add["load"].add_argument("--photo", type=Path, required=True)
    add["load"].add_argument("--edits", type=int, required=True)
    add["load"].add_argument("--seconds", type=int, required=True)
    add["load"].add_argument("--prompt", required=True)
    add["compare"].add_argument("after", type=Path)
    add["compare"].add_argument("--before", type=Path, help="default: the newest earlier record of the same load")
    add["compare"].add_argument("--tolerances", type=json.loads, required=True, help="JSON: percent and least for each metric")
    add["compare"].add_argument("--svg", type=Path, help="file for the image")
    return line


def compare(after: Path, before: Path | None, tolerances: dict[str, dict[str, float]], svg: Path | None, output: Output) -> int:
    """Print the comparison and write the image; the exit code is the verdict."""
    before = before or records.earlier(after)
    if not before:
        text = "baseline: recorded; there is no earlier one of the same load to compare it with"
        output.result({"verdict": "ok", "rows": [], "lines": [text]}, [text])
        return cli.OK
    one, other = (json.loads(path.read_text()) for path in (before, after))
    rows = comparison.compare(one, other, tolerances)
    if svg:
        svg.write_text(plot.plot(one, other, rows))
    is_worse, lines = bool(comparison.worse(rows)), report.table(one, other, rows)
    values = [row._asdict() | {"metric": row.metric.key} for row in rows]
    output.result({"verdict": "worse" if is_worse else "ok", "rows": values, "lines": lines}, lines)
    return cli.PROBLEM if is_worse else cli.OK


def dispatch(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command that was asked for."""
    match arguments.command:
        case "compare":
            return compare(arguments.after, arguments.before, arguments.tolerances, arguments.svg, output)
        case "clock":
            result = edits.clock(arguments.database)
        case "sample":
            result = sampling.sample(arguments.seconds, arguments.database, arguments.redis)
        case "edits":
            result = edits.edits(arguments.database, arguments.since, arguments.settle)
        case "record":
            result = records.record(json.load(sys.stdin))
        case _:
            load = Load(arguments.url, arguments.ca, arguments.photo, arguments.prompt, arguments.edits, arguments.seconds)
            result = submit(load, sys.stdin.readline().strip(), arguments.client)
    output.result(result, [f"{name}: {value}" for name, value in result.items()])
    return cli.OK


def command(arguments: argparse.Namespace, output: Output) -> int:
    """Run the command; a missing or unreadable file becomes one line."""
    try:
        return dispatch(arguments, output)
    except PermissionError:
        raise
    except (OSError, json.JSONDecodeError) as error:
        raise Failure(f"baseline: failed {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the launcher."""
    return cli.run(command, command_line().parser.parse_args(arguments))
