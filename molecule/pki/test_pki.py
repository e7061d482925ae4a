import json
import os
import re
import shutil
from collections.abc import Iterator

import pytest
from helpers import CURL, ROOT, changed, in_soak, one_line, playbook, secret, until

CA = "/etc/ssl/certs/image-editor-ca.crt"
CERTIFICATE = "/etc/ssl/certs/image-editor.crt"
KEY = "/etc/ssl/private/image-editor.key"
SERVICE = "/etc/ssl/image-editor/application"
SECRETS = ROOT / "secrets" / os.environ["LAB_NAME"]


def test_a_host_can_serve_and_call_with_its_certificate(host):
    """A server and a client with the host's certificate verify each other's name and CA, with either provider."""
    name = host.check_output("hostname")
    host.run(
        f"systemd-run --unit tls-probe openssl s_server -accept 9443 -cert {CERTIFICATE} -key {KEY} "
        f"-CAfile {CA} -Verify 1 -verify_return_error -www"
    )
    try:
        until("the server listens", lambda: host.run("ss -Htln 'sport = :9443' | grep .").rc == 0)
        answer = host.run(f"{CURL} https://{name}:9443/")
        assert answer.rc == 0, answer.stderr
        stranger = host.run(f"curl -sS --cacert {CA} https://{name}:9443/")
        assert stranger.rc != 0, "a client without a certificate was let in"
    finally:
        host.run("systemctl stop tls-probe")


def test_key_is_for_root_and_ssl_cert_only(host):
    key = host.file(KEY)
    assert (key.user, key.group, key.mode) == ("root", "ssl-cert", 0o640)


def test_a_service_has_a_certificate_of_its_own_and_cannot_read_the_hosts_key(on):
    service = "setpriv --reuid nobody --regid nogroup --groups image-editor-application test -r"
    assert on("pki1").run(f"{service} {SERVICE}.key").rc == 0
    assert on("pki1").run(f"{service} {KEY}").rc != 0
    names = on("pki1").check_output(f"openssl x509 -in {SERVICE}.crt -noout -subject -nameopt RFC2253 -ext subjectAltName")
    assert "subject=CN=application.image-editor.internal\n" in names
    assert "DNS:pki1" not in names
    assert on("pki1").run(f"openssl verify -CAfile {CA} {SERVICE}.crt").rc == 0


def test_a_service_without_a_certificate_that_you_bring_is_refused():
    result = playbook("molecule/pki/converge.yml", "--limit", "pki3", "-e", "{'pki_services': ['application']}")
    assert result.returncode != 0
    assert "pki_provided_services has no certificate and private_key of application" in one_line(result.stdout)


def test_hosts_have_keys_of_their_own_and_the_ca_stays_on_the_controller(on):
    assert on("pki1").file(KEY).sha256sum != on("pki2").file(KEY).sha256sum
    for name in ("pki1", "pki2"):
        assert on(name).run("grep -rl 'ENCRYPTED PRIVATE' /etc/ssl /root").stdout == ""


def test_a_certificate_close_to_its_end_is_replaced(on):
    """The certificate lasts 397 days, so with `pki_renew_days=500` it is always close to its end."""
    before = on("pki1").file(CERTIFICATE).sha256sum
    result = playbook("molecule/pki/converge.yml", "--limit", "pki1", "-e", "pki_renew_days=500")
    assert result.returncode == 0, result.stdout
    assert on("pki1").file(CERTIFICATE).sha256sum != before
    assert on("pki1").run(f"openssl verify -CAfile {CA} {CERTIFICATE}").rc == 0


def test_check_mode_replaces_no_certificate(on):
    before = on("pki1").file(CERTIFICATE).sha256sum
    result = playbook("molecule/pki/converge.yml", "--limit", "pki1", "--check", "-e", "pki_renew_days=500")
    assert result.returncode == 0, result.stdout
    assert on("pki1").file(CERTIFICATE).sha256sum == before


