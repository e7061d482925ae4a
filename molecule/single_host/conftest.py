"""The order of the tests on the platform, and what they share.

test_rollback.py        rolls four features back
test_rollout.py         tries a rollout that makes a metric worse, and brings the features back
test_baseline.py        measures the platform
test_single_host.py     finds what site.yml has deployed, and restarts the host
test_rollout_fails.py   tries rollouts that are refused; in the soak, it also switches task_payload off
"""

from __future__ import annotations

import pytest
from feature_rollback import Rollbacks
from features import Baselines, Bench
from helpers import Api

ORDER = ("rollback", "rollout", "baseline", "single_host", "rollout_fails")


@pytest.hookimpl(trylast=True)  # after pytest has sorted the tests by their fixtures
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.index(item.path.stem.removeprefix("test_")))


@pytest.fixture(scope="session")
def bench(on, tmp_path_factory) -> Bench:
    """The platform. All files of tests share its inventory, so a file finds the switches as the one before has left them."""
    host = on("platform1")
    runs = Rollbacks(on, tmp_path_factory.mktemp("rollback"), ("platform1",), database="platform1", redis="platform1")
    return Bench(host, Api(host, "rollback"), runs)


@pytest.fixture(scope="module")
def baselines(bench, tmp_path_factory) -> Baselines:
    """Measures the platform. Each file of tests has its own records."""
    return Baselines(bench, tmp_path_factory.mktemp("baselines"))
