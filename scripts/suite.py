"""Run the tests of molecule/suite.yml, or those whose names are given. Each prints a line when it ends. Logs are in build/log.

Without names, tests that share a deployment start from its snapshot. With names, each scenario deploys hosts of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import figures
import yaml

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "build" / "log"
JOBS = int(os.environ.get("JOBS", "4"))  # tests that may run at once
# Colours and frames would hide what tests look for in the output of playbooks.
PLAIN = {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1", "MOLECULE_COMMAND_BORDERS": "false", "MOLECULE_REPORT": "false"}


@dataclass(frozen=True)
class Test:
    """A test of the suite. molecule/suite.yml explains the fields."""

    name: str
    command: str = ""
    env: dict[str, str] = field(default_factory=dict)
    nice: bool = False
    beside: int = sys.maxsize
    snapshot: str = ""

    def commands(self, from_snapshot: bool) -> str:
        """What to run with bash."""
        scenario = f"--scenario-name={self.name}"
        if self.command:
            return f"nice -n 19 {self.command}" if self.nice else self.command
        if from_snapshot:
            return f"python scripts/snapshot.py boot {self.name} && molecule verify {scenario}"
        return f"molecule test {scenario} --destroy=never"  # remove() does that, without Ansible

    def run(self, from_snapshot: bool) -> bool:
        """Run the test and print its verdict."""
        began, log = time.monotonic(), LOG / f"{self.name}.log"
        with log.open("w") as stream:
            command = ["bash", "-c", self.commands(from_snapshot)]
            environment = os.environ | PLAIN | self.env
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
        if self.name in scenarios():
            remove(self.name)
        passed, processor = status == 0, used.ru_utime + used.ru_stime
        seconds = f"{time.monotonic() - began:4.0f} s, processor {processor:3.0f} s"  # without that of the hosts
        lines = [f"{'ok' if passed else 'FAILED':7} {self.name:18} {seconds}"]
        if not passed:
            lines += [f"    {line}" for line in telling(log)] + [f"    the whole log: build/log/{self.name}.log"]
        say(*lines)
        return passed


ROLLBACKS = Test("rollbacks", "python scripts/rollbacks.py --record")  # fails if a promise of a rollback was not proven


def telling(log: Path) -> list[str]:
    """The lines of a failed test's log that say what went wrong: those that pytest marks, or else the last ones."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("E  ", "FAILED "))]
    return said[-40:] or lines[-60:]


def say(*lines: str) -> None:
    subprocess.run(["scripts/speak"], cwd=ROOT, input="\n".join(lines) + "\n", text=True, check=True)


def scenarios() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def suite() -> dict[str, Test]:
    """All tests, in their order. Scenarios that the list does not name, such as that of a new role, come last."""
    listed = yaml.safe_load((ROOT / "molecule/suite.yml").read_text())
    pieces = {piece.get("test") for piece in listed["pieces"].values()}
    others = [name for name in scenarios() if name not in listed["tests"] and name not in pieces]
    return {name: Test(name, **given) for name, given in listed["tests"].items()} | {name: Test(name) for name in others}


def lab(scenario: str) -> str:
    """The name of the scenario's lab. Scenarios that share a snapshot share it."""
    given = yaml.safe_load((ROOT / f"molecule/{scenario}/molecule.yml").read_text()) or {}
    return given.get("ansible", {}).get("env", {}).get("LAB_NAME", f"image-editor-test-{scenario}")


def remove(scenario: str) -> None:
    """Remove the scenario's hosts, its networks, and the facts that Ansible has kept of the hosts."""
    name, facts = lab(scenario), ROOT / f"build/facts-{scenario}"
    for there, away in (
        (["ps", "--all", "--quiet", f"--filter=label=image-editor-lab={name}"], ["rm", "--force", "--volumes"]),
        (["network", "ls", "--quiet", f"--filter=name=^{name}(-|$)"], ["network", "rm"]),
    ):
        if found := subprocess.run(["docker", *there], capture_output=True, text=True, check=True).stdout.split():
            subprocess.run(["docker", *away, *found], stdout=subprocess.DEVNULL, check=True)
    if facts.exists():
        shutil.rmtree(facts)


def forget(names: list[str]) -> None:
    """Let Molecule forget the hosts of scenarios. Otherwise it would not create them the next time."""
    if names:
        options = [f"--scenario-name={name}" for name in names]
        reset = subprocess.run(["molecule", "reset", *options], cwd=ROOT, capture_output=True, text=True, check=False)
        if reset.returncode:
            print(reset.stdout, reset.stderr)


