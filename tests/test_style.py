"""Task names say what a task does, and habits that this repository has given up do not come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Loader, each, files, load

TASKS = sorted(
    path
    for pattern in (
        "roles/*/tasks/**/*.yml",
        "roles/*/handlers/*.yml",
        "playbooks/**/*.yml",
        "molecule/**/*.yml",
        "scripts/**/*.yml",
    )
    for path in ROOT.glob(pattern)
    if "group_vars" not in path.parts
)
PREFIX = re.compile(r"^\w+ \| ")  # the file's name, in the tasks of sub-files
PRONOUNS = {"it", "them", "that", "this", "one"}


def flat(tasks: list[dict] | None) -> Iterator[dict]:
    """Every task of a list, and every task in its blocks."""
    for task in tasks or []:
        yield task
        for block in ("block", "rescue", "always"):
            yield from flat(task.get(block))


def tasks_of(contents: object) -> Iterator[dict]:
    """Every task of a tasks file or of a playbook's plays."""
    for item in contents if isinstance(contents, list) else []:
        if "hosts" in item:
            for section in ("pre_tasks", "tasks", "post_tasks", "handlers"):
                yield from flat(item.get(section))
        elif "ansible.builtin.import_playbook" not in item:
            yield from flat([item])


def poor(name: str) -> bool:
    """Whether a task's name has fewer than three words or ends in a pronoun. A template counts as one word."""
    words = re.sub(r"{{.*?}}", "X", PREFIX.sub("", name)).split()
    return len(words) < 3 or words[-1].strip(".,:").lower() in PRONOUNS


@pytest.mark.parametrize(
    "name", ["Let them", "Make it", "run | Start it", "Install {{ a | join(', ') }}", "See whether nginx has it"]
)
def test_poor_names_are_recognised(name):
    assert poor(name)


@pytest.mark.parametrize("name", ["Create a backup", "run | Start the service", "Remove the package {{ item | default('') }}"])
def test_good_names_are_accepted(name):
    assert not poor(name)


@each("path", TASKS)
def test_task_names_say_what_the_task_does(path: Path):
    """At least three words after an optional `file | `, and no pronoun at the end."""
    assert [task["name"] for task in tasks_of(load(path)) if "name" in task and poor(task["name"])] == []


# A pattern, the files in which it is looked for, and what to do instead.
HABITS = {
    "ignore_errors": (r"^\s*(- )?ignore_errors:", {".yml"}, "name the expected failure with failed_when"),
    "lineinfile": (r"\blineinfile:", {".yml"}, "write the whole file from a template, or add a drop-in"),
    "set _ =": (r"{%-?\s*set _\w* = \w+\.\w+\(", {".yml", ".j2"}, "write a filter in plugins/filter with a unit test"),
    "ansible._internal": (r"^\s*(from|import) ansible\.(\w+\.)*_\w", {".py"}, "use a public interface of ansible-core"),
}
HERE = {path for path in files() if "app" not in path.relative_to(ROOT).parts[:1]}


@pytest.mark.parametrize("habit", HABITS)
def test_abandoned_habits_do_not_come_back(habit):
    pattern, suffixes, instead = HABITS[habit]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(HERE)
        if path.suffix in suffixes
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == [], instead


@each("path", TASKS)
def test_no_mapping_repeats_a_key_that_it_merges(path: Path):
    """Ansible warns of each such key in every run."""

    def repeated(node: yaml.Node) -> Iterator[str]:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from repeated(item)
        if isinstance(node, yaml.MappingNode):
            own = {key.value for key, _ in node.value}
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    yield from (merged.value for merged, _ in value.value if merged.value in own)
                yield from repeated(value)

    assert list(repeated(yaml.compose(path.read_text(), Loader))) == []
