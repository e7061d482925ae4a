"""docs/support.md names the versions that the repository decides, and the roles have the repository's license."""

from __future__ import annotations

import re
import tomllib

import pytest
from conftest import ROLES, ROOT, load

VERSIONS = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", (ROOT / "docs/support.md").read_text(), re.MULTILINE))
META = [load(role / "meta/main.yml")["galaxy_info"] for role in ROLES]
PROJECT, APPLICATION = (tomllib.loads((ROOT / path).read_text())["project"] for path in ("pyproject.toml", "app/pyproject.toml"))


def locked(path: str, name: str) -> str:
    """The first two numbers of the version of a package in a lock file."""
    packages = tomllib.loads((ROOT / path).read_text())["package"]
    (version,) = [package["version"] for package in packages if package["name"] == name]
    return ".".join(version.split(".")[:2])


def only(values: list[str]) -> str:
    """The one value that all roles have."""
    (value,) = set(values)
    return value


@pytest.mark.parametrize("part", ["Django", "Celery", "Flower", "gunicorn"])
def test_a_library_of_the_application_has_the_locked_version(part):
    assert VERSIONS[part] == locked("app/uv.lock", part.lower())


def test_other_versions_are_those_of_the_files_that_decide():
    (debian,) = {f"{platform['name']} 13 ({'/'.join(platform['versions'])})" for meta in META for platform in meta["platforms"]}
    (mitogen,) = [name.split("==")[1] for name in PROJECT["dependencies"] if name.startswith("mitogen==")]
    oldest = only([meta["min_ansible_version"] for meta in META])
    decided = {
        "Hosts": f"{debian}, amd64",
        "Python on the hosts": APPLICATION["requires-python"].removeprefix(">="),
        "PostgreSQL": load(ROOT / "roles/postgresql/vars/main.yml")["__postgresql_version"],
        "Patroni": ".".join(load(ROOT / "roles/postgresql/vars/main.yml")["__postgresql_patroni_version"].split(".")[:2]),
        "Controller": f"Linux with Python {PROJECT['requires-python'].removeprefix('>=')} or newer",
        "ansible-core": f"{oldest} or newer, tested with {locked('uv.lock', 'ansible-core')}",
        "Mitogen": f"{mitogen}; the platform runs without it, too",
    }
    assert {part: VERSIONS[part] for part in decided} == decided


def test_the_controller_fetches_the_patroni_that_the_role_installs():
    version = load(ROOT / "roles/postgresql/vars/main.yml")["__postgresql_patroni_version"]
    assert f"patroni=={version} " in (ROOT / "roles/postgresql/files/patroni.txt").read_text()


def test_roles_have_the_license_of_the_repository():
    assert (ROOT / "LICENSE").read_text().startswith(f"{only([meta['license'] for meta in META])} License\n")
