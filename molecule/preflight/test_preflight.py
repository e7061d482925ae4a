"""Preflight refuses each kind of bad input before anything changes, and names the variable or the host."""

import getpass
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from feature_rollback import another_release
from helpers import LOCK, changed, in_soak, one_line, playbook

PREFLIGHT = "playbooks/preflight.yml"
MACHINE = Path("/etc/machine-id").read_text()[:8] if Path("/etc/machine-id").exists() else ""
HERE = f"{getpass.getuser()}@{os.uname().nodename}-{MACHINE}"  # as this controller signs the lock of the environment


def refused(result, *names):
    """Assert that the run failed, changed nothing, and printed each of the names."""
    assert result.returncode != 0, "preflight did not refuse"
    text = re.sub(r"\s+", " ", result.stdout)
    for name in names:
        assert name in text, result.stdout
    assert not changed(result.stdout)


@pytest.fixture
def extra(tmp_path):
    """Return a function that writes a further inventory file and returns the arguments that add it."""

    def write(text):
        path = tmp_path / "extra.yml"
        path.write_text(text)
        return "-i", str(path)

    return write


@pytest.fixture
def environment(tmp_path):
    """A copy of the scenario's inventory, with the name ours, that a test may write to."""
    linked = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
    shutil.copytree(linked / "hosts", tmp_path / "ours")
    shutil.copytree(linked / "group_vars", tmp_path / "ours/group_vars")
    return tmp_path / "ours"


def test_a_sound_inventory_passes_and_changes_nothing():
    """The end of the run says that nobody is told about alerts."""
    result = playbook("playbooks/site.yml", "--tags", "never-matches", "--list-hosts")
    assert "platform1" in result.stdout
    result = playbook(PREFLIGHT)
    assert result.returncode == 0, result.stdout
    assert not changed(result.stdout)
    assert "Nobody is told about alerts" in one_line(result.stdout.rpartition("PLAY RECAP")[2])


def test_overrides_of_the_shared_wiring_are_reported_once():
    """A variable that nothing reads passes if preflight_variables_extra names it."""
    given = {"nginx_client_max_body_size": "500m", "alertmanager_email_to": ["duty@example.com"]}
    result = playbook(PREFLIGHT, "-e", json.dumps(given | {"vault_ours": 1, "preflight_variables_extra": ["vault_ours"]}))
    assert result.returncode == 0, result.stdout
    said = one_line(result.stdout).split("This environment overrides the shared wiring")[1:]
    assert len(said) == 1
    assert "nginx_client_max_body_size" in said[0]
    assert "platform_addresses" not in said[0].partition("TASK [")[0], "a constant of the run is no override"
    assert "Nobody is told about alerts" not in result.stdout


def test_a_run_first_names_its_environment_once(environment):
    said = one_line(playbook(PREFLIGHT, "playbooks/facts.yml", inventory=environment).stdout)
    assert said.count("environment ours, release HEAD, hosts 1") == 1
    assert said.index("environment ours") < said.index("TASK [preflight : refresh"), said


def test_all_variables_that_cannot_work_are_refused_at_once():
    """Variables without a value, one that nothing reads, and an address that is none of IPv4."""
    given = {
        "vault_postgresql_password": "", "platform_public_host": "", "release_version": "", "platform_address": "2001:db8::1",
        "application_settings": {"ENGINE": "openai"}, "nginx_cleint_max_body_size": "5m",
    }  # fmt: skip
    refused(
        playbook(PREFLIGHT, "-e", json.dumps(given)),
        "These variables have no value on platform1: ",
        "vault_postgresql_password", "platform_public_host", "release_version", "vault_openai_api_key",
        "platform1 has variables that nothing reads: nginx_cleint_max_body_size (nearest is nginx_client_max_body_size)",
        "platform1 has the address 2001:db8::1", "over IPv4 alone",
    )  # fmt: skip


