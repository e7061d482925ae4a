import time

CA = "/etc/ssl/certs/image-editor-ca.crt"
CERTIFICATE = "/etc/ssl/certs/image-editor.crt"
KEY = "/etc/ssl/private/image-editor.key"


def test_hosts_can_speak_tls_and_each_knows_the_other(host):
    """A server with the host's certificate and a client that verifies name and CA, both ways."""
    name = host.check_output("hostname")
    host.run(
        f"systemd-run --unit tls-probe openssl s_server -accept 9443 -cert {CERTIFICATE} -key {KEY} "
        f"-CAfile {CA} -Verify 1 -verify_return_error -www"
    )
    time.sleep(1)
    try:
        answer = host.run(f"curl -sS --cacert {CA} --cert {CERTIFICATE} --key {KEY} https://{name}:9443/")
        assert answer.rc == 0, answer.stderr
        stranger = host.run(f"curl -sS --cacert {CA} https://{name}:9443/")
        assert stranger.rc != 0, "a client without a certificate was let in"
    finally:
        host.run("systemctl stop tls-probe")


def test_key_is_for_root_and_ssl_cert_only(host):
    key = host.file(KEY)
    assert (key.user, key.group, key.mode) == ("root", "ssl-cert", 0o640)


def test_ca_key_stays_on_the_controller(host):
    assert host.run("grep -rl 'ENCRYPTED PRIVATE' /etc/ssl /root").stdout == ""
