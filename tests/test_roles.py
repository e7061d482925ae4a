"""Every role has the same skeleton, and its own description is true."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import INVENTORIES, PLAYBOOKS, ROLES, ROOT, each, load

# Roles get the topology as arguments. Only these roles read the inventory, because checking the inventory is their job.
READS_INVENTORY = {"preflight"}

# Files whose first line cannot say that Ansible manages them, and why.
FIRST_LINE_ELSEWHERE = {
    "roles/redis/templates/users.acl.j2": "Redis takes no comments in it",
    "roles/nginx/templates/problems.j2": "macros for others",
    "templates/systemd.hardening.j2": "a part of others",
    "templates/systemd.settings.j2": "a part of others",
    "roles/prometheus/templates/runbooks.html.j2": "begins with a comment in Prometheus's template language",
    "roles/prometheus/files/summaries/zh.yml.j2": "the role reads it, and no host gets it",
}
HEADER = "{{ ansible_managed | comment"

CONTENTS = sorted(path for role in ROLES for path in role.rglob("*") if path.is_file() and path.suffix != ".md")
TASKS = [path for path in CONTENTS if path.parent.name in ("tasks", "handlers")]
TEMPLATES = sorted(
    [path for path in CONTENTS if path.suffix == ".j2" and path.parts[-3] != "alerts"] + list((ROOT / "templates").glob("*.j2"))
)


def variables(path: Path) -> dict:
    """The variables of a file. The file may be missing, or hold only comments."""
    return (load(path) if path.exists() else None) or {}


def entry_points(role: Path) -> dict:
    return load(role / "meta" / "argument_specs.yml")["argument_specs"]


@each("role", ROLES)
def test_every_role_has_the_common_skeleton(role):
    meta = load(role / "meta" / "main.yml")["galaxy_info"]
    assert meta["role_name"] == role.name
    assert meta["description"]
    assert (role / "tasks" / "main.yml").exists()
    tests = list((ROOT / "molecule").glob(f"*/test_{role.name}.py"))
    assert len(tests) == 1, f"exactly one scenario has a test_{role.name}.py, which is the test of this role: {tests}"


@each("role", ROLES)
def test_readme_says_what_an_operator_asks(role):
    readme = (role / "README.md").read_text()
    assert readme.startswith(f"# {role.name}\n")
    for word in ("Purpose", "Second run", "Rollback"):
        assert re.search(rf"^(\*\*{word}\.\*\*|#+ {word}$)", readme, re.MULTILINE), f"{word} is missing"


@each("role", ROLES)
def test_arguments_match_defaults(role):
    """An option has the same default in both files, or in neither. Without a default it is required, at least sometimes."""
    defaults = variables(role / "defaults" / "main.yml")
    options = {name: option for spec in entry_points(role).values() for name, option in spec.get("options", {}).items()}
    described = {name: option["default"] for name, option in options.items() if "default" in option}
    assert described == defaults
    for name, option in options.items():
        assert option.get("description"), f"{name} has no description"
        if option.get("required"):
            assert name not in defaults, f"{name} is required and has a default"
        elif "default" not in option:
            assert re.search(r"[Rr]equired", option["description"]), (
                f"{name} is neither required nor has a default: say when it is required"
            )


@each("role", ROLES)
def test_every_entry_point_is_a_tasks_file_that_says_what_it_does(role):
    for name, spec in entry_points(role).items():
        assert spec.get("short_description"), name
        assert (role / "tasks" / f"{name}.yml").exists(), f"tasks/{name}.yml is missing"


@each("role", ROLES)
def test_variables_bear_the_roles_name(role):
    """Public variables (defaults, specs) begin with the role's name, internal ones (vars/, tasks) with `__` and the name.

    A task's result is public if the role's README explains it to callers.
    """
    readme = (role / "README.md").read_text()
    public = set(variables(role / "defaults" / "main.yml"))
    public |= {name for spec in entry_points(role).values() for name in spec.get("options", {})}
    internal = set(variables(role / "vars" / "main.yml"))
    for path in TASKS:
        if role in path.parents:
            results = set(re.findall(r"^\s+(?:register|index_var|loop_var): (\w+)", path.read_text(), re.MULTILINE))
            public |= {name for name in results if f"`{name}" in readme}
            internal |= results - public
    assert [name for name in public if not name.startswith(f"{role.name}_")] == []
    assert [name for name in internal if not name.startswith(f"__{role.name}_")] == []


@each("path", CONTENTS)
def test_roles_name_no_group_and_no_host_of_an_inventory(path):
    role = path.relative_to(ROOT / "roles").parts[0]
    text = path.read_text()
    if role not in READS_INVENTORY:
        assert not re.search(r"\bgroups\[|\bgroups\.|\bgroup_names\b", text), "a role names a group: pass an argument"
    assert re.findall(rf"\b(?:{'|'.join(HOSTS)})\b", text) == [], "a role names a host of an inventory"


HOSTS = sorted(
    {
        name
        for directory in INVENTORIES
        for name in re.findall(r"^\s+([\w.-]*\d[\w.-]*):", (directory / "hosts.yml").read_text(), re.MULTILINE)
    }
)


def test_the_search_for_inventory_hosts_finds_hosts():
    assert len(HOSTS) > 5, HOSTS


@each("path", TASKS)
def test_tasks_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 100


@each("path", [path for path in TEMPLATES if str(path.relative_to(ROOT)) not in FIRST_LINE_ELSEWHERE])
def test_first_line_says_that_the_file_is_managed(path):
    """In a script the second line says so, because the first line names the interpreter."""
    first, second = [*path.read_text().splitlines(), "", ""][:2]
    assert (second if first.startswith("#!") else first).startswith(HEADER)


def test_every_listed_exception_still_exists():
    assert all((ROOT / path).exists() for path in FIRST_LINE_ELSEWHERE)
    assert {role.name for role in ROLES} >= READS_INVENTORY


# Entry points that only other roles and the playbooks of a release use. The test below checks each call, so a run need not
# validate the arguments on every host.
HELPERS = {
    ("celery", "pause"),
    ("nginx", "account"),
    ("nginx", "remove"),
    ("nginx", "site"),
    ("packages", "main"),
    ("release", "activate"),
    ("release", "conclude"),
    ("release", "install"),
    ("release", "plan"),
    ("release", "status"),
    ("release_build", "identify"),
    ("rolling_release", "conclude"),
    ("rolling_release", "rehearse"),
    ("rolling_release", "switch"),
    ("rolling_release", "turns"),
    ("systemd_service", "drop_in"),
    ("systemd_service", "main"),
    ("systemd_service", "stop"),
    ("tools", "main"),
}
# Playbooks name the roles that check a host's services, and role rolling_release includes them: `rolling_release_roles`.
NAMED_BY_PLAYBOOKS = "{{ __rolling_release_role.role }}"
TYPES = {"bool": bool, "dict": dict, "int": int, "list": list, "path": str, "str": str}


def includes(paths):
    """Every task that includes or imports a role: the file, the task with its blocks' variables, the include, the entry point."""

    def tasks(items, outer):
        for item in items if isinstance(items, list) else []:
            given = outer | (item.get("vars") or {})
            yield item | ({"vars": given} if given else {})
            for part in ("block", "rescue", "always"):
                yield from tasks(item.get(part), given)
            for part in ("pre_tasks", "tasks", "post_tasks"):
                yield from tasks(item.get(part), {})

    for path in paths:
        for task in tasks(load(path), {}):
            if include := task.get("ansible.builtin.include_role") or task.get("ansible.builtin.import_role"):
                yield path, task, include, (include["name"], include.get("tasks_from", "main"))


