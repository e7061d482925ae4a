"""Module ``host_files``, run by Ansible on this machine. Scenario ``systemd_service`` tests module ``systemd_units``."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
from pathlib import Path

from conftest import ROOT

OWNER = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def host_files(*entries: dict, options: tuple[str, ...] = ()) -> dict:
    """Run the module once for these entries; return its result, with ``failed`` and what Ansible ``printed``."""
    arguments = json.dumps({"files": [OWNER | entry for entry in entries]})
    run = subprocess.run(
        ["ansible", "localhost", "-c", "local", "-m", "host_files", "-a", arguments, *options],
        cwd=ROOT,
        env=os.environ
        | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
    )
    document = run.stdout[run.stdout.index("{", run.stdout.index("localhost | ")) :]
    return json.JSONDecoder().raw_decode(document)[0] | {"failed": run.returncode != 0, "printed": run.stdout}


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o7777)


def test_a_list_is_written_once_and_then_nothing_changes(tmp_path):
    entries = [
        {"path": f"{tmp_path}/new/folder", "state": "directory", "mode": "0750"},
        {"path": f"{tmp_path}/new/folder/secret", "content": "pässword\n", "mode": "0600"},
        {"path": f"{tmp_path}/new/link", "state": "link", "target": "folder/secret"},
        {"path": f"{tmp_path}/new/plain", "content": ""},
    ]
    first = host_files(*entries)
    assert first["changed_paths"] == [entry["path"] for entry in entries]
    assert (tmp_path / "new/link").read_text() == "pässword\n"
    assert [mode(tmp_path / path) for path in ("new/folder", "new/folder/secret", "new/plain")] == ["0o750", "0o600", "0o644"]
    second = host_files(*entries)
    assert (second["failed"], second["changed"], second["changed_paths"]) == (False, False, [])


def test_only_what_differs_is_changed(tmp_path):
    (tmp_path / "content").write_text("old\n")
    (tmp_path / "mode").write_text("same\n")
    (tmp_path / "mode").chmod(0o666)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    (tmp_path / "target").write_text("stays\n")
    (tmp_path / "link").symlink_to("target")
    result = host_files(
        {"path": f"{tmp_path}/content", "content": "new\n"},
        {"path": f"{tmp_path}/mode", "content": "same\n"},
        {"path": f"{tmp_path}/folder", "state": "absent"},
        {"path": f"{tmp_path}/link", "content": "new\n"},
        {"path": f"{tmp_path}/none", "state": "absent"},
        {"path": str(tmp_path), "state": "directory", "mode": mode(tmp_path)[2:]},
    )
    assert result["changed_paths"] == [f"{tmp_path}/{name}" for name in ("content", "mode", "folder", "link")]
    assert mode(tmp_path / "mode") == "0o644"
    assert not (tmp_path / "folder").exists()
    assert (tmp_path / "target").read_text() == "stays\n"  # a link is replaced, and never written through
    assert (tmp_path / "link").read_text() == "new\n"


def test_check_mode_changes_nothing_and_shows_the_difference(tmp_path):
    (tmp_path / "file").write_text("old\n")
    result = host_files(
        {"path": f"{tmp_path}/file", "content": "new\n"},
        {"path": f"{tmp_path}/folder", "state": "directory"},
        {"path": f"{tmp_path}/folder/file", "content": "new\n"},
        options=("--check", "--diff"),
    )
    assert result["changed_paths"] == [f"{tmp_path}/{name}" for name in ("file", "folder", "folder/file")]
    assert "\n-old\n+new\n" in result["printed"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old\n"


def test_content_that_its_program_refuses_is_not_written_and_the_files_before_it_are_put_back(tmp_path):
    """Their handlers would not be notified, because the task fails."""
    (tmp_path / "before").write_text("old\n")
    (tmp_path / "before").chmod(0o600)
    (tmp_path / "same").write_text("same\n")
    (tmp_path / "file").write_text("old\n")
    entries = [
        {"path": f"{tmp_path}/before", "content": "new\n"},
        {"path": f"{tmp_path}/created", "content": "new\n"},
        {"path": f"{tmp_path}/same", "content": "same\n"},
        {"path": f"{tmp_path}/file", "content": "bad\n", "validate": "grep -q good %s"},
    ]
    result = host_files(*entries)
    assert result["failed"]
    assert f"cannot bring {tmp_path}/file to the state file: failed to validate" in result["msg"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"before": "old\n", "same": "same\n", "file": "old\n"}
    assert mode(tmp_path / "before") == "0o600"
    assert not host_files(*entries[:3], entries[3] | {"content": "good\n"})["failed"]
    assert (tmp_path / "before").read_text() == "new\n"


def test_an_entry_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    result = host_files({"path": f"{tmp_path}/file/below", "content": ""})
    assert result["failed"]
    assert f"{tmp_path}/file/below" in result["msg"]
