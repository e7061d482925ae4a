"""Every switch of an inventory belongs to a known feature. feature.yml runs the feature's playbooks in the order of site.yml."""

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
def test_every_switch_is_known_and_says_one_of_two_things(directory):
    switches = load(directory / "group_vars/all/features.yml")
    assert {known["variable"] for known in KNOWN.values()} == set(switches)
    for known in KNOWN.values():
        assert switches[known["variable"]] in known["values"].values()
        assert set(known["values"]) == {True, False}


def test_what_a_switch_touches_is_run_in_the_order_of_the_site():
    touched = {name for known in KNOWN.values() for name in known["playbooks"]}
    site = [name for name in imported("site.yml") if name in touched]
    assert [name for name in imported("feature.yml") if name != "preflight"] == site


def test_each_is_run_only_when_it_is_touched():
    for play in load(ROOT / "playbooks/feature.yml"):
        name = play.get("ansible.builtin.import_playbook", "preflight.yml").removesuffix(".yml")
        if name != "preflight":
            assert play["when"] == f"'{name}' in feature_playbooks"
