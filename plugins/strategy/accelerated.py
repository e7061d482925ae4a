"""Ansible's linear strategy, with Mitogen as the transport where Mitogen can be imported, and with compiled templates kept.

Mitogen keeps one Python interpreter on each host for the whole run. Ansible starts one for each task.
Jinja compiles a template to Python. Each process of Ansible does that anew, for a dozen templates in each task, so they are kept
in files. That takes an eighth off the processor time of a run.
ansible-core has deprecated third-party strategies, so no playbook may depend on this one. Without Mitogen, or with
``ANSIBLE_STRATEGY=linear``, every playbook does the same work more slowly.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import CodeType

import jinja2
from ansible.plugins.strategy.linear import StrategyModule as LinearStrategy
from ansible.release import __version__ as ansible_version
from jinja2 import Environment, FileSystemBytecodeCache

DOCUMENTATION = """
name: accelerated
short_description: The linear strategy, over Mitogen where it is installed
description:
    - Executes tasks in lockstep exactly as C(linear) does.
    - Uses Mitogen as the transport where it can be imported.
    - Keeps compiled templates in C(build/templates).
author: The maintainers of this repository
"""

COMPILED = Path(__file__).resolve().parents[2] / "build/templates"
# What else the code of a template depends on (https://jinja.palletsprojects.com/en/stable/api/#jinja2.Environment).
OPTIONS = (
    "block_start_string", "block_end_string", "variable_start_string", "variable_end_string", "comment_start_string",
    "comment_end_string", "line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks", "newline_sequence",
    "keep_trailing_newline", "optimized", "autoescape",
)  # fmt: skip


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
        # What a backslash means depends on where Ansible found the template.
        if raw or defer_init or not isinstance(source, str) or "\\" in source:
            return compile_template(self, source, name, filename, raw, defer_init)
        options = [getattr(self, option) for option in OPTIONS]
        key = f"{ansible_version} {jinja2.__version__} {type(self)} {options} {name} {filename} {source}"
        bucket = kept.get_bucket(self, key, None, source)
        if bucket.code is None:
            bucket.code = compile_template(self, source, name, filename)
            with suppress(OSError):  # the disk is full, or the directory is another user's: the next process compiles again
                kept.set_bucket(bucket)
        return bucket.code

    Environment.compile = compile_once  # type: ignore[method-assign]


if Environment.compile.__module__ == "jinja2.environment":
    keep_compiled_templates(COMPILED)

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
