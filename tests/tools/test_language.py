"""What people read on a terminal is Chinese where the locale says so. What programs read is English everywhere."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from image_editor_tools import language

PACKAGE = ROOT / "tools/image_editor_tools"
# Programs that the verbs of the Makefile run: shell scripts, which print through scripts/speak, and Python programs.
SHELL = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.read_bytes().startswith(b"#!/bin/"))
PYTHON = [ROOT / f"scripts/{name}.py" for name in ("chaos", "docs", "figures", "new_role", "screenshots", "vault")]
# In a shell script: `say "text"`, `echo "text" | scripts/speak`, and lines of a here-document for scripts/speak.
SPOKEN = re.compile(r'\b(?:say|die|step) "((?:[^"\\]|\\.)+)"')
ECHOED = re.compile(r'\becho "((?:[^"\\]|\\.)+)"(\s*\|\s*\\?\s*(?:scripts|"\$here)/speak|\s*>\w)?')
FILE = re.compile(r'>"?[^"\s]+"? <<(\S+)\n.*?^\1$', re.MULTILINE | re.DOTALL)  # a file, or a program for another host
HERE = re.compile(r"scripts/speak <<EOF\n(.*?)^EOF$", re.MULTILINE | re.DOTALL)
VALUE = re.compile(r"(?<!\\)\$(?:\([^()]*\)|\{[^}]*\}|\w+|[*@#])")
# Calls that print or raise a text for people: the name, and which argument it is.
CALLS = {"Refusal": 0, "Failure": 0, "progress": 0, "said": 0, "add": 1, "CommandLine": 1, "wait_for": 1}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def texts(node: ast.expr | None) -> list[str]:
    """The text that is written in an expression, with {} for each value."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)]
    return []


def said_to_people() -> set[str]:
    """Every text of the commands' code for people: problems, errors, progress, help."""
    found: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call():
                    place = CALLS.get(getattr(node.func, "attr", getattr(node.func, "id", "")))
                    found += texts(node.args[place]) if place is not None and len(node.args) > place else []
                    found += [text for keyword in node.keywords if keyword.arg == "help" for text in texts(keyword.value)]
                case ast.Assign(targets=[ast.Name(id="SUMMARIES")], value=ast.Dict(values=values)):
                    found += [text for value in values for text in texts(value)]
                case ast.Yield(value=value) if path.name in ("members.py", "status.py"):
                    found += texts(value)
    return {text for text in found if re.search("[a-z]{2} ", text) and not text.startswith("  image-editor-")}


def test_every_text_for_people_is_translated():
    found = said_to_people()
    assert len(found) > 180
    samples = {text: text.replace("{}", "7") for text in found}
    assert [text for text, sample in samples.items() if language.translated(sample) == sample] == []


def said_by_scripts(path: Path) -> set[str]:
    """Every text that a shell script says, with {} for each value."""
    script = path.read_text()
    found = SPOKEN.findall(script) + [text for text, spoken in ECHOED.findall(script) if spoken]
    lines = [line for document in HERE.findall(script) for line in document.splitlines()]
    found += [line for line in lines if re.search("[a-z]{2,} [a-z]{2,}", line)]  # others are addresses and commands
    texts = {VALUE.sub("{}", text).replace("\\", "").strip() for text in found}
    return {text for text in texts if re.search("[a-z]{2}", text)}


