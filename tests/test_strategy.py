"""The strategy uses Mitogen where it is installed, and is Ansible's own linear strategy elsewhere. It saves work."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jinja2
import pytest
from ansible.plugins.strategy.linear import StrategyModule as LinearStrategy
from conftest import ROOT

PLUGIN = ROOT / "plugins/strategy/accelerated.py"


def imported() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accelerated", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mitogen_is_used_where_it_is_installed():
    from ansible_mitogen.strategy import StrategyMixin

    assert imported().StrategyModule.__bases__ == (StrategyMixin, LinearStrategy)


def test_without_mitogen_the_strategy_is_linear(monkeypatch):
    monkeypatch.setitem(sys.modules, "ansible_mitogen.strategy", None)  # as if Mitogen were not installed
    assert imported().StrategyModule.__bases__ == (LinearStrategy,)


def run(tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one task on localhost with the repository's ansible.cfg; return what Ansible printed."""
    playbook = tmp_path / "playbook.yml"
    playbook.write_text("[{hosts: localhost, gather_facts: false, tasks: [{ansible.builtin.command: {argv: ['true']}}]}]\n")
    return subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook)],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_only_deprecation_warning_is_about_the_strategy(tmp_path):
    """docs/architecture.md tells the reader about this one warning."""
    result = run(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr.count("[DEPRECATION WARNING]") == 1, result.stderr
    assert "Use of strategy plugins not included in ansible.builtin" in result.stderr


def test_the_linear_strategy_of_ansible_works_without_any_warning(tmp_path):
    result = run(tmp_path, ANSIBLE_STRATEGY="linear")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """Jinja keeps compiled templates in this directory."""
    monkeypatch.setattr(jinja2.Environment, "compile", jinja2.Environment.compile)  # restored after the test
    imported().keep_compiled_templates(tmp_path / "kept")
    return tmp_path / "kept"


def test_a_kept_template_is_not_compiled_again(kept, monkeypatch):
    environment = jinja2.Environment()
    assert environment.from_string("Hello {{ name }}").render(name="Ann") == "Hello Ann"
    assert kept.stat().st_mode & 0o777 == 0o700
    (file,) = kept.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(jinja2.Environment, "_generate", None)
    assert environment.from_string("Hello {{ name }}").render(name="Bob") == "Hello Bob"


def test_a_kept_template_depends_on_its_text_and_on_the_options(kept):
    text = "<% a %>{{ b }}"
    assert jinja2.Environment().from_string(text).render(b=1) == "<% a %>1"
    other = jinja2.Environment(variable_start_string="<%", variable_end_string="%>")
    assert other.from_string(text).render(a=2) == "2{{ b }}"
    assert jinja2.Environment().from_string(f"{text} ").render(b=1) == "<% a %>1 "
    assert len(list(kept.iterdir())) == 3


def test_a_kept_template_depends_on_what_its_backslashes_mean(kept, monkeypatch):
    """Ansible has the lexer double them in some places (AnsibleLexer)."""
    text, tokeniter = r"{{ 'a\\b' }}", jinja2.lexer.Lexer.tokeniter
    for _ in range(2):
        assert jinja2.Environment().from_string(text).render() == r"a\b"

    def doubled(self, *args):
        return ((line, kind, value.replace("\\", "\\\\")) for line, kind, value in tokeniter(self, *args))

    monkeypatch.setattr(jinja2.lexer.Lexer, "tokeniter", doubled)
    for _ in range(2):
        assert jinja2.Environment().from_string(text).render() == r"a\\b"
    assert len(list(kept.iterdir())) == 2


def test_a_template_with_an_error_names_it(kept):
    with pytest.raises(jinja2.TemplateSyntaxError, match="unexpected char '§'"):
        jinja2.Environment().from_string(r"{{ '\\' § }}")
    assert list(kept.iterdir()) == []


class Loader:
    """Knows a plugin, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_with_context(self, name: str, **given: str) -> str:
        self.asked.append(name)
        if name == "absent":
            raise KeyError(name)
        return f"{name} {given}"


def test_a_plugin_that_was_found_is_not_searched_again():
    loader = Loader()
    imported().remember(loader, ["known", "absent"])
    assert [loader.get_with_context("known"), loader.get_with_context("known")] == ["known {}"] * 2
    assert loader.asked == ["known", "absent"]
    assert loader.get_with_context("other") == "other {}"
    assert loader.get_with_context("known", collection="c") == "known {'collection': 'c'}"
    with pytest.raises(KeyError):
        loader.get_with_context("absent")
    assert loader.asked == ["known", "absent", "other", "known", "absent"]


def test_a_damaged_file_or_a_lost_directory_costs_nothing_but_time(kept):
    environment = jinja2.Environment()
    environment.from_string("{{ 1 + 1 }}")
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert environment.from_string("{{ 1 + 1 }}").render() == "2"
    file.unlink()
    kept.rmdir()
    assert environment.from_string("{{ 1 + 1 }}").render() == "2"
