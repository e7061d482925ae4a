"""Every figure is measured in one place, and a value that misses its limit fails the command or the test that measures it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import figures

FOLDERS = ("molecule", "app/tests", "app/benchmarks", "scripts", "tests")
PYTHON = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SHELL = [path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file() and path.read_text().startswith("#!/bin/bash")]


@pytest.fixture
def _no_figures_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "build/figures.jsonl")


def recorded(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls of ``record(name, value, unit, limit)`` and, in the application, of ``figure`` with the same arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) >= 3:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("record", "figure"):
                yield node


@pytest.mark.usefixtures("_no_figures_yet")
def test_a_value_is_ok_only_if_it_keeps_a_limit(capsys):
    assert figures.main(["slow", "6", "s", "<=5"]) == 1
    assert figures.main(["slow", "5", "s", "<=5"]) == 0
    assert figures.main(["few", "4", "hosts", ">=4"]) == 0
    assert figures.main(["size", "7", "MiB"]) == 0
    capsys.readouterr()
    assert figures.main([]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["slow"][1:5] == ["5", "s", "<=5", "ok"]
    assert "ok" not in rows["size"]
    figures.record("few", 3, "hosts", ">=4")
    assert figures.main([]) == 1
    assert "MISS" in capsys.readouterr().out


def test_every_figure_is_measured_in_one_place():
    """Otherwise `make figures` shows whichever measurement ran last."""
    places: dict[str, list[Path]] = {}
    for path in PYTHON:
        for call in recorded(ast.parse(path.read_text())):
            if isinstance(call.args[0], ast.Constant):
                places.setdefault(call.args[0].value, []).append(path)
    for path in SHELL:
        for name in re.findall(r"^ *(?:figure|.*figures\.py) ([a-z_]+) ", path.read_text(), re.MULTILINE):
            places.setdefault(name, []).append(path)
    assert {"scrape_seconds", "worker_peak_mib", "worker_selects_full", "up_seconds", "lab_memory_mib"} <= places.keys()
    assert {  # what README and docs promise of production
        "production_first_edit_minutes", "ca_rotation_failed_requests", "certificate_renewal_restarts", "open_ports_unexpected",
        "forged_identity_accepted", "release_lost_host_recovers", "acme_renewal_served_seconds",
    } <= places.keys()  # fmt: skip
    assert {  # what the API, the page and the documents promise; each language of prompts has one, too
        "api_errors_known", "api_errors_documented", "openapi_breaking_changes", "token_revoked_seconds", "axe_violations",
        "docs_commands", "docs_commands_run", "docs_links_broken", "translations_stale", "dev_ready_seconds",
    } <= places.keys()  # fmt: skip
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_every_limit_of_a_scenario_is_asserted():
    """In the application's tests, the fixture `figure` does it."""
    asserted, limited = set(), {}
    for path in PYTHON:
        if path.is_relative_to(ROOT / "molecule"):
            tree = ast.parse(path.read_text())
            asserted |= {call for node in ast.walk(tree) if isinstance(node, ast.Assert) for call in recorded(node.test)}
            limited |= {call: path for call in recorded(tree) if len(call.args) > 3}
    assert len(limited) > 10
    assert [f"{path}:{call.lineno}" for call, path in limited.items() if call not in asserted] == []
