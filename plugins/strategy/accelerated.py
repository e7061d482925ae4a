"""Ansible's linear strategy, with Mitogen as the transport where Mitogen can be imported, and with less work in each process.

Mitogen keeps one Python interpreter on each host for the whole run. Ansible starts one for each task.
Ansible forks a process for each task and host, and each of these processes does some work anew that could be done once:

- Jinja compiles a dozen templates to Python. They are kept in files.
- Ansible searches its collections for each filter and test of Jinja's own. They are found before the first fork.
- Python searches for garbage among all that Ansible has read, which is kept until the end.

Together that takes a fifth off the processor time of a run.
ansible-core has deprecated third-party strategies, so no playbook may depend on this one. Without Mitogen, or with
``ANSIBLE_STRATEGY=linear``, every playbook does the same work more slowly.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

import jinja2
from ansible.plugins.loader import PluginLoader, filter_loader, lookup_loader, test_loader
from ansible.plugins.strategy.linear import StrategyModule as LinearStrategy
from ansible.release import __version__ as ansible_version
from jinja2 import Environment, FileSystemBytecodeCache, TemplateSyntaxError
from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS

DOCUMENTATION = """
name: accelerated
short_description: The linear strategy, over Mitogen where it is installed
description:
    - Executes tasks in lockstep exactly as C(linear) does.
    - Uses Mitogen as the transport where it can be imported.
    - Keeps compiled templates in C(build/templates), and finds filters, tests and lookups before it forks processes.
author: The maintainers of this repository
"""

COMPILED = Path(__file__).resolve().parents[2] / "build/templates"
# What else the code of a template depends on (https://jinja.palletsprojects.com/en/stable/api/#jinja2.Environment).
OPTIONS = (
    "block_start_string", "block_end_string", "variable_start_string", "variable_end_string", "comment_start_string",
    "comment_end_string", "line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks", "newline_sequence",
    "keep_trailing_newline", "optimized", "autoescape",
)  # fmt: skip
# Those that are often used.
LOOKUPS = ("rendered", "ansible.builtin.env", "ansible.builtin.file", "ansible.builtin.password", "ansible.builtin.vars")


def keep_compiled_templates(directory: Path) -> None:
    """Let Jinja read and write compiled templates in ``directory``, which only this user can read. Without it, Jinja compiles."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    kept, compile_template = FileSystemBytecodeCache(str(directory)), Environment.compile

    def compile_once(
        self: Environment,
        source: str | jinja2.nodes.Template,
        name: str | None = None,
        filename: str | None = None,
        raw: bool = False,
        defer_init: bool = False,
    ) -> str | CodeType:
        if raw or defer_init or not isinstance(source, str):
            return compile_template(self, source, name, filename, raw, defer_init)
        options = [getattr(self, option) for option in OPTIONS]
        key = f"{ansible_version} {jinja2.__version__} {type(self)} {options} {name} {filename} {source}"
        if "\\" in source:  # what it means depends on where Ansible found the template, and only the tokens show that
            with suppress(TemplateSyntaxError):  # compiling names the error
                key += repr(list(self.lex(source, name, filename)))
        bucket = kept.get_bucket(self, key, None, source)
        if bucket.code is None:
            bucket.code = compile_template(self, source, name, filename)
            with suppress(OSError):  # the disk is full, or the directory is another user's: the next process compiles again
                kept.set_bucket(bucket)
        return bucket.code

    Environment.compile = compile_once  # type: ignore[method-assign]


def remember(loader: PluginLoader, names: Iterable[str]) -> None:
    """Search for plugins now. Later the loader answers the same, also in the processes that are forked meanwhile."""
    find, found = loader.get_with_context, {}
    for name in names:
        with suppress(KeyError):  # no plugin of Ansible
            found[name] = find(name)

    def get_with_context(name: str, *args: Any, **kwargs: Any) -> Any:
        return find(name, *args, **kwargs) if args or kwargs or name not in found else found[name]

    loader.get_with_context = get_with_context


def spare_the_collector() -> None:
    """What Ansible has read until now is no garbage, and a run makes little."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 1000)


if Environment.compile.__module__ == "jinja2.environment":  # the first play of the run
    keep_compiled_templates(COMPILED)
    remember(filter_loader, DEFAULT_FILTERS)
    remember(test_loader, DEFAULT_TESTS)
    for lookup in LOOKUPS:
        lookup_loader.get(lookup, class_only=True)
    spare_the_collector()

try:
    from ansible_mitogen import affinity
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:

    class StrategyModule(LinearStrategy):
        """Plain linear: Mitogen is not installed."""

else:
    # By default Mitogen pins every process to a processor. With two processors it leaves one of them to a single
    # process that mostly waits, so a run takes half as long again. The kernel chooses better.
    affinity.policy = affinity.Policy()

    class StrategyModule(StrategyMixin, LinearStrategy):  # type: ignore[no-redef]
        """Linear over Mitogen."""
