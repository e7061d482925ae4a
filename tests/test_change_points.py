"""A change is made in one place: an environment overrides the shared wiring in its own files, without editing a role."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import INVENTORIES, ROOT, SHARED, each, load
from test_playbooks import ansible
from test_settings import GIVEN


@pytest.fixture
def environment(tmp_path) -> Path:
    """A new environment, made as README.md says: a copy of production beside the shared wiring."""
    shutil.copytree(ROOT / "inventories/shared", tmp_path / "shared")
    shutil.copytree(ROOT / "inventories/production", tmp_path / "ours", symlinks=True)
    return tmp_path / "ours"


@pytest.fixture
def derived(environment) -> Callable[..., dict]:
    """Return a function that reads variables of a host of the new environment, as a playbook sees them."""

    def read(host: str, *names: str) -> dict:
        wanted = "{{ {" + ", ".join(f"'{name}': {name}" for name in names) + "} | to_json }}"
        run = ansible(
            "ansible", host, "-i", str(environment), "--playbook-dir", "playbooks", "-c", "local", "--one-line",
            "-m", "ansible.builtin.debug", "-a", f"msg={wanted}", "-e", json.dumps(GIVEN),
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        return json.loads(json.loads(run.stdout.partition("=> ")[2])["msg"])

    return read


@each("directory", INVENTORIES)
def test_an_inventory_links_the_shared_wiring(directory):
    link = directory / "group_vars/all/000_shared"
    assert link.is_symlink()
    assert link.readlink() == Path("../../../shared"), "a relative link survives a copy of the inventory"
    assert link == min(link.parent.iterdir()), "Ansible reads files in alphabetical order: the last value wins"


def test_each_shared_variable_is_defined_in_one_file():
    names = [name for path in SHARED for name in load(path)]
    assert len(names) > 100
    assert len(names) == len(set(names))


def test_an_environment_overrides_the_shared_wiring(environment, derived):
    """An nginx limit is 1 file: a line in the environment's own group_vars/all."""
    assert derived("edge[0]", "nginx_client_max_body_size") == {"nginx_client_max_body_size": "21m"}
    (environment / "group_vars/all/ours.yml").write_text("nginx_client_max_body_size: 500m\n")
    assert derived("edge[0]", "nginx_client_max_body_size") == {"nginx_client_max_body_size": "500m"}


def test_moving_redis_changes_one_file(environment, derived):
    hosts = environment / "hosts.yml"
    group = "    redis: # the first host bootstraps as primary; after that the live set decides\n      hosts:\n"
    assert group in hosts.read_text()
    hosts.write_text(hosts.read_text().replace(group + "        redis1.images", group + "        redis3.images"))
    assert list(derived("web[0]", "redis_nodes")["redis_nodes"]) == ["redis3.images.example.com", "redis2.images.example.com"]
