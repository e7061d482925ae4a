"""The lookups with which preflight finds misspelt and overridden variables."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from conftest import INVENTORIES, ROOT, each, variables_of


def plugin(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"plugins/lookup/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


unread_variables = plugin("unread_variables")
overridden_variables = plugin("overridden_variables")


def test_a_misspelt_variable_is_named_with_the_nearest_name():
    read = {"nginx_client_max_body_size", "nginx_api_rate"}
    found = unread_variables.unread({"nginx_cleint_max_body_size": "5m", "nginx_api_rate": "9r/s"}, ["nginx_"], read)
    assert found == ["nginx_cleint_max_body_size (nearest is nginx_client_max_body_size)"]


def test_a_variable_without_a_similar_name_is_reported_without_a_suggestion():
    assert unread_variables.unread({"vault_zebra": 1}, ["vault_"], {"vault_postgresql_password"}) == ["vault_zebra"]


def test_variables_with_unknown_prefixes_are_ignored():
    assert unread_variables.unread({"our_own_thing": 1}, ["nginx_", "platform_"], set()) == []


def test_a_variable_that_another_template_reads_is_read():
    variables = {
        "platform_domain": "example.com",
        "public": ["{{ platform_domain }}"],
        "nested": {"a": {"b": "{% if platform_flag %}x{% endif %}"}},
        "platform_flag": True,
        "platform_mentioned": 1,
        "text": "platform_mentioned without braces",
    }
    assert unread_variables.unread(variables, ["platform_"], set()) == ["platform_mentioned (nearest is platform_domain)"]


def test_variables_that_this_repository_reads_are_found():
    names = unread_variables.names_in_repository(ROOT)
    assert {"nginx_client_max_body_size", "vault_openai_api_key", "release_serial", "web_workers"} <= names
    assert "nginx_cleint_max_body_size" not in names


@each("directory", INVENTORIES)
def test_every_variable_of_an_inventory_is_read(directory):
    variables = variables_of(directory, "all[0]")
    roles = [f"{path.name}_" for path in (ROOT / "roles").iterdir()]
    prefixes = [*roles, "platform_", "application_", "vault_"]
    assert unread_variables.unread(variables, prefixes, unread_variables.names_in_repository(ROOT)) == []


@each("directory", INVENTORIES)
def test_an_inventory_overrides_only_the_expected_shared_variables(directory):
    expected = {"single_host": ["platform_address", "platform_name"]}.get(directory.name, [])
    shared = overridden_variables.shared_wiring(ROOT / "inventories/shared")
    assert len(shared) > 100
    assert overridden_variables.overridden(variables_of(directory, "all[0]"), shared) == expected


def test_variables_that_are_meant_to_be_set_are_no_overrides():
    shared = {"application_settings": {}, "celery_workers_extra": [], "nginx_server_name": "{{ platform_public_host }}"}
    variables = {"application_settings": {"ENGINE": "openai"}, "celery_workers_extra": [1], "nginx_server_name": "other"}
    assert overridden_variables.overridden(variables, shared) == ["nginx_server_name"]
    assert overridden_variables.overridden({}, shared) == []