class Run:
    """Tests that run beside each other."""

    def __init__(self, tests: list[Test], *, whole: bool) -> None:
        self.waiting, self.running = list(tests), []
        self.verdicts: dict[str, bool] = {}
        self.whole, self.changed = whole, threading.Condition()

    def may_begin(self, test: Test) -> bool:
        """Whether there is room for the test beside those that run, and the deployment that it starts from is there and free."""
        if test.nice and not all(other.nice for other in self.waiting):
            return False
        counted = [other for other in self.running if JOBS == 1 or not (test.nice or other.nice)]
        if len(counted) > min(JOBS - 1, *(other.beside for other in (test, *counted))):
            return False
        if not (test.snapshot and self.whole):
            return True
        return test.snapshot in self.verdicts and test.snapshot not in {other.snapshot for other in self.running}

    def one(self, test: Test) -> None:
        passed = False
        try:
            if not self.whole or self.verdicts.get(test.snapshot, True):
                passed = test.run(from_snapshot=self.whole and bool(test.snapshot))
            else:
                say(f"FAILED  {test.name:18}    0 s", f"    {test.snapshot} failed, so there is no snapshot to start from")
        finally:
            with self.changed:
                self.verdicts[test.name] = passed
                self.running.remove(test)
                self.changed.notify()

    def all(self) -> None:
        """Run every test. The first in the list that has room begins."""
        with self.changed:
            while self.waiting:
                test = next(filter(self.may_begin, self.waiting), None)
                if test is None:
                    self.changed.wait()
                    continue
                self.waiting.remove(test)
                self.running.append(test)
                threading.Thread(target=self.one, args=[test], daemon=True).start()
            while self.running:
                self.changed.wait()


def processors() -> tuple[int, int, int]:
    """Since the machine's start, the processors' time: idle, taken by other virtual machines, and all. See proc_stat(5)."""
    times = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return times[3] + times[4], times[7], sum(times)


def main(names: list[str]) -> int:
    """See the module's docstring."""
    began, every, whole = time.monotonic(), suite(), not names
    before = processors()
    known = {name: Test(name) for name in scenarios()} | every
    if unknown := set(names) - known.keys():
        sys.exit(f"test: no such test: {', '.join(sorted(unknown))}. There are: {', '.join(sorted(known))}")
    shutil.rmtree(LOG, ignore_errors=True)
    LOG.mkdir(parents=True)
    tests = [known[name] for name in dict.fromkeys(names)] or list(every.values())
    mine = sorted({test.name for test in tests} & set(scenarios()))
    for name in mine:
        remove(name)  # what a run has left that was killed
    forget(mine)
    if whole:
        (ROOT / "build/rollbacks.jsonl").unlink(missing_ok=True)  # what an earlier run has proven of the rollbacks
    run = Run(tests, whole=whole)
    run.all()
    forget(mine)
    verdicts = run.verdicts
    if whole:
        for branch in {test.snapshot: test.name for test in tests if test.snapshot}.values():
            subprocess.run(["python", "scripts/snapshot.py", "remove", branch], cwd=ROOT, check=False)
        verdicts["rollbacks"] = ROLLBACKS.run(from_snapshot=False)
    # Faults in the hosts' journals that molecule/shared/journals.py does not know.
    faults = [f"{path.stem}: {line}" for path in sorted(LOG.glob("*.faults")) for line in path.read_text().splitlines()]
    if faults:
        say(*(f"logged by {fault[:600]}" for fault in faults[:40]))
        say("No test expects these faults, so the run has failed. Name those in molecule/shared/journals.py that a test causes.")
    seconds = round(time.monotonic() - began)
    if whole:
        up = figures.newest().get("up_seconds", {"value": 0})["value"]
        figures.record("unexpected_errors_logged", len(faults), "lines", "<=0")
        figures.record("test_suite_seconds", seconds, "s", f"<={max(2700, 7 * up):.0f}")
    idle, taken, spent = (now - then for now, then in zip(processors(), before, strict=True))
    say(
        f"tests: {seconds} s; processors {idle / spent:.0%} idle, {taken / spent:.0%} taken by other machines",
        f"{sum(verdicts.values())} passed, {len(verdicts) - sum(verdicts.values())} failed",
    )
    return 0 if all(verdicts.values()) and not faults else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
