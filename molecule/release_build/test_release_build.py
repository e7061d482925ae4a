"""A release is built once, described by its checksum, and published only as a whole."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from helpers import ROOT, changed, playbook

REPOSITORY = ROOT / "build/release_build/repository"
ARCHIVES = ROOT / "build/release_build/archives"
CONVERGE = "molecule/release_build/converge.yml"


def identity(ref: str) -> str:
    """The id of the release at a git ref."""
    return subprocess.check_output(["git", "-C", REPOSITORY, "rev-parse", f"{ref}:app"], text=True)[:12]


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((ARCHIVES / f"image-editor-{identity('main')}.json").read_text())


def test_the_description_names_the_archive_and_its_checksum(manifest):
    archive = ARCHIVES / manifest["archive"]
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == manifest["sha256"]
    assert manifest["migrations"] == {"specimen": "0001_initial"}
    assert manifest["commit"] == subprocess.check_output(["git", "-C", REPOSITORY, "rev-parse", "main"], text=True).strip()
    assert sorted(path.name for path in ARCHIVES.iterdir()) == sorted([archive.name, f"image-editor-{identity('main')}.json"])


def test_the_archive_is_complete(host, manifest):
    """The archive has the source, a virtual environment for its final path, static files, translations and its description."""
    release = identity("main")
    directory = f"/opt/image-editor/releases/{release}"
    assert host.file(f"{directory}/REVISION").content_string.strip() == release
    assert host.check_output(f"{directory}/venv/bin/python -c 'import sys; print(sys.prefix)'") == f"{directory}/venv"
    listed = subprocess.check_output(["tar", "--list", "--file", ARCHIVES / manifest["archive"]], text=True).splitlines()
    wanted = ("manage.py", "venv/bin/python", "static_collected/", "specimen.mo", "REVISION", "COMMIT", "MIGRATIONS", "COMPLETE")
    assert {f"{release}/{name}" for name in wanted} <= set(listed)
    assert host.check_output(f"find {directory} -perm -002 ! -type l") == "", "everybody may write these"


def test_a_commit_that_leaves_the_application_alone_is_the_same_release():
    assert identity("noted") == identity("main")
    run = playbook(CONVERGE, "-e", "release_build_version=noted")
    assert run.returncode == 0, run.stdout[-3000:]
    assert not changed(run.stdout)
    assert f"built: {identity('main')} {ARCHIVES}/image-editor-" in run.stdout


def test_check_mode_builds_nothing():
    run = playbook(CONVERGE, "-e", "release_build_version=broken", "--check")
    assert run.returncode == 0, run.stdout[-3000:]
    assert f"built: {identity('broken')} nothing" in run.stdout
    assert not changed(run.stdout)


def test_a_build_that_fails_publishes_nothing(host):
    before = sorted(ARCHIVES.iterdir())
    run = playbook(CONVERGE, "-e", "release_build_version=broken")
    assert run.returncode != 0
    assert "this version does not start" in run.stdout
    assert sorted(ARCHIVES.iterdir()) == before
    assert not host.file(f"/opt/image-editor/releases/{identity('broken')}/COMPLETE").exists


def test_a_ref_that_git_does_not_know_is_refused():
    run = playbook(CONVERGE, "-e", "release_build_version=v0-typo")
    assert run.returncode != 0
    assert "release_version is 'v0-typo'" in run.stdout
    assert not changed(run.stdout)


def test_a_controller_without_the_archive_packs_the_release_and_leaves_its_files_alone(host):
    """The builder may run the release. A fresh clone of this repository has no archives."""
    release = identity("main")
    listing = f"cd /opt/image-editor/releases/{release} && find . -printf '%i %T@ %p\\n' | sort"
    before = host.check_output(listing)
    for path in ARCHIVES.glob(f"image-editor-{release}*"):
        path.unlink()
    run = playbook(CONVERGE, "-e", "release_build_version=main")
    assert run.returncode == 0, run.stdout[-3000:]
    assert host.check_output(listing) == before
    description = json.loads((ARCHIVES / f"image-editor-{release}.json").read_text())
    assert hashlib.sha256((ARCHIVES / description["archive"]).read_bytes()).hexdigest() == description["sha256"]
