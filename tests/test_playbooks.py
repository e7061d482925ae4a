"""Every inventory parses, all describe the same platform, and playbooks keep their rules. scripts/lint checks their syntax."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import INVENTORIES, PLAYBOOKS, ROOT, each, environments, load


def ansible(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "false"}
    environment.pop("ANSIBLE_INVENTORY", None)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def inventories() -> dict[str, dict]:
    """Every inventory as Ansible reads it."""
    found = {}
    for directory in INVENTORIES:
        run = ansible("ansible-inventory", "-i", str(directory), "--list", "--export")
        assert run.returncode == 0, run.stderr
        assert "WARNING" not in run.stderr, run.stderr
        found[directory.name] = json.loads(run.stdout)
    return found


def test_environments_of_an_operator_are_left_out(tmp_path):
    """One is not in git, and one has a vault, for which the tests have no password."""
    for name in ("theirs", "vaulted", "local"):
        (tmp_path / "inventories" / name / "group_vars/all").mkdir(parents=True)
        (tmp_path / "inventories" / name / "hosts.yml").touch()
    (tmp_path / "inventories/vaulted/group_vars/all/vault.yml").touch()
    for command in (["init", "-q"], ["add", "inventories/theirs", "inventories/vaulted"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert environments(tmp_path) == [tmp_path / "inventories/theirs"]


def test_inventories_define_the_same_groups(inventories):
    groups = {name: set(inventory["all"]["children"]) - {"ungrouped"} for name, inventory in inventories.items()}
    first = next(iter(groups.values()))
    assert first
    assert all(other == first for other in groups.values()), groups


def test_every_group_has_a_host(inventories):
    for name, inventory in inventories.items():
        empty = [
            group
            for group in inventory["all"]["children"]
            if group not in ("ungrouped", "down") and not inventory[group].get("hosts")
        ]
        assert empty == [], name


def test_every_play_names_existing_groups_only(inventories):
    known = {"all", "localhost", *next(iter(inventories.values()))["all"]["children"]}
    for path in PLAYBOOKS:
        for play in load(path):
            if isinstance(play.get("hosts"), str) and "{{" not in play["hosts"]:
                wanted = set(play["hosts"].replace("&", "").replace("!", "").replace("[0]", "").split(":"))
                assert wanted <= known, path


@each("directory", INVENTORIES)
def test_every_environment_has_all_feature_switches(directory):
    """A rollback changes a switch in the environment's own file, so every environment must have all switches."""
    lab = load(ROOT / "inventories/lab/group_vars/all/features.yml")
    assert set(load(directory / "group_vars/all/features.yml")) == set(lab)


# Playbooks that need no facts of other hosts, gather them themselves, or run only after a playbook that gathers them.
WITHOUT_FACTS = {
    "conclude.yml",
    "environment.yml",
    "facts.yml",
    "feature_conclude.yml",
    "feature_switch.yml",
    "features/none.yml",
    "lab/create.yml",
    "lab/destroy.yml",
    "postgresql_switchover.yml",
    "redis_switchover.yml",
    "rollback_end.yml",
    "rotate_ca_apply.yml",
    "status.yml",
}


def first_play(path: Path) -> tuple[Path, dict]:
    """The first play that a playbook runs, through the playbooks that it imports, and the file that holds it."""
    play = load(path)[0]
    imported = play.get("ansible.builtin.import_playbook")
    return first_play((path.parent / imported).resolve()) if imported else (path, play)


@each("path", PLAYBOOKS)
def test_every_playbook_first_gathers_the_facts_that_it_needs(path):
    """Its first play gathers the facts from which the wiring derives addresses."""
    name = str(path.relative_to(ROOT / "playbooks"))
    if name not in WITHOUT_FACTS:
        assert first_play(path)[0].name in ("facts.yml", "preflight.yml")


FIRST = ("environment.yml", "facts.yml", "preflight.yml")
# These only run after another playbook.
LATER = {"feature_conclude.yml", "feature_switch.yml", "rollback_end.yml", "rotate_ca_apply.yml"}


@each("path", [path for path in PLAYBOOKS if path.parent.name != "lab" and path.name not in LATER])
def test_every_playbook_first_names_the_environment(path):
    """Its first task refuses a run without -i."""
    file, play = first_play(path)
    assert file.name in FIRST
    task, *_ = play.get("pre_tasks") or play["tasks"]
    entry = "facts" if file.name == "facts.yml" else "environment"
    assert task["ansible.builtin.import_role"] == {"name": "preflight", "tasks_from": entry}
    end, first, *_ = load(ROOT / "roles/preflight/tasks/facts.yml")
    assert "ansible.builtin.meta" in end
    assert first["ansible.builtin.import_tasks"] == "environment.yml"


