"""Ansible's linear strategy, carried by Mitogen where Mitogen is importable, with compiled templates kept.

Mitogen keeps one Python interpreter on each host for the whole run instead of starting one per task. ansible-core runs each
task in a process of its own, which compiles every expression on its way anew; Jinja can keep what it compiled.
ansible-core intends to drop third-party strategies, so nothing here may depend on it: without Mitogen
(or with ``ANSIBLE_STRATEGY=linear``) every playbook does the same work, only slower.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from pickle import UnpicklingError

from ansible import __version__
from ansible.plugins.strategy.linear import StrategyModule as LinearStrategy
from jinja2 import FileSystemBytecodeCache
from jinja2.bccache import Bucket

DOCUMENTATION = """
name: accelerated
short_description: The linear strategy, over Mitogen where it is installed
description:
    - Executes tasks in lockstep exactly as C(linear) does.
    - Uses Mitogen as the transport where it can be imported.
    - Keeps compiled templates in build/templates.
author: The maintainers of this repository
"""

try:
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:

    class StrategyModule(LinearStrategy):
        """Plain linear: Mitogen is not installed."""

else:

    class StrategyModule(StrategyMixin, LinearStrategy):  # type: ignore[no-redef]
        """Linear over Mitogen."""


def keep_compiled(directory: Path) -> None:
    """Have templates compiled once, not in every task: by Jinja's own cache, which Ansible's templates from strings pass by.

    What is compiled follows from the text, the settings below, and the versions of Jinja and Ansible.
    """
    fields, config, current = (
        bits._TEMPLATE_OVERRIDE_FIELD_NAMES,
        bits._TemplateConfig,
        bits._TemplateCompileContext.current,
    )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache = FileSystemBytecodeCache(str(directory), "%s")
    compile_anew = bits.AnsibleEnvironment.compile

    def compile_once(self, source, name=None, filename=None, raw=False, defer_init=False):
        if not isinstance(source, str) or name or filename or raw or defer_init:
            return compile_anew(self, source, name, filename, raw, defer_init)
        context = current(optional=True)
        escape = context and context.escape_backslashes
        settings = [getattr(self, field) for field in fields] + [escape, config.allow_embedded_templates, __version__]
        key = f"{settings} {source}"
        bucket = Bucket(self, cache.get_cache_key(key), cache.get_source_checksum(key))
        with contextlib.suppress(EOFError, UnpicklingError):  # damaged
            cache.load_bytecode(bucket)
        if bucket.code is None:
            bucket.code = compile_anew(self, source)
            with contextlib.suppress(OSError):  # no room: the next one compiles it again
                cache.dump_bytecode(bucket)
        return bucket.code

    bits.AnsibleEnvironment.compile = compile_once


try:
    from ansible._internal._templating import _jinja_bits as bits

    keep_compiled(Path(__file__).resolve().parents[2] / "build/templates")
except (ImportError, AttributeError, OSError):  # another ansible-core, or nowhere to write
    pass
