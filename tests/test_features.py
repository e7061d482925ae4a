"""Every switch of an inventory belongs to a known feature, whose playbooks run in the order of site.yml."""

from __future__ import annotations

from conftest import INVENTORIES, ROOT, each, load

KNOWN = load(ROOT / "roles/feature/vars/main.yml")["__feature_known"]


def imported(playbook: str) -> list[str]:
    """The names of the playbooks that a playbook imports, in order."""
    plays = load(ROOT / "playbooks" / playbook)
    return [
        play["ansible.builtin.import_playbook"].removesuffix(".yml")
        for play in plays
        if "ansible.builtin.import_playbook" in play
    ]


@each("directory", INVENTORIES)
def test_every_switch_is_known_and_has_one_of_its_two_values(directory):
    switches = load(directory / "group_vars/all/features.yml")
    assert {known["variable"] for known in KNOWN.values()} == set(switches)
    for known in KNOWN.values():
        assert switches[known["variable"]] in known["values"].values()
        assert set(known["values"]) == {True, False}


def test_playbooks_of_a_switch_run_in_the_order_of_site_yml():
    touched = {name for known in KNOWN.values() for name in known["playbooks"]}
    site = [name for name in imported("site.yml") if name in touched]
    assert imported("feature_apply.yml") == site


def test_a_playbook_runs_only_if_the_switch_affects_it():
    for play in load(ROOT / "playbooks/feature_apply.yml"):
        if imports := play.get("ansible.builtin.import_playbook"):
            assert play["when"] == f"'{imports.removesuffix('.yml')}' in feature_playbooks"
