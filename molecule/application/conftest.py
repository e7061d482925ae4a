"""The order of the tests of four roles on one host, and what these tests share."""

import json
from pathlib import Path

import pytest
from helpers import Api, playbook

# Flower may miss an edit after the exporters' tests, which stop Redis. After the last tests the host has nothing.
ORDER = ("celery", "web", "flower", "exporters", "retire")


@pytest.hookimpl(trylast=True)  # after pytest has sorted the tests by their fixtures
def pytest_collection_modifyitems(items):
    """Run one role's tests after the other's, and then those that need the host with parts of it switched off, or gone."""
    part = {item: ORDER.index(item.path.stem.removeprefix("test_")) for item in items}
    items.sort(key=lambda item: (ORDER[part[item]] == "retire", "switched_off" in item.fixturenames, part[item]))


@pytest.fixture(scope="session")
def api(on):
    return Api(on("platform1"))


@pytest.fixture(scope="session")
def switched_off():
    """Switch Flower, the application's metrics and all exporters but nginx's off. Nothing switches them on again."""
    off = json.dumps({"flower_enabled": False, "monitoring_enabled": False, "exporters_wanted": ["nginx"]})
    ran = playbook(str(Path(__file__).parent / "converge.yml"), "-e", off)
    assert ran.returncode == 0, ran.stdout
