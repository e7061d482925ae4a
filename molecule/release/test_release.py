import subprocess

from helpers import ROOT, changed, playbook, secret

CURRENT = "/opt/image-editor/current"
ENVIRONMENT = "/etc/image-editor/image-editor.env"


def release_id():
    """The release's name: the hash of app/ in git."""
    return subprocess.check_output(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD:app"], text=True).strip()


def test_the_requested_release_is_the_current_release(host):
    assert host.check_output(f"readlink {CURRENT}") == f"releases/{release_id()}"
    assert host.file(f"{CURRENT}/REVISION").content_string.strip() == release_id()


def test_the_application_starts_from_the_release_and_the_database_is_migrated(host):
    assert host.run("image-editor-manage migrate --check").rc == 0
    assert host.run("image-editor-manage check --deploy").rc == 0


def test_a_user_is_created_once_and_the_database_holds_no_plain_text_token(host):
    first = host.check_output(f"echo {'t' * 43} | image-editor-manage ensure_user alice")
    again = host.check_output(f"echo {'t' * 43} | image-editor-manage ensure_user alice")
    assert (first.splitlines()[-1], again.splitlines()[-1]) == ("changed", "unchanged")
    dump = host.check_output("runuser -u postgres -- pg_dump image_editor")
    assert "t" * 43 not in dump


def test_the_release_cannot_be_changed_by_the_application(host):
    assert host.run(f"runuser -u image-editor -- touch {CURRENT}/manage.py").rc != 0
    assert host.check_output(f"find {CURRENT}/ ! -user root | wc -l") == "0"


def test_secrets_are_readable_by_the_application_only(on):
    host = on("platform1")
    file = host.file(ENVIRONMENT)
    assert (file.user, file.group, file.mode) == ("root", "image-editor", 0o640)
    assert secret("secret_key") in file.content_string
    assert host.run(f"runuser -u nobody -- cat {ENVIRONMENT}").rc != 0
    leaked = host.run("journalctl --no-pager | grep -cF %s", secret("postgresql_password")).stdout.strip()
    assert leaked == "0"


def test_static_files_were_collected(host):
    assert host.run(f"ls {CURRENT}/static_collected/admin").rc == 0


def test_an_unknown_ref_is_refused_and_nothing_changes(host):
    before = host.check_output(f"readlink {CURRENT}")
    result = playbook("molecule/release/converge.yml", "-e", "release_version=v0.0.0-typo")
    assert result.returncode != 0
    assert "release_version is 'v0.0.0-typo'" in result.stdout
    assert not changed(result.stdout)
    assert host.check_output(f"readlink {CURRENT}") == before
