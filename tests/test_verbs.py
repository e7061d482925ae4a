"""Verbs of the Makefile work on the environment ENV, or on the lab alone. They run here in a copy with a stub for Ansible."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from test_suite import stub


@pytest.fixture
def copy(tmp_path) -> Path:
    """The Makefile and its scripts. ansible-playbook writes down how it was called."""
    language = ("scripts/speak", "tools/image_editor_tools/language.py", "tools/image_editor_tools/zh_CN.po")
    for name in ("Makefile", "scripts/smoke", "scripts/status", *language):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    stub(tmp_path, ".venv/bin/ansible-playbook", 'echo "$@" >called')
    return tmp_path


def make(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ours = ("ENV", "SMALL", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *arguments], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.mark.parametrize(("verb", "options"), [("smoke", " -e smoke_quiet=true"), ("status", "")])
@pytest.mark.parametrize(
    ("arguments", "environment"), [([], "lab"), (["SMALL=1"], "lab_small"), (["ENV=production"], "production")]
)
def test_a_verb_works_on_the_named_environment(copy, verb, options, arguments, environment):
    make(copy, verb, *arguments)
    assert (copy / "called").read_text() == f"-i inventories/{environment} playbooks/{verb}.yml{options}\n"


def test_a_locale_that_this_machine_has_not_changes_the_language_alone(copy, monkeypatch):
    """Ansible refuses to start in such a locale."""
    monkeypatch.delenv("LANGUAGE", raising=False)
    monkeypatch.delenv("LC_ALL", raising=False)
    stub(copy, ".venv/bin/ansible-playbook", 'echo "$LANGUAGE $LC_ALL" >called')
    for named, seen in (("zh_XX.UTF-8", "zh_XX.UTF-8 C.UTF-8"), ("C.UTF-8", "")):
        monkeypatch.setenv("LANG", named)
        make(copy, "status")
        assert (copy / "called").read_text().strip() == seen


def test_the_report_of_the_smoke_test_comes_last(copy):
    stub(copy, ".venv/bin/ansible-playbook", 'echo recap; echo "smoke: ok" >build/smoke.txt')
    assert make(copy, "smoke").stdout == "recap\nsmoke: ok\n"


def test_a_smoke_test_that_did_not_start_has_a_verdict_too(copy):
    stub(copy, ".venv/bin/ansible-playbook", "exit 4")
    run = make(copy, "smoke")
    assert run.returncode != 0
    assert "smoke: failed layer=ansible: " in run.stdout


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["dev", "PORT=9000"], "-m development --port 9000"),
        (["dev-test", "TESTS=tests/imaging -k blur"], "-m pytest tests/imaging -k blur"),
    ],
)
def test_the_application_runs_in_a_container_that_has_its_source(copy, monkeypatch, arguments, program):
    """A second run finds the image and builds nothing. A setting of the application is passed on by its name alone."""
    shutil.copy(ROOT / "scripts/dev", copy / "scripts/dev")
    (copy / "app/development").mkdir(parents=True)
    shutil.copy(ROOT / "app/development/packages", copy / "app/development/packages")
    stub(copy, "scripts/bootstrap", "")
    (copy / "roles/release_build/files").mkdir(parents=True)
    shutil.copy(ROOT / "roles/release_build/files/uv.txt", copy / "roles/release_build/files/uv.txt")
    stub(copy, ".venv/bin/docker", 'case "$1" in image) ;; container) exit 1 ;; *) printf "%s\\0" "$@" >>called ;; esac')
    monkeypatch.setenv("IMAGE_EDITOR_OPENAI_API_KEY", "of-the-provider")
    run = make(copy, *arguments)
    assert run.returncode == 0, run.stdout
    called = (copy / "called").read_text()
    words = called.split("\0")
    assert words[0] == "run", "the image is built again"
    assert f"{copy}/app:/srv/app" in words
    assert "pip -q install --require-hashes -r /srv/uv.txt" in called
    assert called.endswith("\0".join(["sh", *program.split(), ""]))
    assert "IMAGE_EDITOR_OPENAI_API_KEY" in words
    assert "of-the-provider" not in called
    stub(copy, ".venv/bin/docker", 'case "$*" in *"inspect image-editor-dev"*) exit 1 ;; build*) cat >built ;; esac')
    assert make(copy, *arguments).returncode == 0
    assert "postgresql-17 procps" in (copy / "built").read_text()


def test_make_dev_names_the_container_that_runs_already(copy):
    shutil.copy(ROOT / "scripts/dev", copy / "scripts/dev")
    (copy / "app/development").mkdir(parents=True)
    shutil.copy(ROOT / "app/development/packages", copy / "app/development/packages")
    stub(copy, "scripts/bootstrap", "")
    (copy / "roles/release_build/files").mkdir(parents=True)
    shutil.copy(ROOT / "roles/release_build/files/uv.txt", copy / "roles/release_build/files/uv.txt")
    stub(copy, ".venv/bin/docker", "")
    run = make(copy, "dev")
    assert run.returncode != 0
    assert "end it with docker stop image-editor-dev" in run.stdout


@pytest.mark.parametrize("verb", ["up", "down", "bench-deploy", "chaos"])
def test_a_verb_of_the_lab_refuses_another_environment(copy, verb):
    run = make(copy, verb, "ENV=production")
    assert run.returncode != 0
    assert f"make {verb} works on the lab alone, and ENV is production" in run.stdout
    assert not (copy / "called").exists()
