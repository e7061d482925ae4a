"""pytest fixtures of all scenarios: ``host`` and ``on``.

testinfra reads hosts from `ansible-inventory --list`. That command wraps values that an inventory computes, such as the lab's
`ansible_host`, and testinfra cannot read wrapped values. So these fixtures name the containers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import journals
import pytest
import testinfra
from containers import ContainerBackend
from helpers import ROOT, container
from testinfra.utils.ansible_runner import AnsibleRunner

# Failed assertions in these modules show their values, as those of the tests do.
pytest.register_assert_rewrite("feature_rollback", "features")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``host`` on every host of the scenario."""
    if "host" in metafunc.fixturenames:
        inventory = os.environ["MOLECULE_EPHEMERAL_DIRECTORY"] + "/inventory"
        metafunc.parametrize("host", AnsibleRunner.get_runner(inventory).get_hosts("all"), indirect=True, scope="module")


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest) -> testinfra.host.Host:
    """The host that a test runs on."""
    return testinfra.host.Host(ContainerBackend(container(request.param)))


@pytest.fixture(scope="session")
def on() -> Callable[[str], testinfra.host.Host]:
    """A function: ``on("db1")`` is the scenario's host of that name."""
    return lambda name: testinfra.host.Host(ContainerBackend(container(name)))


@pytest.fixture(scope="session", autouse=True)
def no_unexpected_fault_is_logged() -> Iterator[None]:
    """Read the journals of all hosts after the last test."""
    yield
    found = journals.faults()
    path = ROOT / "build/log" / f"{os.environ['MOLECULE_SCENARIO_NAME']}.faults"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in found))
