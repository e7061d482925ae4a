"""Count what each role and task executes on hosts, and how long that takes. `scripts/bench_deploy.py` prints the dearest."""

from __future__ import annotations

import collections
import json
import re
import time
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: profile
type: aggregate
short_description: Write executions and seconds of each task to a JSON file
description:
    - Writes a list of tasks at the end of a run, each with role, path, task, executed, skipped and seconds.
    - C(executed) and C(skipped) count hosts. Tasks of C(meta) are left out, because they start no process.
    - C(seconds) is wall time, from the start of the task to the start of the next task.
author: The maintainers of this repository
requirements:
    - Enable it with E(ANSIBLE_CALLBACKS_ENABLED=profile).
options:
    file:
        description: The file to write. A relative path begins at the directory of ansible.cfg.
        default: build/profile.json
        env: [{name: IMAGE_EDITOR_PROFILE}]
"""


class CallbackModule(CallbackBase):
    """See ``DOCUMENTATION``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "profile"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.seconds: collections.Counter[tuple[str, str]] = collections.Counter()
        self.current: tuple[str, str] | None = None
        self.since = time.monotonic()

    def _start(self, task: Any) -> None:
        now = time.monotonic()
        if self.current:
            self.seconds[self.current] += now - self.since
        self.current = task and (task.get_path() or "", task.get_name())
        self.since = now

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._start(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._start(task)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.counts[task.get_path() or "", task.get_name()]["started"] += 1

    def v2_runner_on_skipped(self, result: Any) -> None:
        if result.task.action not in ("meta", "ansible.builtin.meta"):
            self.counts[result.task.get_path() or "", result.task.get_name()]["skipped"] += 1

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._start(None)
        here = Path(constants.CONFIG_FILE or ".").absolute().parent  # Molecule runs playbooks in the directory of its scenario
        tasks = []
        for path, name in self.counts.keys() | self.seconds.keys():
            short = path.removeprefix(f"{here}/")
            role = re.match(r"roles/([^/]+)/", short)
            tasks.append(
                {
                    "role": role[1] if role else "",
                    "path": short,
                    "task": name,
                    "executed": self.counts[path, name]["started"] - self.counts[path, name]["skipped"],
                    "skipped": self.counts[path, name]["skipped"],
                    "seconds": round(self.seconds[path, name], 3),
                }
            )
        file = here / self.get_option("file")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"tasks": sorted(tasks, key=lambda task: -task["seconds"])}, indent=1) + "\n")