def said_by_programs(path: Path) -> set[str]:
    """Every line that a Python program prints or raises for people, with {} for each value."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("print", "say", "ValueError"):
                found += texts(node.args[0])
        elif isinstance(node, (ast.Tuple, ast.IfExp)):  # several lines, or one of two
            parts = node.elts if isinstance(node, ast.Tuple) else [node.body, node.orelse]
            found += [text for part in parts for text in texts(part)]
    lines = {line.strip() for text in found for line in text.splitlines()}
    return {line for line in lines if re.search("[a-z]{2,}[:,]? [a-z]{2,}", line) and not line.startswith("{} {}")}


def untranslated(found: set[str]) -> list[str]:
    samples = {text: text.replace("{}", "7") for text in found}
    return sorted(text for text, sample in samples.items() if language.translated(sample) == sample)


def test_every_text_of_the_verbs_scripts_is_translated():
    found = {text for path in SHELL for text in said_by_scripts(path)}
    assert len(found) > 50
    assert untranslated(found) == []


def test_every_text_of_the_verbs_programs_is_translated():
    found = {text for path in PYTHON for text in said_by_programs(path)}
    found |= said_by_programs(ROOT / "app/development/__main__.py")
    assert len(found) > 20
    assert untranslated(found) == []


def test_no_script_prints_a_text_past_its_translation():
    left = [
        f"{path.name}: {text}"
        for path in SHELL
        for text, spoken in ECHOED.findall(FILE.sub("", path.read_text()))
        if not spoken and re.search("[a-z]{2,} [a-z]{2,}", VALUE.sub("", text))
    ]
    assert left == []


def test_every_verb_is_translated():
    """Also in the line that `make help` prints: no other entry of the catalogue takes the line, and the verb's name stays."""
    verbs = re.findall(r"^([a-z-]+):.*## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(verbs) > 15
    assert [verb for verb, text in verbs if language.translated(text) == text] == []
    lines = {f"  make {verb:<14} {text}": f"  make {verb:<14} {language.translated(text)}" for verb, text in verbs}
    assert {line: language.translated(line) for line in lines} == lines


def test_every_entry_of_the_catalogue_is_read_and_keeps_its_values():
    """An entry that is split over lines would be skipped. A value that is missing in the Chinese text would be lost."""
    catalogue = language.CATALOGUE.read_text()
    entries = language.ENTRY.findall(catalogue)
    assert len(entries) == len(re.findall(r"^msgid", catalogue, re.MULTILINE)) - 1  # without the header
    for text, other in entries:
        assert sorted(re.findall(r"{(\d)}", other)) == [str(number) for number in range(text.count("{}"))], text


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("refused: redis1 is primary already: nothing to do", "已拒绝：redis1 已经是主节点：无事可做"),
        ("node      redis1       primary; offset 7, 3 keys", "节点      redis1       主节点；偏移 7，3 个键"),
        ("   22/tcp sshd             anyone", "   22/tcp sshd             任何人"),
        ("changed", "changed"),
        ("unchanged", "unchanged"),
    ],
)
def test_a_text_is_translated_with_what_is_in_it(text, chinese):
    assert language.translated(text) == chinese


@pytest.mark.parametrize(
    ("variables", "stream", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, Terminal(), True),
        ({"LANG": "zh_TW.UTF-8"}, Terminal(), True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_CN.UTF-8"}, Terminal(), True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, Terminal(), False),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en"}, Terminal(), False),
        ({"LANG": "C.UTF-8"}, Terminal(), False),
        ({}, Terminal(), False),
        ({"LANG": "zh_CN.UTF-8"}, io.StringIO(), False),
    ],
)
def test_the_locale_and_the_terminal_decide(monkeypatch, variables, stream, expected):
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language.chinese(stream) is expected


def test_a_terminal_without_chinese_characters_gets_english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN")
    monkeypatch.delenv("LANGUAGE", raising=False)
    terminal = Terminal()
    terminal.encoding = "ascii"
    assert not language.chinese(terminal)


def on_a_terminal(*command: str | Path, stdin: str = "") -> str:
    """What a command prints on the terminal of an operator whose locale is Chinese."""
    ours, theirs = os.openpty()
    environment = {"PATH": os.environ["PATH"], "LANG": "zh_CN.UTF-8", "PYTHONPATH": str(ROOT / "tools")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        process.stdin.write(stdin)
        process.stdin.close()
        seen = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
            while chunk := os.read(ours, 4096):
                seen += chunk
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def test_a_command_speaks_chinese_to_a_person_and_english_to_a_program():
    script = "from image_editor_tools.redis.main import main; raise SystemExit(main())"
    text = on_a_terminal(sys.executable, "-c", script, "--help")
    assert "更换 Redis 的主节点" in text
    assert "在主节点正常时更换它，不丢失任何写入" in text
    assert "退出码：" in text
    printed = on_a_terminal(sys.executable, "-c", script, "status", "--json")
    document, _, complaint = printed.partition("\n")
    assert json.loads(document) == {"error": "refused: this host is neither a node nor a Sentinel of a set"}
    assert complaint == "已拒绝：本机既不是任何集合的节点，也不是其 Sentinel\n"


def test_make_help_speaks_chinese():
    text = on_a_terminal("make", "help")
    assert "make test           运行所有测试" in text


def test_a_script_speaks_chinese_to_a_person_and_english_to_a_pipe():
    command = [sys.executable, "scripts/vault.py", "nowhere"]
    assert "没有 vault.yml.example" in on_a_terminal(*command)
    assert on_a_terminal("scripts/speak", stdin="lint: ok\n3 passed, 0 failed\n") == "lint：正常\n3 个通过，0 个失败\n"
    piped = on_a_terminal("sh", "-c", "echo lint: ok | scripts/speak | cat")
    assert piped == "lint: ok\n"


def test_lines_that_are_not_in_the_catalogue_pass_unchanged():
    line = "web1  nginx  active (running)  1.26.3-3\n\n  {0} 100%\n"
    assert on_a_terminal("scripts/speak", stdin=line) == line
