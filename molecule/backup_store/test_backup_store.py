"""The store: a client with a certificate adds and reads backups, and nobody removes them from another host."""

from __future__ import annotations

import pytest
from helpers import CURL, changed, playbook, secret

URL = "https://store1:8433"  # the name in its certificate
STORE = "/srv/backups"
CA = "/etc/ssl/certs/image-editor-ca.crt"
PAIR = "/root/pair.pem"
RESTIC = f"RESTIC_PASSWORD=specimen restic --repo rest:{URL}/media/ --cacert {CA} --tls-client-cert {PAIR} --no-cache --quiet"


@pytest.fixture(scope="module")
def store(on):
    """A host with one backup in its store."""
    host = on("store1")
    host.check_output(f"cat /etc/ssl/certs/image-editor.crt /etc/ssl/private/image-editor.key > {PAIR} && chmod 600 {PAIR}")
    if host.run(f"{RESTIC} cat config").rc != 0:
        host.check_output(f"{RESTIC} init")
    host.check_output(f"echo greyscale > /root/image && {RESTIC} backup /root/image")
    return host


def answer(host, path: str, *options: str) -> str:
    return host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' {' '.join(options)} {URL}/media/{path}")


def test_a_client_without_a_certificate_is_refused(store):
    status = f"curl -sS -o /dev/null -w '%{{http_code}}' --cacert {CA} {URL}/media/config"
    assert store.check_output(status) == "400", "a client without a certificate was accepted"


def test_a_client_reads_no_repository_but_its_own(store):
    """The converge playbook gives this host's certificate no right to the repository of Redis."""
    for path in ("/redis/config", "/media/%2e%2e/redis/config", "/media/../redis/config"):
        assert store.check_output(f"{CURL} --path-as-is -o /dev/null -w '%{{http_code}}' {URL}{path}") == "403", path
    assert store.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' {URL}/other/config") == "404"


def test_the_service_behind_nginx_asks_for_a_password(store):
    """Every program on the host reaches 127.0.0.1."""
    assert store.check_output("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8434/media/config") == "401"
    assert store.run("ss -Hltn 'sport = :8434' | grep -v 127.0.0.1:").stdout == ""


def test_a_client_reads_the_backups_that_it_added(store):
    assert answer(store, "config") == "200"
    store.check_output(f"{RESTIC} restore latest --target /root/restored")
    assert store.check_output("cat /root/restored/root/image") == "greyscale"


def test_no_client_can_remove_or_replace_a_backup(store):
    pack = store.check_output(f"cd {STORE}/store/media && find data -type f | head -n 1").split("/")[-1]
    snapshot = store.check_output(f"ls {STORE}/store/media/snapshots | head -n 1")
    for path in ("config", f"data/{pack}", f"snapshots/{snapshot}"):
        assert answer(store, path, "-X", "DELETE") == "403", path
        assert answer(store, path, "-X", "POST", "--data-binary", "other") != "200", path
    store.run(f"{RESTIC} forget latest --prune")  # restic exits with 0 although the store refuses
    assert store.file(f"{STORE}/store/media/snapshots/{snapshot}").exists
    store.check_output(f"{RESTIC} check --read-data")


def test_the_service_cannot_read_the_databases_repository(store):
    """The service takes requests from other hosts, so it must not read the passphrase of the database's backups."""
    main = store.check_output("systemctl show -P MainPID image-editor-backup-store")
    assert store.run(f"nsenter -t {main} -m cat /etc/pgbackrest/conf.d/repository.conf").rc != 0
    assert store.run(f"nsenter -t {main} -m touch {STORE}/pgbackrest/file").rc != 0
    assert store.check_output(f"ps -o user= -p {main}") == "postgres"


def test_files_with_secrets_are_not_readable_by_others(store):
    passphrase = secret("backup_passphrase")
    settings = "/etc/image-editor-backup"
    for path in ("/etc/pgbackrest/conf.d/repository.conf", f"{settings}/store.env", f"{settings}/serve.env"):
        file = store.file(path)
        assert (file.mode, file.user, file.group) == (0o640, "root", "postgres"), path
    assert (store.file(f"{settings}/serve.conf").mode, store.file(f"{settings}/serve.conf").group) == (0o640, "root")
    assert store.run(f"grep -rl -e {passphrase} /etc/systemd /etc/image-editor-backup /var/log").stdout == ""
    assert store.run(f"journalctl | grep -c -e {passphrase}").stdout.strip() == "0"
    for directory in ("store", "pgbackrest"):
        assert store.file(f"{STORE}/{directory}").mode == 0o700


def test_pgbackrest_finds_an_encrypted_repository(store):
    """Debian's own configuration names another repository; role backup replaces it."""
    options = "--config=/etc/pgbackrest/conf.d/repository.conf --stanza=image-editor --output=json"
    said = store.check_output(f"cd / && runuser -u postgres -- pgbackrest {options} info")
    assert '"cipher":"aes-256-cbc"' in said, said


def test_a_short_passphrase_is_refused():
    ran = playbook("molecule/backup_store/converge.yml", "-e", "vault_backup_passphrase=short")
    assert ran.returncode != 0
    assert "backup_store_passphrase needs at least 16 characters" in " ".join(ran.stdout.split())


def test_check_mode_changes_nothing_and_does_not_fail():
    ran = playbook("molecule/backup_store/converge.yml", "--check")
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert not changed(ran.stdout)
