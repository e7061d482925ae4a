"""scripts/suite.py counts every test that should have run. It runs here in a copy of the repository with stubs for the tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROLES, ROOT, load, runs_role

sys.path.insert(0, str(ROOT / "scripts"))
import suite as runner

# `make test` has no time for these. `make soak` runs them.
LONG = {"large", "production", "redis_failover", "restore", "small"}
SUITE = load(ROOT / "molecule/suite.yml")["tests"]
SCENARIOS = [*sorted({path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")} - LONG), "of_a_new_role"]
BRANCHES = [name for name, test in SUITE.items() if "snapshot" in test]


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository in which every test passes. `python`, `molecule` and `docker` write down how they are called."""
    for name in ("scripts/suite.py", "scripts/figures.py", "scripts/speak", "molecule/suite.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in SCENARIOS:
        (tmp_path / "molecule" / name).mkdir()
        (tmp_path / "molecule" / name / "molecule.yml").touch()
    stub(tmp_path, "scripts/lint", "exit 0")
    for name in ("pytest", "molecule", "python", "docker"):
        stub(tmp_path, f"bin/{name}", f'echo "{name} $*" >>calls')
    return tmp_path


def stub(root: Path, path: str, line: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"#!/bin/bash\n{line}\n")
    (root / path).chmod(0o755)


def suite(root: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/suite.py", *names],
        cwd=root,
        env={"PATH": f"{root}/bin:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def calls(root: Path, pattern: str) -> list[str]:
    return [line for line in (root / "calls").read_text().splitlines() if re.search(pattern, line)]


def test_every_scenario_runs_once_and_the_time_is_recorded(repository):
    finished = suite(repository)
    assert finished.returncode == 0, finished.stdout
    assert sorted(line.split()[1] for line in finished.stdout.splitlines() if line.startswith("ok ")) == sorted(
        ["lint", "repository", "rollbacks", "lab", *SCENARIOS]
    )
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 4} passed, 0 failed\n")
    *_, figure = map(json.loads, (repository / "build/figures.jsonl").read_text().splitlines())
    assert (figure["figure"], figure["ok"]) == ("test_suite_seconds", True)


def test_a_fault_that_no_test_expects_fails_the_run(repository):
    """Every test of the scenario passes, and a host of it has logged something (molecule/conftest.py)."""
    write = 'mkdir -p build/log && echo "db1 patroni[7]: ERROR: odd" >build/log/tools.faults'
    stub(repository, "bin/molecule", f'case "$*" in *test*tools*) {write};; esac')
    finished = suite(repository, "tools")
    assert finished.returncode == 1
    assert "logged by tools: db1 patroni[7]: ERROR: odd\n" in finished.stdout
    assert finished.stdout.endswith("1 passed, 0 failed\n")


def test_a_scenario_has_a_second_run_unless_the_lab_has_that_of_its_roles():
    """`host_loss` runs site.yml again on the lab, which has hosts in every group."""
    steps = {name: load(ROOT / f"molecule/{name}/molecule.yml") or {} for name in SCENARIOS[:-1]}
    again = {name for name, given in steps.items() if "idempotence" in given.get("scenario", {}).get("test_sequence", [])}
    assert {"acme", "firewall", "pki", "release"} <= again
    groups = load(ROOT / "inventories/lab/hosts.yml")["all"]["children"]
    assert [name for name, group in groups.items() if not group["hosts"]] == ["down"]
    once = set(SCENARIOS) - again
    tested = {test.stem.removeprefix("test_") for name in once for test in (ROOT / "molecule" / name).glob("test_*.py")}
    roles = tested & {path.name for path in ROLES} - {"baseline", "restore"}  # playbooks that do something each time
    assert len(roles) > 10
    assert [role for role in sorted(roles) if not runs_role(ROOT / "playbooks/site.yml", role)] == []


def test_tests_of_one_deployment_start_from_its_snapshot_one_after_the_other(repository):
    stub(repository, "bin/molecule", 'echo "molecule $* begins" >>calls; sleep 0.1; echo "molecule $* ends" >>calls')
    assert suite(repository).returncode == 0
    converged, *_, taken = calls(repository, "converge --scenario-name default ends|snapshot.py")[:2]
    assert (converged, taken) == ("molecule converge --scenario-name default ends", "python scripts/snapshot.py take default")
    branched = calls(repository, "snapshot.py boot|" + "|".join(f"verify --scenario-name={name} " for name in BRANCHES))
    assert len(branched) == 3 * len(BRANCHES)
    for boot, begins, ends in zip(*[iter(branched)] * 3, strict=True):
        name = boot.split()[-1]
        assert boot == f"python scripts/snapshot.py boot {name}"
        assert (begins, ends) == tuple(f"molecule verify --scenario-name={name} {when}" for when in ("begins", "ends"))
    assert calls(repository, "molecule test .*=(" + "|".join(BRANCHES) + ") ") == []


def test_without_a_snapshot_nothing_starts_from_it(repository):
    stub(repository, "bin/python", "[ $1 != scripts/snapshot.py ]")
    finished = suite(repository)
    assert finished.returncode != 0
    assert finished.stdout.count("lab failed, so there is no snapshot to start from") == len(BRANCHES)


def test_a_scenario_alone_needs_no_snapshot(repository):
    assert suite(repository, *BRANCHES).returncode == 0
    assert calls(repository, "^python|molecule (verify|converge)") == []
    assert sorted(calls(repository, "molecule test")) == sorted(
        f"molecule test --scenario-name={name} --destroy=never" for name in BRANCHES
    )


def test_no_more_tests_run_at_once_than_each_of_them_allows(repository):
    stub(repository, "bin/molecule", 'echo "$2 begins" >>calls; sleep 0.1; echo "$2 ends" >>calls')
    assert suite(repository).returncode == 0
    running, most = set(), 0
    for line in calls(repository, "^--scenario-name.*(begins|ends)"):
        name, when = line.removeprefix("--scenario-name=").split()
        running = running | {name} if when == "begins" else running - {name}
        assert all(len(running) - 1 <= SUITE.get(one, {}).get("beside", 3) for one in running), running
        most = max(most, len(running))
    assert most > 1


def test_a_test_that_is_nice_runs_beside_the_last_and_takes_no_room():
    nice, alone, run = runner.Test("lint", nice=True), runner.Test("host_loss", beside=0), runner.Run([], whole=False)
    run.waiting = [alone, nice]
    assert not run.may_begin(nice)
    run.waiting = [nice]
    for running, begins in ((nice, alone), (alone, nice)):
        run.running = [running]
        assert run.may_begin(begins)
    run.running = [alone]
    assert not run.may_begin(runner.Test("redis"))


def test_a_failed_scenario_fails_the_run_and_its_log_is_shown(repository):
    stub(repository, "bin/molecule", 'echo "this is the log of $2"; [ "$1 $2" != "test --scenario-name=redis" ]')
    finished = suite(repository)
    assert finished.returncode != 0
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 3} passed, 1 failed\n")
    assert "this is the log of --scenario-name=redis" in finished.stdout
    assert "this is the log of --scenario-name=proxy" not in finished.stdout


def test_of_failed_tests_the_lines_are_shown_that_say_why(repository):
    log = "def test_one():\n>       assert code\nE       assert 'told'\nFAILED test_one.py::test_one\nERROR    Verifier failed"
    stub(repository, "bin/molecule", f'echo "{log}"; [ "$1 $2" != "test --scenario-name=redis" ]')
    printed = suite(repository, "redis").stdout
    assert "    E       assert 'told'\n    FAILED test_one.py::test_one\n    the whole log: build/log/redis.log\n" in printed
    assert "assert code" not in printed


def test_a_promise_of_a_rollback_that_was_not_proven_fails_the_run(repository):
    stub(repository, "bin/python", '[ "$1" != scripts/rollbacks.py ] || { echo NOT PROVEN; exit 1; }')
    finished = suite(repository)
    assert finished.returncode != 0
    assert "NOT PROVEN" in finished.stdout
    assert finished.stdout.endswith(f"{len(SCENARIOS) + 3} passed, 1 failed\n")


def test_a_scenario_that_was_killed_fails_the_run(repository):
    stub(repository, "bin/molecule", '[ "$1 $2" != "test --scenario-name=redis" ] || kill -9 $PPID')
    finished = suite(repository)
    assert finished.returncode != 0
    assert not finished.stdout.endswith(" 0 failed\n")


def test_what_has_no_time_in_make_test_runs_in_make_soak():
    left = {path.parent.name for path in (ROOT / "molecule").glob("*/test_*.py") if "in_soak" in path.read_text()}
    assert {piece.get("test") for piece in load(ROOT / "molecule/suite.yml")["pieces"].values()} >= LONG | left


def test_an_unknown_name_is_refused(repository):
    finished = suite(repository, "rediss")
    assert finished.returncode != 0
    assert "no such test: rediss" in finished.stdout


def test_one_scenario_can_be_run(repository):
    finished = suite(repository, "redis")
    assert finished.returncode == 0, finished.stdout
    assert finished.stdout.endswith("1 passed, 0 failed\n")
    assert not (repository / "build/figures.jsonl").exists()
