"""scripts/test counts every test that should have run. It runs here in a copy of the repository with stubs for the tools."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROLES, ROOT, load, runs_role

# `make test` has no time for these. `make soak` runs them.
LONG = {"large", "production", "redis_failover", "restore"}
SCENARIOS = [*sorted({path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")} - LONG), "other"]


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository in which every test passes."""
    for name in ("test", "figures.py", "speak"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    for name in SCENARIOS:
        (tmp_path / "molecule" / name).mkdir(parents=True)
        (tmp_path / "molecule" / name / "molecule.yml").touch()
    stub(tmp_path, "scripts/lint", "exit 0")
    stub(tmp_path, ".venv/bin/pytest", "exit 0")
    stub(tmp_path, ".venv/bin/molecule", "exit 0")
    stub(tmp_path, ".venv/bin/docker", "exit 0")  # the real one would remove the hosts of scenarios that run
    stub(tmp_path, ".venv/bin/python", 'exec python3 "$@"')
    for name in ("rollbacks.py", "bench_deploy.py"):
        (tmp_path / "scripts" / name).touch()
    return tmp_path


def stub(root: Path, path: str, line: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"#!/bin/bash\n{line}\n")
    (root / path).chmod(0o755)


def suite(root: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scripts/test", *names], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def test_every_scenario_runs_once_and_the_time_is_recorded(repository):
    finished = suite(repository)
    assert finished.returncode == 0, finished.stdout
    assert sorted(line.split()[1] for line in finished.stdout.splitlines() if line.startswith("ok ")) == sorted(
        ["lint", "repository", "rollbacks", "lab", "host_loss", *SCENARIOS]
    )
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 5} passed, 0 failed\n")
    figure = json.loads((repository / "build/figures.jsonl").read_text())
    assert (figure["figure"], figure["limit"], figure["ok"]) == ("test_suite_seconds", "<=4200", True)


def test_a_scenario_has_a_second_run_unless_the_lab_has_that_of_its_roles(repository):
    """`single_host` runs site.yml again, and `host_loss` three layers of it on the lab, which has hosts in every group."""
    stub(repository, ".venv/bin/molecule", 'echo "molecule $1"')
    assert suite(repository).returncode == 0
    logs = {name: (repository / f"build/log/{name}.log").read_text() for name in SCENARIOS}
    once = {name for name in SCENARIOS if "molecule test" not in logs[name] and "molecule idempotence" not in logs[name]}
    assert {"acme", "firewall", "pki", "release"} & once == set()
    once.remove("default")
    assert all("molecule verify" in logs[name] for name in once)
    groups = load(ROOT / "inventories/lab/hosts.yml")["all"]["children"]
    assert [name for name, group in groups.items() if not group["hosts"]] == ["down"]
    tested = {test.stem.removeprefix("test_") for name in once for test in (ROOT / "molecule" / name).glob("test_*.py")}
    roles = tested & {path.name for path in ROLES} - {"baseline", "restore"}  # playbooks that do something each time
    assert len(roles) > 10
    assert [role for role in sorted(roles) if not runs_role(ROOT / "playbooks/site.yml", role)] == []


def test_hosts_are_lost_after_all_other_tests_of_the_lab(repository, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    stub(repository, ".venv/bin/molecule", '[ "$3" != default ] || echo "$1 $PYTEST_ADDOPTS" >>calls')
    assert suite(repository).returncode == 0
    calls = (repository / "calls").read_text().splitlines()[-4:]
    assert calls == ["converge ", "verify -k 'not test_host_loss'", "verify -k test_host_loss", "destroy "]


def test_a_measuring_scenario_that_cannot_be_deployed_fails_the_run(repository):
    stub(repository, ".venv/bin/molecule", '[ "$1 $3" != "converge single_host" ]')
    finished = suite(repository)
    assert finished.returncode != 0
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 4} passed, 1 failed\n")


def test_a_measuring_scenario_whose_tests_fail_fails_the_run(repository):
    stub(repository, ".venv/bin/molecule", '[ "$1 $3" != "verify single_host" ]')
    finished = suite(repository)
    assert finished.returncode != 0
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 4} passed, 1 failed\n")


def test_a_failed_scenario_fails_the_run_and_its_log_is_shown(repository):
    stub(repository, ".venv/bin/molecule", 'echo "this is the log of $3"; [ "$3" != redis ]')
    finished = suite(repository)
    assert finished.returncode != 0
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 4} passed, 1 failed\n")
    assert "this is the log of redis" in finished.stdout
    assert "this is the log of other" not in finished.stdout


def test_a_promise_of_a_rollback_that_was_not_proven_fails_the_run(repository):
    (repository / "scripts/rollbacks.py").write_text("raise SystemExit('NOT PROVEN')\n")
    finished = suite(repository)
    assert finished.returncode != 0
    assert "NOT PROVEN" in finished.stdout
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 4} passed, 1 failed\n")


def test_a_scenario_that_was_killed_fails_the_run(repository):
    stub(repository, ".venv/bin/molecule", '[ "$3" != redis ] || kill -9 $PPID')
    finished = suite(repository)
    assert finished.returncode != 0
    assert "no verdict: redis did not end" in finished.stdout
    assert not finished.stdout.endswith(" 0 failed\n")


def test_what_has_no_time_in_make_test_runs_in_make_soak():
    soak = (ROOT / "scripts/soak").read_text()
    runs = [line.split() for line in soak.replace("\\\n", "").splitlines() if "scripts/test " in line]
    left = {path.parent.name for path in (ROOT / "molecule").glob("*/test_*.py") if "in_soak" in path.read_text()}
    assert {name for line in runs for name in line} >= LONG | left
    assert f"({'|'.join(sorted(LONG))})" in soak, "the list that make soak prints lacks their tests"


def test_one_scenario_can_be_run(repository):
    finished = suite(repository, "redis")
    assert finished.returncode == 0, finished.stdout
    assert finished.stdout.endswith("1 passed, 0 failed\n")
    assert not (repository / "build/figures.jsonl").exists()
