"""The strategy uses Mitogen where it is installed, and is Ansible's own linear strategy elsewhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

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
