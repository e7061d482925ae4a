"""What image-editor-release does to a host's releases: symlinks, rejections, what is kept, the lock."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("image_editor_release", ROOT / "roles/release/files/image_editor_release.py")
tool = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tool
spec.loader.exec_module(tool)

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with the releases A, B and C, C being the last that came; nothing runs."""
    found = tool.Host(tmp_path)
    for release in (A, B, C):
        (found.releases / release).mkdir(parents=True)
        (found.releases / release / "COMPLETE").touch()
        time.sleep(0.01)
    monkeypatch.setattr(tool, "units", lambda current: [])
    monkeypatch.setattr(tool, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(tool, "SETTINGS", tmp_path / "settings.env")
    return found


@pytest.fixture
def restarted(monkeypatch):
    """What systemctl was asked for."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(tool, "systemctl", lambda *arguments: calls.append(arguments) or "")
    return calls


def test_there_and_back(host):
    assert host.switch(A) == [f"current: none -> {A}"]
    assert host.link("previous") == ""
    host.switch(B)
    assert (host.link("current"), host.link("previous")) == (B, A)
    assert host.switch(B) == []
    host.switch(A, back=True)
    assert (host.link("current"), host.link("previous")) == (A, A), "what was left is nothing to come back to"


def test_check_only_says(host):
    assert host.switch(A, check=True) == [f"current: none -> {A}"]
    assert host.link("current") == ""


def test_only_what_this_run_has_switched_is_put_back(host):
    host.switch(C)
    assert host.switch(A, back=True, only_from=B) == []
    assert host.link("current") == C


def test_what_is_not_complete_is_never_current(host):
    (host.releases / B / "COMPLETE").unlink()
    host.switch(A)
    with pytest.raises(tool.Refusal, match=f"{B} is not here, or not complete: {C}, {A} is"):
        host.switch(B)
    assert host.link("current") == A


@pytest.mark.parametrize(
    ("state", "directory", "started", "oneshot", "stale"),
    [
        pytest.param("active", A, 200.0, False, False, id="up to date"),
        pytest.param("active", B, 200.0, False, True, id="another release"),
        pytest.param("active", A, 50.0, False, True, id="older settings"),
        pytest.param("activating", "", 0.0, False, True, id="does not come up"),
        pytest.param("failed", "", 0.0, True, False, id="a failed job is no service"),
        pytest.param("inactive", "", 0.0, False, False, id="stopped by somebody"),
    ],
)
def test_what_is_restarted(host, restarted, monkeypatch, state, directory, started, oneshot, stale):
    host.switch(A)
    tool.SETTINGS.touch()
    os.utime(tool.SETTINGS, (100, 100))
    path = str(host.releases / directory) if directory else ""
    monkeypatch.setattr(tool, "units", lambda current: [tool.Unit("x.service", state, oneshot, path, started)])
    host.switch("")
    assert restarted == ([("restart", "x.service")] if stale else [])


def test_a_rejection_is_kept_until_it_is_lifted(host):
    assert host.reject(B, "web: not ready") == [f"rejected {B}"]
    assert host.reject(B, "later, elsewhere") == []
    assert host.rejected()[B].endswith("UTC: web: not ready")
    host.switch(B)
    host.conclude(B, 5)
    assert host.rejected() == {}
    assert host.status()["proven"] == B


def test_current_and_previous_are_kept_however_old(host):
    host.switch(A)
    host.switch(B)
    (host.releases / f".{C}").mkdir()
    assert host.conclude(B, 1) == [f"proven {B}", f"removed {C}", f"removed .{C}"]
    assert host.kept() == [B, A]


def test_an_archive_is_unpacked_only_with_its_checksum(host, tmp_path):
    release = "dddddddddddd"
    (tmp_path / release).mkdir()
    for name in ("REVISION", "COMPLETE"):
        (tmp_path / release / name).write_text(f"{release}\n")
    archive = tmp_path / "x.tar"
    subprocess.run(["tar", "--create", "--file", archive, "-C", tmp_path, release], check=True)
    with pytest.raises(tool.Refusal, match="has the checksum"):
        host.install(archive, release, "0" * 64)
    assert release not in host.kept()
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert host.install(archive, release, checksum) == [f"installed {release}"]
    assert host.install(archive, release, checksum) == []
    assert host.kept()[0] == release


def test_one_lock_for_all(host):
    assert tool.lock("ann@one 12", instead_of="")["owner"] == "ann@one 12"
    refused = tool.lock("bob@two 34", instead_of="")
    assert (refused["owner"], refused["age"]) == ("ann@one 12", "0 h 0 min 0 s")
    assert tool.lock("bob@two 34", instead_of="carol@three 5")["owner"] == "ann@one 12"
    tool.unlock("bob@two 34")
    assert tool.LOCK.exists(), "only its owner gives it back"
    assert tool.lock("bob@two 34", instead_of="ann@one 12")["owner"] == "bob@two 34"
    tool.unlock("bob@two 34")
    assert not tool.LOCK.exists()


def test_a_refusal_changes_nothing_and_says_why(host, capsys):
    assert tool.main(["--directory", str(host.root), "switch", "eeeeeeeeeeee"]) == 1
    assert "eeeeeeeeeeee is not here" in capsys.readouterr().err
    assert tool.main(["--directory", str(host.root), "status"]) == 0
    assert json.loads(capsys.readouterr().out)["current"] == ""
