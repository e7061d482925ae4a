"""The lookup plugin of plugins/lookup/environments.py."""

from __future__ import annotations

from conftest import ROOT, render


def test_the_folders_with_hosts_are_environments():
    found = render("{{ query('environments', folder) }}", folder=str(ROOT / "inventories"))
    assert {"lab", "production", "single_host"} <= set(found)
    assert "shared" not in found


def test_a_folder_without_environments_has_none(tmp_path):
    (tmp_path / "hosts.yml").touch()
    assert render("{{ query('environments', folder) }}", folder=str(tmp_path)) == []