@pytest.mark.parametrize("has", ["no CA", "another CA"])
def test_a_controller_without_the_ca_of_the_hosts_is_refused(has, on, tmp_path):
    before = on("pki1").file(CA).sha256sum
    directory = tmp_path / "ca"
    if has == "another CA":
        directory.mkdir()
        shutil.copy(SECRETS / "brought/ca.crt", directory / "ca.crt")
    for check in ([], ["--check"]):
        result = playbook("molecule/pki/converge.yml", "--limit", "pki1", "-e", f"pki_ca_directory={directory}", *check)
        assert result.returncode != 0
        assert f"pki1 trusts a CA that is not on this controller: {directory} has {has}." in one_line(result.stdout)
        assert not changed(result.stdout)
    assert not (directory / "ca.key").exists()
    assert on("pki1").file(CA).sha256sum == before


def test_a_ca_that_ends_soon_is_reported_at_the_end():
    """The scenario's CA is valid for ten years."""
    result = playbook("molecule/pki/converge.yml", "--limit", "pki1", "--check", "-e", "pki_ca_warn_days=4000")
    assert result.returncode == 0, result.stdout
    assert "The internal CA is valid until" in one_line(result.stdout.rpartition("PLAY RECAP")[2])


def test_another_controller_gets_the_ca_from_the_vault(on, tmp_path):
    """The CA's directory is empty there. A run changes nothing on the host, and a renewed certificate is of the same CA."""
    directory, texts = tmp_path / "ca", tmp_path / "vault.json"
    pem = {name: (SECRETS / f"ca/{file}").read_text() for name, file in (("certificate", "ca.crt"), ("private_key", "ca.key"))}
    texts.write_text(json.dumps({"pki_ca_certificate": pem["certificate"], "pki_ca_private_key": pem["private_key"]}))
    before = on("pki1").file(CA).sha256sum
    arguments = ("--limit", "pki1", "-e", f"pki_ca_directory={directory}", "-e", f"@{texts}", "-e", "pki_renew_days=500")
    result = playbook("molecule/pki/converge.yml", *arguments)
    assert result.returncode == 0, result.stdout
    assert pem["private_key"] not in result.stdout
    assert on("pki1").file(CA).sha256sum == before
    assert on("pki1").run(f"openssl verify -CAfile {CA} {CERTIFICATE}").rc == 0
    assert (directory / "ca.key").stat().st_mode & 0o777 == 0o600


def test_the_ca_is_replaced_if_that_is_confirmed(on, tmp_path):
    before = on("pki2").file(CA).sha256sum
    replaced = playbook(
        "molecule/pki/converge.yml", "--limit", "pki2", "-e", f"pki_ca_directory={tmp_path / 'ca'}", "-e", "pki_ca_replace=true"
    )
    assert replaced.returncode == 0, replaced.stdout
    assert on("pki2").file(CA).sha256sum != before
    back = playbook("molecule/pki/converge.yml", "--limit", "pki2", "-e", "pki_ca_replace=true")
    assert back.returncode == 0, back.stdout
    assert on("pki2").file(CA).sha256sum == before


def test_changed_modes_and_keys_are_repaired(on):
    assert on("pki1").run(f"chmod 644 {KEY}").rc == 0
    assert on("pki2").run(f"openssl ecparam -genkey -name prime256v1 -noout -out {KEY}").rc == 0
    result = playbook("molecule/pki/converge.yml", "--limit", "pki1,pki2")
    assert result.returncode == 0, result.stdout
    assert on("pki1").file(KEY).mode == 0o640
    of_key = on("pki2").check_output(f"openssl pkey -in {KEY} -pubout")
    assert of_key == on("pki2").check_output(f"openssl x509 -in {CERTIFICATE} -noout -pubkey")


def test_a_provided_certificate_with_the_key_of_another_host_is_refused(on):
    other = on("pki1").file(KEY).content_string
    result = playbook("molecule/pki/converge.yml", "--limit", "pki3", "-e", f"{{'pki_provided_private_key': {other!r}}}")
    assert result.returncode != 0
    assert "does not belong to the certificate" in result.stdout
    assert other not in result.stdout