@pytest.mark.parametrize("name", ["site.yml", "backup.yml", "status.yml", "rollback/release.yml", "lab/destroy.yml"])
def test_a_run_without_an_inventory_is_refused_and_says_how_to_name_one(name):
    run = ansible("ansible-playbook", f"playbooks/{name}")
    assert run.returncode != 0, run.stdout
    assert " -i inventories/" in " ".join(run.stdout.split())
    assert "changed=0" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--limit", "web1"], "no hosts to target"), (["-i", "inventories/typo"], "No inventory was parsed")]
)
def test_a_limit_without_an_inventory_and_a_misspelt_inventory_are_refused(arguments, says):
    """Otherwise Ansible would find no host, and report success."""
    run = ansible("ansible-playbook", *arguments, "playbooks/site.yml")
    assert run.returncode != 0, run.stdout
    assert says in " ".join((run.stdout + run.stderr).split())


@each("path", [path for path in PLAYBOOKS if "preflight_lock: true" in path.read_text()])
def test_a_playbook_that_locks_the_environment_unlocks_it_with_its_last_task(path):
    """The playbooks that import feature_switch.yml import feature_conclude.yml after it."""
    *_, last = load(path.with_name("feature_conclude.yml") if path.name == "feature_switch.yml" else path)[-1]["tasks"]
    role = last.get("ansible.builtin.import_role") or last.get("ansible.builtin.include_role")
    assert role == {"name": "preflight", "tasks_from": "unlock"}


@each("path", [path for path in PLAYBOOKS if path.parent.name != "lab" and path.name != "status.yml"])
def test_plays_leave_out_hosts_that_are_down(path):
    for play in load(path):
        if play.get("hosts", "localhost") != "localhost":
            assert play["hosts"].endswith(":!down"), play["name"]


def test_the_first_host_gets_its_firewall_alone_and_certificates_are_renewed_host_by_host():
    """A mistake then shows on one host. Nothing else keeps all Sentinels from restarting at once."""
    rules = load(ROOT / "playbooks/firewall.yml")[-1]
    assert (rules["serial"], rules["any_errors_fatal"]) == ([1, "100%"], True)
    assert [play["serial"] for play in load(ROOT / "playbooks/renew_certificates.yml") if "serial" in play] == [1]


@pytest.mark.parametrize("name", ["workers", "web", "application", "conclude"])
def test_plays_of_a_release_go_on_with_the_hosts_that_are_left(name):
    """A host that is lost in any step must not end the play for the others: they have to be put back."""
    for play in load(ROOT / f"playbooks/{name}.yml"):
        if str(play.get("hosts", "")).startswith("web:worker:"):
            assert {"serial", "any_errors_fatal", "run_once"} & play.keys() == set(), play["name"]


@pytest.mark.parametrize("name", ["workers", "web", "application", "conclude"])
def test_plays_of_a_release_ask_for_lost_hosts_before_they_leave_out_hosts(name):
    """Ansible takes a host out of ansible_play_hosts at end_host, as if the host were lost."""
    for play in load(ROOT / f"playbooks/{name}.yml"):
        tasks = play.get("tasks", [])
        ends = [place for place, task in enumerate(tasks) if task.get("ansible.builtin.meta") == "end_host"]
        if ends:
            assert "release_stopped" in str(tasks[0]["when"]), play["name"]
            assert tasks[0]["ansible.builtin.meta"] == "end_play", play["name"]
            after = str(tasks[ends[0] :])
            assert "release_stopped" not in after, play["name"]
            assert "ansible_play_hosts" not in after, play["name"]
            assert "'tasks_from': 'turns'" not in after, play["name"]


@pytest.mark.parametrize("role", ["rolling_release", "release", "celery", "web"])
def test_no_task_of_a_release_runs_on_one_host_that_may_be_lost(role):
    """Ansible leaves out every host if a task with run_once loses the host on which it runs."""
    harmless = {"ansible.builtin.assert", "ansible.builtin.fail", "ansible.builtin.debug", "ansible.builtin.set_fact"}
    for path in sorted((ROOT / f"roles/{role}/tasks").glob("*.yml")):
        for task in load(path) or []:
            if task.get("run_once") and path.stem not in ("lock", "pin", "database"):
                assert harmless & task.keys() or task.get("delegate_to") == "localhost", f"{path.name}: {task['name']}"