def test_roles_pass_known_and_valid_arguments_to_helpers():
    """Every call has known arguments only, the required arguments, and values of the right type. An expression has any type."""
    found = [call for call in includes([*TASKS, *PLAYBOOKS]) if call[-1] in HELPERS]
    assert {helper for *_, helper in found} == HELPERS
    for path, task, _, (name, entry_point) in found:
        options = entry_points(ROOT / "roles" / name)[entry_point].get("options", {})
        given, where = task.get("vars", {}), f"{path.relative_to(ROOT)}: {task['name']}"
        assert set(given) <= set(options), where
        assert {argument for argument, option in options.items() if option.get("required")} <= set(given), where
        for argument, value in given.items():
            if not (isinstance(value, str) and "{{" in value):
                assert isinstance(value, TYPES[options[argument]["type"]]), f"{where}: {argument}"
                for one in value if isinstance(value, list) else [value]:
                    assert one in options[argument].get("choices", [one]), f"{where}: {argument}"


def test_only_calls_of_helpers_are_not_validated_in_a_run():
    unchecked = [call for call in includes([*TASKS, *PLAYBOOKS]) if "rolespec_validate" in call[2]]
    assert unchecked
    for path, task, include, helper in unchecked:
        where = f"{path.relative_to(ROOT)}: {task['name']}"
        assert helper in HELPERS or helper[0] == NAMED_BY_PLAYBOOKS, where
        assert include["rolespec_validate"] is False, where


def static_tasks(path):
    """Every task of a tasks file, in blocks and imported files too, in the order in which Ansible runs them."""

    def tasks(items):
        for item in items or []:
            yield item
            for part in ("block", "rescue", "always"):
                yield from tasks(item.get(part))
            if imported := item.get("ansible.builtin.import_tasks"):
                yield from static_tasks(path.parent / imported)

    yield from tasks(load(path))


@each("path", [path for path in TASKS if path.parent.name == "tasks"])
def test_no_role_is_imported_after_the_end_of_the_role(path):
    """Ansible's end_role skips tasks only up to the end of the next imported role. An included role is not there yet."""
    ended = False
    for task in static_tasks(path):
        ended = ended or task.get("ansible.builtin.meta") == "end_role"
        assert not (ended and "ansible.builtin.import_role" in task), task["name"]