def test_a_missing_setting_is_refused_by_name():
    result = playbook("molecule/pki/converge.yml", "--limit", "pki3", "-e", "pki_provided_certificate=")
    assert result.returncode != 0
    assert "pki_provided_certificate must not be empty" in re.sub(r"\s+", " ", result.stdout)
    assert not changed(result.stdout)


@pytest.fixture
def expired(on, tmp_path) -> Iterator[tuple[str, ...]]:
    """Arguments for runs on two hosts that trust an expired CA, which the vault has. Afterwards they trust the scenario's CA."""
    subject = "-subj /CN=Old -not_before 20200101000000Z -not_after 20210101000000Z"
    key = f"-newkey ec -pkeyopt ec_paramgen_curve:P-256 -passout pass:{secret('pki_ca_passphrase')}"
    on("pki1").check_output(f"cd /run && openssl req -x509 {subject} {key} -keyout old.key -out old.crt")
    vault, settings = tmp_path / "vault.yml", tmp_path / "settings.json"
    ca = {"pki_ca_certificate": "/run/old.crt", "pki_ca_private_key": "/run/old.key"}
    texts = {name: on("pki1").file(path).content_string for name, path in ca.items()}
    vault.write_text(json.dumps({"all": {"vars": texts}}))
    settings.write_text(json.dumps({"pki_ca_directory": str(tmp_path / "ca"), "pki_rotation_hosts": ["pki1", "pki2"]}))
    limit = ("--limit", "pki1,pki2")
    arguments = (*limit, "-i", str(vault), "-e", f"@{settings}")
    trust = '{"pki_ca_replace": true, "pki_ca_expired_allowed": true}'
    result = playbook("molecule/pki/converge.yml", *arguments, "-e", trust)
    assert result.returncode == 0, result.stdout
    yield arguments
    assert playbook("molecule/pki/converge.yml", *limit, "-e", "pki_ca_replace=true").returncode == 0


# The steps of a rotation: the file with which each begins, and how many CAs pki1 and pki2 trust if pki2 is lost in it.
STEPS = {"trust": ("next/ca.crt", (2, 1)), "issue": ("previous/ca.crt", (2, 2)), "drop": ("previous/dropped.crt", (1, 2))}


@pytest.mark.parametrize("step", [name if name == "drop" else pytest.param(name, marks=in_soak) for name in STEPS])
def test_an_expired_ca_is_replaced_although_a_step_was_interrupted(on, expired, tmp_path, step):
    """In that step, the first run cannot write on pki2. The vault has the expired CA throughout."""
    begins, trusted = STEPS[step]
    result = playbook("molecule/pki/converge.yml", *expired)
    assert result.returncode != 0
    assert "The internal CA has expired: it was valid until 2021-01-01. " in one_line(result.stdout)
    assert "playbooks/rotate_ca.yml" in result.stdout
    assert not changed(result.stdout)

    directory, broken = tmp_path / "ca", tmp_path / "broken.yml"
    path = f"{{{{ '/missing/ca.crt' if '{directory}/{begins}' is exists else '{CA}' }}}}"
    broken.write_text(json.dumps({"all": {"hosts": {"pki2": {"pki_ca_certificate_path": path}}}}))
    result = playbook("molecule/pki/rotate.yml", *expired, "-i", str(broken))
    assert result.returncode != 0
    assert "/missing does not exist" in one_line(result.stdout), result.stdout[-3000:]
    found = tuple(on(name).file(CA).content_string.count("BEGIN CERTIFICATE") for name in ("pki1", "pki2"))
    assert found == trusted, "the run was not interrupted in that step"

    result = playbook("molecule/pki/rotate.yml", *expired)
    assert result.returncode == 0, result.stdout
    assert sorted(path.name for path in directory.iterdir()) == ["ca.crt", "ca.key"]
    for name in ("pki1", "pki2"):
        assert on(name).file(CA).content_string.strip() == (directory / "ca.crt").read_text().strip()
        assert on(name).run(f"openssl verify -CAfile {CA} {CERTIFICATE}").rc == 0

    said = one_line(playbook("molecule/pki/converge.yml", *expired).stdout)
    assert f"pki1 trusts the CA in {directory}, and the vault has another CA" in said
    assert "make vault-ca" in said