def test_all_settings_that_cannot_work_are_refused_at_once():
    """The API's two processes hold three connections each, and the workers have three processes and the two of the thumbnails."""
    thumbnails = {"name": "thumbnail", "queues": ["thumbnail"], "concurrency": 1, "metrics_port": 9810}
    given = {
        "application_settings": {"RETENTION_DAY": 1}, "celery_workers_extra": [thumbnails],
        "postgresql_max_connections": 30, "postgresql_memory_mib": 99999999,
    }  # fmt: skip
    refused(
        playbook(PREFLIGHT, "-e", json.dumps(given)),
        "application_settings names what cannot be set there: RETENTION_DAY.",
        "celery_workers and celery_workers_extra use 9810 more than once",
        "PostgreSQL accepts 30 connections", "need 40.",
        "PostgreSQL 99999999, Redis 128",
    )  # fmt: skip


def test_everything_that_is_wrong_with_a_host_is_refused_at_once(host):
    """A taken port, an address that no interface has, a missing file, a small disk, and a clock that is a minute late.

    The smallest disk counts, such as that of the releases. In Docker, the name of a host leads to its address in the network.
    Here it must lead to another.
    """
    own = {"nginx_certificate_path": "/root/own.crt", "nginx_private_key_path": "/etc/hostname"}
    late = "#!/bin/sh\nexec /usr/bin/date --date='60 seconds ago' \"$@\"\n"
    host.check_output("systemd-run --unit squatter python3 -m http.server 443")
    host.check_output("mkdir -p /opt && mount -t tmpfs -o size=10m tmpfs /opt")
    host.check_output("printf %s >/usr/local/bin/date && chmod +x /usr/local/bin/date", late)
    try:
        refused(
            playbook(PREFLIGHT, "-e", json.dumps(own | {"platform_address": "192.0.2.1", "platform_name": "platform1"})),
            "platform1: Port 443 is needed for nginx but taken by python3.",
            "No interface of platform1 has the address 192.0.2.1",
            "platform1: missing /root/own.crt. The inventory names these files as your own",
            "lead elsewhere or nowhere: platform1", "platform1 192.0.2.1.",
            "platform1 has 10 MiB free on one of its disks",
            "The clock of platform1 is", "s behind the controller",
        )  # fmt: skip
    finally:
        host.check_output("rm /usr/local/bin/date; umount /opt; systemctl stop squatter")


def test_a_release_that_git_does_not_know_is_refused():
    refused(playbook(PREFLIGHT, "-e", "release_version=v0.0.0-typo"), "v0.0.0-typo", "git log --oneline")


@in_soak
def test_a_tag_that_has_moved_is_refused(host, tmp_path):
    """The host was released from the commit that the tag named before."""
    repository = another_release(tmp_path)

    def git(*arguments):
        identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
        return subprocess.check_output(["git", "-C", repository, *identity, *arguments], text=True).strip()

    old = git("rev-parse", "HEAD")
    git("tag", "v1")
    arguments = ("-e", f"release_build_repository={repository}", "-e", "release_version=v1", "-e", "release_build_index_url=")
    host.check_output("mkdir -p /opt/image-editor && echo %s >/opt/image-editor/tag", f"v1 {old}")
    try:
        result = playbook(PREFLIGHT, *arguments)
        assert result.returncode == 0, result.stdout
        git("commit", "--quiet", "--allow-empty", "--message", "Later")
        git("tag", "--force", "--annotate", "--message", "Version 1", "v1")
        says = f"The tag v1 has moved: it named commit {old} when platform1 was released from it"
        refused(playbook(PREFLIGHT, *arguments), says, f"names commit {git('rev-parse', 'HEAD')}.")
    finally:
        host.check_output("rm -r /opt/image-editor")


def test_a_builder_without_a_way_to_the_package_index_is_refused_if_it_has_to_build(tmp_path):
    repository, archives = another_release(tmp_path), tmp_path / "archives"
    index = ("-e", "release_build_index_url=https://127.0.0.1:9/simple/")
    arguments = ("-e", f"release_build_repository={repository}", "-e", f"release_build_archive_directory={archives}", *index)
    says = "platform1 builds the release, and cannot reach the Python package index at https://127.0.0.1:9/: "
    refused(playbook(PREFLIGHT, *arguments), says)
    archives.mkdir()
    release = subprocess.check_output(["git", "-C", repository, "rev-parse", "HEAD:app"], text=True)[:12]
    (archives / f"image-editor-{release}.json").write_text(json.dumps({"archive": "built.tar.zst"}))
    result = playbook(PREFLIGHT, *arguments)
    assert result.returncode == 0, result.stdout


