"""What CI and the git hooks run exists. A deployment names its environment, waits for an approval, and shows no secret."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, each, load

GITHUB = sorted((ROOT / ".github/workflows").glob("*.yml"))
GITLAB = ROOT / ".gitlab-ci.yml"
PROGRAMS = sorted((ROOT / ".ci").iterdir())
VERBS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
HOOKS = [hook for source in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in source["hooks"]]


def jobs(path: Path) -> dict[str, dict]:
    """The jobs of a file of GitHub or of GitLab, each with its command lines in `lines`."""
    contents = load(path)
    found = contents["jobs"] if path in GITHUB else {name: job for name, job in contents.items() if isinstance(job, dict)}
    for job in found.values():
        commands = [step.get("run", "") for step in job.get("steps", [])] + job.get("before_script", []) + job.get("script", [])
        job["lines"] = "\n".join(commands).splitlines()
    return found


def lines(path: Path) -> list[str]:
    """The command lines of a CI file or of a shell program."""
    if path in PROGRAMS:
        return [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]
    return [line for job in jobs(path).values() for line in job["lines"]]


def missing(text: str) -> list[str]:
    """The files of the repository and the tools of .venv that the text names and that do not exist."""
    named = [ROOT / name for name in re.findall(r"(?:\.ci|scripts|playbooks)/[\w./-]+", text)]
    named += [Path(sys.executable).parent / name for name in re.findall(r"\.venv/bin/([\w-]+)", text)]
    assert named or "make " in text, "nothing is named"
    return [str(path) for path in named if not path.is_file()]


@each("path", [*GITHUB, GITLAB, ROOT / ".ci/deploy"])
def test_files_that_ci_runs_exist(path):
    assert missing("\n".join(lines(path))) == []


def test_verbs_that_ci_runs_exist():
    verbs = {line.split()[1] for path in (*GITHUB, GITLAB, *PROGRAMS) for line in lines(path) if line.startswith("make ")}
    assert {"lint", "test"} <= verbs <= VERBS


@pytest.mark.parametrize("paths", [GITHUB, [GITLAB]], ids=["GitHub", "GitLab"])
def test_each_system_lints_and_tests(paths):
    found = "\n".join(line for path in paths for line in lines(path))
    assert all(command in found for command in ("make lint", "pytest", ".ci/run"))


def test_every_playbook_that_ci_runs_is_told_its_environment():
    found = [line for path in (*GITHUB, GITLAB, *PROGRAMS) for line in lines(path) if "ansible-playbook" in line]
    assert found
    assert [line for line in found if ' -i "$inventory" ' not in line] == []


@each("path", GITHUB)
def test_actions_are_pinned_to_a_commit(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action)] == []


@each("path", GITHUB)
def test_no_expression_of_github_is_a_part_of_a_command(path):
    """A value in a command can be a command itself, and a secret would show in the list of processes."""
    assert [line for line in lines(path) if "${{" in line] == []


def test_a_deployment_follows_the_check_and_an_approval():
    """GitHub keeps the approval in the environment's settings, GitLab in the job."""
    github, gitlab = jobs(ROOT / ".github/workflows/deploy.yml"), jobs(GITLAB)
    for found in (github, gitlab):
        assert [name for name, job in found.items() if any(".ci/deploy check" in line for line in job["lines"])] == ["check"]
        assert [name for name, job in found.items() if any(".ci/deploy apply" in line for line in job["lines"])] == ["deploy"]
        assert "check" in found["deploy"]["needs"]
    assert github["check"]["environment"] != github["deploy"]["environment"] == "${{ inputs.environment }}"
    assert gitlab["check"]["environment"] == gitlab["deploy"]["environment"] | {"action": "verify"}
    assert [rule["when"] for rule in gitlab["deploy"]["rules"]] == ["manual"]


def test_certificates_are_renewed_every_week_without_an_approval():
    """A pipeline schedule of GitLab starts the renewal alone. The environment `-check` of GitHub has no reviewers."""
    (schedule,) = load(ROOT / ".github/workflows/renew.yml")[True]["schedule"]  # YAML reads the key `on` as true
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", schedule["cron"])
    github, gitlab = jobs(ROOT / ".github/workflows/renew.yml"), jobs(GITLAB)
    assert github["renew"]["environment"] == "${{ matrix.environment }}-check"
    assert github["renew"]["concurrency"]["group"] == "deploy-${{ matrix.environment }}"
    assert gitlab["renew"]["environment"] == gitlab["check"]["environment"]
    for found in (github, gitlab):
        assert [name for name, job in found.items() if any(".ci/deploy renew" in line for line in job["lines"])] == ["renew"]
    ends = {name: gitlab[name]["rules"][0]["if"].rpartition("$CI_PIPELINE_SOURCE ")[2] for name in ("check", "deploy", "renew")}
    assert ends == {"check": '!= "schedule"', "deploy": '!= "schedule"', "renew": '== "schedule"'}


