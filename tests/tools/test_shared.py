"""What all operators' commands share: the command line, errors, output, running programs, waiting."""

from __future__ import annotations

import ast
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, each, load

from image_editor_tools import cli, shell
from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.output import Output
from image_editor_tools.waiting import wait_for

PACKAGE = ROOT / "tools/image_editor_tools"
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = load(ROOT / "roles/tools/meta/argument_specs.yml")["argument_specs"]["main"]["options"]["tools_commands"]["choices"]
LIBRARIES = load(ROOT / "roles/tools/vars/main.yml")["__tools_packages"]
# The Debian package of a library that tools/ imports.
DEBIAN = {"redis": "python3-redis", "psycopg": "python3-psycopg"}
# Imported on the controller only: the controller runs `image-editor-baseline load` from the checkout.
CONTROLLER = {"requests", "smoke"}


def line() -> cli.CommandLine:
    line = cli.CommandLine("image-editor-specimen", "A specimen.")
    line.add("status", "print something")
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_entry_point_that_documents_its_exit_codes(command, capsys):
    main = import_module(f"image_editor_tools.{command.replace('-', '_')}.main").main
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_role_installs_the_libraries_that_a_command_imports(command):
    folders = [PACKAGE / command.replace("-", "_")]
    if any("from image_editor_tools.database import" in path.read_text() for path in folders[0].rglob("*.py")):
        folders.append(PACKAGE / "database")  # a package that several commands share
    imported = {name for folder in folders for path in folder.rglob("*.py") for name in imports(path)}
    imported -= set(sys.stdlib_module_names) | CONTROLLER
    assert imported - {"image_editor_tools"} <= set(DEBIAN), "name the Debian package in DEBIAN"
    assert {DEBIAN[name] for name in imported & set(DEBIAN)} == set(LIBRARIES.get(command, []))


def imports(path: Path) -> set[str]:
    """The top-level names that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@each("path", [path for path in MODULES if path.parent == PACKAGE])
def test_shared_modules_need_python_alone(path):
    assert imports(path) - set(sys.stdlib_module_names) <= {"image_editor_tools"}


@each("path", MODULES)
def test_modules_say_what_they_are_and_stay_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= 350


def test_subcommands_take_json_and_document_exit_codes(capsys):
    assert line().parser.parse_args(["status", "--json"]).json is True
    with pytest.raises(SystemExit):
        line().parser.parse_args(["status", "--help"])
    assert "exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Refusal("not now"), "refused: not now"),
        (Failure("the disk is full"), "the disk is full"),
        (PermissionError(13, "Permission denied"), "refused: this needs root ([Errno 13] Permission denied)"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(error, says, capsys):
    def fail(arguments, output):
        raise error

    assert cli.run(fail, line().parser.parse_args(["status"])) == cli.PROBLEM
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"{says}\n")
    assert cli.run(fail, line().parser.parse_args(["status", "--json"])) == cli.PROBLEM
    assert json.loads(capsys.readouterr().out) == {"error": says}


def test_json_output_is_one_object_and_progress_goes_to_standard_error(capsys):
    for as_json in (False, True):
        output = Output(as_json)
        output.progress("working")
        output.result({"done": 1}, ["done: 1"])
        printed = capsys.readouterr()
        if as_json:
            assert (json.loads(printed.out), printed.err) == ({"done": 1}, "working\n")
        else:
            assert (printed.out, printed.err) == ("working\ndone: 1\n", "")


def test_a_program_that_fails_is_named_with_its_complaint():
    assert shell.run("echo", "fine") == "fine\n"
    assert shell.run("cat", input="given") == "given"
    with pytest.raises(Failure, match=r"^sh: ERROR: no room$") as failure:
        shell.run("sh", "-c", "echo start; echo 'ERROR: no room' >&2; exit 3")
    assert failure.value.code == 3
    with pytest.raises(Failure, match=r"^false: exit code 1$"):
        shell.run("false")


def test_waiting_ends_with_the_first_true_value():
    answers = iter([ConnectionError("not yet"), 0, 7])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for(ask, "never", 5, every=0) == 7


def test_a_timeout_names_the_condition_and_the_last_reason():
    def ask():
        raise ConnectionError("nobody there")

    with pytest.raises(Refusal, match=re.escape("Redis does not answer (nobody there)")):
        wait_for(ask, "Redis does not answer", 0, every=0)
    with pytest.raises(ValueError, match="a defect"):
        wait_for(lambda: int("a defect"), "", 0)