@in_soak
def test_an_edge_without_a_certificate_is_refused_if_the_acme_server_does_not_answer(host):
    server, name = "https://127.0.0.1:9/dir", "images.invalid"
    given = {"platform_acme_email": "duty@example.com", "platform_public_host": name, "acme_directory_url": server}
    arguments = (PREFLIGHT, "-e", json.dumps(given | {"preflight_public_host_must_resolve": False}))
    says = f"platform1 needs a certificate from the ACME server {server}, and gets no directory from it:"
    refused(playbook(*arguments), says, "Connection refused")
    renewal = "/etc/letsencrypt/renewal"
    host.check_output("mkdir -p %s && printf %s >%s", renewal, f"server = {server}\n", f"{renewal}/{name}.conf")
    try:
        result = playbook(*arguments)
        assert result.returncode == 0, result.stdout
    finally:
        host.check_output("rm -r /etc/letsencrypt")


def test_a_vault_that_is_not_encrypted_is_refused(environment):
    (environment / "group_vars/all/vault.yml").write_text("vault_smoke_token: readable\n")
    refused(playbook(PREFLIGHT, inventory=environment), "group_vars/all/vault.yml is not encrypted")


def test_the_ca_of_another_environment_is_refused(environment):
    (environment.parent / "theirs").mkdir()
    (environment.parent / "theirs/hosts.yml").touch()
    secrets = f"secrets_directory={environment.parent}/secrets/theirs"
    refused(playbook(PREFLIGHT, "-e", secrets, inventory=environment), "belongs to the environment inventories/theirs.")


def test_a_misspelt_group_is_refused(extra):
    refused(playbook(PREFLIGHT, *extra("workers: {hosts: {platform1: }}")), "workers", "does not know")


def test_two_builders_are_refused(extra):
    inventory = "builder: {hosts: {platform2: {ansible_host: image-editor-test-preflight-platform1}}}"
    refused(playbook(PREFLIGHT, *extra(inventory)), "builder has 2 hosts", "at most 1")


def test_a_run_with_a_limit_creates_no_ca(tmp_path):
    result = playbook(PREFLIGHT, "--limit", "platform1", "-e", f"pki_ca_directory={tmp_path}/ca")
    refused(result, "has no CA, and a run with --limit creates none")


@in_soak
def test_an_address_for_several_edges_with_one_edge_is_refused():
    refused(playbook(PREFLIGHT, "-e", "platform_edge_address=192.0.2.9"), "The address 192.0.2.9 needs at least two hosts")


@in_soak
def test_a_name_that_leads_nowhere_is_refused():
    name = "nowhere.invalid"
    refused(playbook(PREFLIGHT, "-e", f"platform_name={name}"), f"lead elsewhere or nowhere: {name}", f"{name} 127.0.0.1.")


@in_soak
def test_a_public_name_without_a_dns_record_is_reported_and_refused_where_a_certificate_needs_the_name():
    name = ("-e", "platform_public_host=images.invalid")
    result = playbook(PREFLIGHT, *name)
    assert result.returncode == 0, result.stdout
    assert "images.invalid does not resolve" in one_line(result.stdout.rpartition("PLAY RECAP")[2])
    refused(playbook(PREFLIGHT, *name, "-e", "platform_acme_email=duty@example.com"), "images.invalid does not resolve, so")


@in_soak
def test_an_unknown_host_that_is_declared_down_is_refused():
    refused(playbook(PREFLIGHT, "-e", "platform_down=platform9"), "platform_down names platform9.")