def test_hooks_run_tools_of_this_repository():
    assert missing("\n".join(hook["entry"] for hook in HOOKS)) == []
    assert "scripts/lint" in [hook["entry"] for hook in HOOKS]
    assert {hook["language"] for hook in HOOKS} == {"system", "pygrep"}, "a hook installs a tool that uv.lock does not know"


# --- .ci/deploy, with stubs for the programs that it runs

GIVEN = {"VAULT_PASSWORD": "of-the-vault", "SSH_PRIVATE_KEY": "the private\nkey", "SSH_KNOWN_HOSTS": "db1 ssh-ed25519 AAAA"}


STUBS = {
    "scripts/bootstrap": "",
    ".venv/bin/ssh-agent": "",
    ".venv/bin/ssh-add": "cat >key",
    ".venv/bin/ansible-playbook": """
"$ANSIBLE_VAULT_PASSWORD_FILE" >password
echo "$ANSIBLE_SSH_EXTRA_ARGS" >options
cat tmp/* >known_hosts
[ -z "$FAIL" ]
""",
}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository with one environment. Its ansible-playbook fails if the variable FAIL is set."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for folder in ("inventories/ours", "scripts", ".venv/bin", "tmp"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "inventories/ours/hosts.yml").touch()
    for path, text in STUBS.items():
        (tmp_path / path).write_text(f'#!/bin/bash\necho "${{0##*/}} $*" >>calls\n{text}\n')
        (tmp_path / path).chmod(0o755)
    return tmp_path


def deploy(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [".ci/deploy", *arguments],
        cwd=root,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(root / "tmp"), **GIVEN, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def calls(root: Path) -> list[str]:
    return (root / "calls").read_text().splitlines()


SETUP = ["bootstrap tools", "ssh-agent -s", "ssh-add -q -"]
SITE = "ansible-playbook -i inventories/ours playbooks/site.yml"


def test_check_shows_what_would_change_and_changes_nothing(checkout):
    finished = deploy(checkout, "check", "ours")
    assert finished.returncode == 0, finished.stdout
    assert calls(checkout) == [*SETUP, f"{SITE} --check --diff", "ssh-agent -k"]


def test_apply_deploys_and_runs_the_smoke_test(checkout):
    finished = deploy(checkout, "apply", "ours")
    assert finished.returncode == 0, finished.stdout
    assert calls(checkout) == [*SETUP, SITE, SITE.replace("site", "smoke"), "ssh-agent -k"]


def test_renew_renews_the_certificates_and_changes_nothing_else(checkout):
    finished = deploy(checkout, "renew", "ours")
    assert finished.returncode == 0, finished.stdout
    assert calls(checkout) == [*SETUP, SITE.replace("site", "renew_certificates"), "ssh-agent -k"]


def test_a_failed_deployment_fails_the_job(checkout):
    assert deploy(checkout, "apply", "ours", FAIL="yes").returncode != 0
    assert calls(checkout) == [*SETUP, SITE, "ssh-agent -k"]


@pytest.mark.parametrize("kind", ["value", "file"])
def test_secrets_reach_the_programs_without_a_command_line_and_leave_no_file(checkout, kind):
    given = dict(GIVEN)
    if kind == "file":  # GitLab's variables of the type File
        for name in ("SSH_PRIVATE_KEY", "SSH_KNOWN_HOSTS"):
            (checkout / name).write_text(f"{GIVEN[name]}\n")
            given[name] = str(checkout / name)
    finished = deploy(checkout, "check", "ours", **given)
    for name, file in (("VAULT_PASSWORD", "password"), ("SSH_PRIVATE_KEY", "key"), ("SSH_KNOWN_HOSTS", "known_hosts")):
        assert (checkout / file).read_text() == f"{GIVEN[name]}\n"
        assert GIVEN[name] not in finished.stdout + "\n".join(calls(checkout))
    assert "StrictHostKeyChecking=yes" in (checkout / "options").read_text()
    assert list((checkout / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        (("destroy", "ours"), {}, "say check, apply or renew, not 'destroy'"),
        (("apply",), {}, "there is no environment"),
        (("apply", "theirs"), {}, "there is no environment 'inventories/theirs'"),
        *((("apply", "ours"), {name: ""}, f"the CI's variable {name} is empty") for name in GIVEN),
    ],
)
def test_a_deployment_without_what_it_needs_is_refused(checkout, arguments, variables, complaint):
    finished = deploy(checkout, *arguments, **variables)
    assert finished.returncode != 0
    assert complaint in finished.stdout
    assert not (checkout / "calls").exists()
