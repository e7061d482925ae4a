"""What image-editor-release does to a host's releases: symlinks, rejections, what is kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from image_editor_tools.errors import Refusal
from image_editor_tools.release import host as releases
from image_editor_tools.release import main, services

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with the releases A, B and C. C was installed last. No service runs."""
    found = releases.Host(tmp_path)
    for release in (A, B, C):
        (found.releases / release).mkdir(parents=True)
        (found.releases / release / "COMPLETE").touch()
        time.sleep(0.01)
    monkeypatch.setattr(services, "loaded", lambda directory: [])
    monkeypatch.setattr(releases, "SETTINGS", tmp_path / "settings.env")
    return found


@pytest.fixture
def restarted(monkeypatch):
    """The names of the services that were restarted."""
    names: list[str] = []
    monkeypatch.setattr(services, "restart", names.extend)
    return names


def test_a_switch_updates_current_and_previous_and_a_switch_back_leaves_no_previous(host):
    assert host.switch(A) == [f"current: none -> {A}"]
    assert host.link("previous") == ""
    host.switch(B)
    assert (host.link("current"), host.link("previous")) == (B, A)
    assert host.switch(B) == []
    host.switch(A, back=True)
    assert (host.link("current"), host.link("previous")) == (A, A), "a release that was rolled back became the previous release"


def test_a_switch_with_check_reports_and_changes_nothing(host):
    assert host.switch(A, check=True) == [f"current: none -> {A}"]
    assert host.link("current") == ""


def test_only_a_host_that_runs_the_failed_release_is_put_back(host):
    host.switch(C)
    assert host.switch(A, back=True, only_from=B) == []
    assert host.link("current") == C


def test_an_incomplete_release_never_becomes_current(host):
    (host.releases / B / "COMPLETE").unlink()
    host.switch(A)
    with pytest.raises(Refusal, match=f"{B} is not on this host, or not complete. Complete: {C}, {A}"):
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
def test_only_stale_services_and_services_that_do_not_start_are_restarted(
    host, restarted, monkeypatch, state, directory, started, oneshot, stale
):
    host.switch(A)
    releases.SETTINGS.touch()
    os.utime(releases.SETTINGS, (100, 100))
    path = str(host.releases / directory) if directory else ""
    service = services.Service("x.service", state, oneshot, path, started)
    monkeypatch.setattr(services, "loaded", lambda directory: [service])
    host.switch("")
    assert restarted == (["x.service"] if stale else [])


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
    with pytest.raises(Refusal, match="has the checksum"):
        host.install(archive, release, "0" * 64)
    assert release not in host.kept()
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert host.install(archive, release, checksum) == [f"installed {release}"]
    assert host.install(archive, release, checksum) == []
    assert host.kept()[0] == release


def test_a_refusal_changes_nothing_and_says_why(host, capsys):
    assert main.main(["--directory", str(host.root), "switch", "eeeeeeeeeeee"]) == 1
    assert "refused: release eeeeeeeeeeee is not on this host" in capsys.readouterr().err
    assert main.main(["--directory", str(host.root), "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["current"] == ""


def test_the_last_line_says_whether_something_changed(host, capsys):
    for word in ("changed", "unchanged"):
        assert main.main(["--directory", str(host.root), "switch", A]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == word
    assert main.main(["--directory", str(host.root), "switch", A, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False, "done": []}


def test_status_prints_current_previous_and_rejected_releases(host, capsys):
    host.switch(A)
    host.reject(B, "web: not ready")
    assert main.main(["--directory", str(host.root), "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"current:  {A}", "previous: none"]
    assert any(line.startswith(f"rejected: {B} (") and line.endswith("web: not ready)") for line in lines)


def test_an_error_of_the_system_is_one_line(host, capsys):
    assert main.main(["--directory", str(host.root), "install", "/nowhere.tar", "eeeeeeeeeeee", "0"]) == 1
    assert capsys.readouterr().err == "[Errno 2] No such file or directory: '/nowhere.tar'\n"


SHOWN = """Id=image-editor-web.service
ActiveState=active
Type=notify
MainPID={pid}
WorkingDirectory=/opt/image-editor/current
ExecMainStartTimestamp=Thu 2026-01-01 00:00:01.500000 UTC

Id=image-editor-other.service
ActiveState=active
Type=simple
MainPID=1
WorkingDirectory=/
ExecMainStartTimestamp=

Id=image-editor-worker@edit.service
ActiveState=failed
Type=oneshot
MainPID=0
WorkingDirectory=/opt/image-editor/current
ExecMainStartTimestamp=
"""


def test_services_of_the_current_release_are_read_from_systemd_and_proc():
    web, worker = services.parse(SHOWN.format(pid=os.getpid()), Path("/opt/image-editor/current"))
    assert (web.name, web.state, web.oneshot, web.directory) == ("image-editor-web.service", "active", False, str(Path.cwd()))
    assert web.started == 1767225601.5
    assert (worker.state, worker.oneshot, worker.directory, worker.started) == ("failed", True, "", 0.0)