def test_an_unreachable_host_that_is_declared_down_is_left_out_and_named(extra):
    """The host is left out, and the end of the run names the host."""
    inventory = extra(
        "web: {hosts: {web9: {ansible_connection: docker, ansible_host: no-such-container}}}\ndown: {hosts: {web9: }}"
    )
    result = playbook(PREFLIGHT, *inventory)
    assert result.returncode == 0, result.stdout
    assert re.search(r"declared_down.*web9", result.stdout.rpartition("PLAY RECAP")[2]), result.stdout


def test_an_unreachable_host_fails_the_run(extra):
    inventory = extra("web: {hosts: {web9: {ansible_connection: docker, ansible_host: no-such-container}}}")
    refused(playbook("playbooks/site.yml", *inventory), "web9 does not answer: ")


@pytest.fixture
def locked(host):
    """Return a function that writes who has locked the environment."""
    yield lambda owner: host.check_output("printf '%%s\\n' %s '2026-01-02 03:04:05 UTC' >%s", owner, LOCK)
    host.check_output(f"rm -f {LOCK}")


def test_a_run_is_refused_while_another_controller_changes_the_environment(locked):
    locked("ann@elsewhere:12")
    says = "ann@elsewhere:12 has been changing this environment since 2026-01-02 03:04:05 UTC."
    take_over = "platform_lock_break=ann@elsewhere:12"
    refused(playbook("playbooks/site.yml"), says, f"-e {take_over}")
    refused(playbook("playbooks/edge.yml", "--check"), says)
    for allowed in (take_over, '{"preflight_lock_look": false}'):  # the second as in playbooks that only read
        result = playbook("playbooks/facts.yml", "-e", allowed)
        assert result.returncode == 0, result.stdout


def test_a_run_on_this_controller_counts_only_while_its_process_lives(locked):
    with subprocess.Popen(["ansible-playbook", "120"], executable="/bin/sleep") as process:
        locked(f"{HERE}:{process.pid}")
        refused(playbook(PREFLIGHT), f"{HERE}:{process.pid} has been changing this environment")
        process.kill()
    result = playbook(PREFLIGHT)
    assert result.returncode == 0, result.stdout


def test_a_controller_of_the_same_name_is_another_controller(locked):
    """Its process is not on this machine, which must not mean that it has ended."""
    owner = f"{getpass.getuser()}@{os.uname().nodename}-00000000:1"
    locked(owner)
    refused(playbook(PREFLIGHT), f"{owner} has been changing this environment")


def test_a_run_locks_the_environment_and_the_run_after_a_failed_one_takes_the_lock_over(host, locked):
    """Check mode takes no lock."""
    fails = ("molecule/preflight/lock.yml", "-e", "scenario_fails=true")
    assert "was told to fail" in playbook(*fails, "--check").stdout
    assert not host.file(LOCK).exists
    assert "was told to fail" in playbook(*fails).stdout
    assert host.file(LOCK).content_string.startswith(f"{HERE}:")
    result = playbook("molecule/preflight/lock.yml")
    assert result.returncode == 0, result.stdout
    assert not host.file(LOCK).exists


@pytest.mark.usefixtures("locked")
def test_a_renewal_of_certificates_locks_the_environment_and_a_run_after_a_failed_renewal_takes_the_lock_over(host):
    refused(playbook("playbooks/renew_certificates.yml", "-e", "pki_provider=provided"), "pki_provider is provided, so")
    assert host.file(LOCK).content_string.startswith(f"{HERE}:")
    result = playbook(PREFLIGHT)
    assert result.returncode == 0, result.stdout


def test_a_host_with_debian_12_is_refused(host):
    """The host claims to be Debian 12."""
    host.check_output(
        "sed -i.bak s/13/12/g /usr/lib/os-release && mv /etc/debian_version /root && echo 12.9 > /etc/debian_version"
    )
    try:
        refused(playbook(PREFLIGHT), "platform1 runs Debian 12", "Reinstall the host with Debian 13")
    finally:
        host.check_output("mv /usr/lib/os-release.bak /usr/lib/os-release && mv /root/debian_version /etc/debian_version")
