"""The callback of `make up` and `make bench-deploy` counts what each task executes."""

from __future__ import annotations

import json
import os
import subprocess

from conftest import ROOT

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: Run everywhere, ansible.builtin.command: {argv: ['true']}, changed_when: false}
    - {name: Run on one, ansible.builtin.command: {argv: ['true']}, changed_when: false, when: inventory_hostname == 'a'}
    - {name: Run once, ansible.builtin.command: {argv: [sleep, '1']}, changed_when: false, run_once: true}
    - {name: Do nothing, ansible.builtin.meta: end_host, when: inventory_hostname == 'nobody'}
    - {name: Include, ansible.builtin.include_tasks: included.yml}
"""


def test_executions_and_skips_of_each_task_are_counted(tmp_path):
    (tmp_path / "playbook.yml").write_text(PLAYBOOK)
    (tmp_path / "included.yml").write_text("[{name: Fail, ansible.builtin.command: {argv: ['false']}, ignore_errors: true}]\n")
    profile = tmp_path / "profile.json"
    run = subprocess.run(
        ["ansible-playbook", "-i", "a,b,c,", "-c", "local", str(tmp_path / "playbook.yml")],
        cwd=ROOT,
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACKS_ENABLED": "profile",
            "ANSIBLE_STRATEGY": "linear",
            "ANSIBLE_CACHE_PLUGIN": "memory",
            "IMAGE_EDITOR_PROFILE": str(profile),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    tasks = {task["task"]: task for task in json.loads(profile.read_text())["tasks"]}
    assert {name: (task["executed"], task["skipped"]) for name, task in tasks.items()} == {
        "Run everywhere": (3, 0),
        "Run on one": (1, 2),
        "Run once": (1, 0),
        "Do nothing": (0, 0),
        "Include": (3, 0),
        "Fail": (3, 0),
    }
    assert tasks["Run once"]["seconds"] >= 1
