"""The commands run, and only root can change what root runs."""

import json

import pytest
from helpers import changed, playbook

CONVERGE = "molecule/tools/converge.yml"
PACKAGE = "/usr/local/lib/image-editor-tools"
COMMANDS = ["redis", "proxy"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_documents_the_exit_codes(host, command):
    assert "exit codes:" in host.check_output(f"image-editor-{command} --help")


def test_a_command_that_fails_says_why_in_text_and_in_json(host):
    failed = host.run("image-editor-proxy status")
    assert failed.rc == 1
    assert failed.stderr.startswith("HAProxy does not answer")
    failed = host.run("image-editor-proxy status --json")
    assert failed.rc == 1
    assert json.loads(failed.stdout)["error"].startswith("HAProxy does not answer")


def test_a_wrong_command_line_ends_with_exit_code_2(host):
    assert host.run("image-editor-proxy nonsense").rc == 2


def test_commands_ignore_the_directory_and_the_environment_of_the_caller(host):
    host.check_output(
        "mkdir -p /tmp/evil/image_editor_tools && echo 'raise SystemExit(66)' >/tmp/evil/image_editor_tools/__init__.py"
    )
    assert host.run("cd /tmp/evil && PYTHONPATH=/tmp/evil image-editor-proxy --help").rc == 0


def test_files_belong_to_root_and_nobody_else_can_write_them(host):
    files = f"{PACKAGE} /usr/local/sbin/image-editor-*"
    assert host.check_output(f"find {files} ! -user root -o ! -group root -o -perm /022") == ""
    assert host.check_output(f"runuser -u nobody -- find {PACKAGE} -type f ! -readable") == ""


def test_running_a_command_leaves_no_compiled_files(host):
    host.run("image-editor-proxy status")
    assert host.check_output(f"find {PACKAGE} -type f ! -name '*.py' ! -name '*.po' -o -name __pycache__") == ""


def test_changed_stale_and_unsafe_files_are_repaired(host):
    """A file that was edited, a file of an older version, and a file that others can write."""
    module = f"{PACKAGE}/image_editor_tools"
    before = host.check_output(f"cat {module}/cli.py | sha256sum")
    host.check_output(f"echo broken >>{module}/cli.py && touch {module}/old.py && chmod 0666 {module}/errors.py")
    run = playbook(CONVERGE)
    assert run.returncode == 0, run.stdout
    assert len(changed(run.stdout)) == 2, run.stdout  # the comparison and the package
    assert host.check_output(f"cat {module}/cli.py | sha256sum") == before
    assert not host.file(f"{module}/old.py").exists
    assert host.file(f"{module}/errors.py").mode == 0o644
    assert not changed(playbook(CONVERGE).stdout)


@pytest.mark.parametrize("change", ["echo broken >>", "chmod 0777 ", "rm "])
def test_a_launcher_alone_is_repaired(host, change):
    launcher = "/usr/local/sbin/image-editor-proxy"
    host.check_output(f"{change}{launcher}")
    run = playbook(CONVERGE)
    assert run.returncode == 0, run.stdout
    assert host.run(f"cmp {PACKAGE}/image_editor_tools/launcher.py {launcher}").rc == 0
    assert host.file(launcher).mode == 0o755
