"""Two edges with one name and certificates of an ACME server. The client is the controller, and trusts that server's CA alone."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import helpers
import pytest
import requests
from helpers import ROOT, changed, one_line, playbook, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

NAME = "images.example.test"
EDGES = ("edge1", "edge2")
PLATFORM_CA = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca/ca.crt"
RENEWAL = f"/etc/letsencrypt/renewal/{NAME}.conf"
SITE = "/etc/nginx/sites-enabled/acme.conf"
RELOAD = "systemctl reload nginx"
CLOSED = "timeout 30 sh -c 'while ss -Htln sport = :80 | grep -q .; do sleep 0.1; done'"  # nginx closes port 80 after the reload
CHALLENGES = "/.well-known/acme-challenge"
HERE = Path(__file__).parent

# Causes of a failed renewal on edge1: the hosts that a cause concerns, the command that begins it and the one that ends it.
CAUSES = {
    "the ACME server is down": (["edge1"], "ip route add unreachable {acme}", "ip route del unreachable {acme}"),
    "the ACME server refuses": (EDGES, "mv {site} {site}.off && {reload} && {closed}", "mv {site}.off {site} && {reload}"),
}


@pytest.fixture(scope="module")
def address(on):
    return lambda name: helpers.address(on(name))


@pytest.fixture(scope="module")
def served(on, address):
    """A function: the certificate that a client of an edge sees, or None if the client does not trust it."""
    public = on("acme1").check_output("curl -sSf --cacert /etc/ssl/certs/image-editor-ca.crt https://localhost:15000/roots/0")

    def connect(edge: str, ca: str = public) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=ca)
        connection = socket.create_connection((address(edge), 443), 10)
        try:
            with connection, context.wrap_socket(connection, server_hostname=NAME) as tls:
                return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))
        except ssl.SSLCertVerificationError:
            return None

    return connect


@pytest.fixture(scope="module")
def http(address):
    """A function: the answer of an edge on port 80."""
    client = requests.Session()
    client.trust_env = False
    client.headers["Host"] = NAME
    return lambda edge, path: client.get(f"http://{address(edge)}{path}", allow_redirects=False, timeout=10)


@contextmanager
def due(edge):
    """Make the certificate of an edge due for renewal during the block."""
    edge.check_output(f"sed -i '1i renew_before_expiry = 36500 days' {RENEWAL}")
    try:
        yield
    finally:
        edge.check_output(f"sed -i /^renew_before_expiry/d {RENEWAL} && systemctl reset-failed certbot.service")


def test_each_edge_serves_a_certificate_of_its_own_from_the_acme_server(served):
    """So no private key has left its host."""
    certificates = {served(edge) for edge in EDGES}
    assert None not in certificates
    assert len(certificates) == 2


def test_keys_are_for_root_alone(on):
    """Not even a worker of nginx reads the key of the account or of the certificate."""
    for name in EDGES:
        keys = on(name).check_output("find /etc/letsencrypt -type f -name 'priv*key*'").split()
        assert len(keys) >= 2, keys
        for key in keys:
            assert on(name).run("runuser -u www-data -- cat %s", key).rc != 0, key


def test_an_edge_answers_the_challenge_of_another_edge(on, http):
    directory = f"/var/lib/image-editor-acme{CHALLENGES}"
    on("edge2").check_output(f"mkdir -p {directory} && echo proof >{directory}/token")
    assert http("edge1", f"{CHALLENGES}/token").text == "proof\n"
    assert http("edge2", f"{CHALLENGES}/token").text == "proof\n"
    on("edge2").check_output(f"rm {directory}/token")
    assert http("edge1", f"{CHALLENGES}/token").status_code == 404, "the edges asked each other without end"


def test_port_80_leads_browsers_to_https(http):
    answer = http("edge1", "/page?x=1")
    assert (answer.status_code, answer.headers["Location"]) == (301, f"https://{NAME}/page?x=1")


def test_a_renewal_is_served_without_help(on, served):
    """certbot.timer starts certbot.service, which this test starts at once."""

    def seconds(name: str) -> float:
        edge, before = on(name), served(name)
        edge.check_output("systemctl is-enabled certbot.timer && systemctl is-active certbot.timer")
        with due(edge):
            begun = time.monotonic()
            edge.check_output("systemctl start certbot.service")
            until(f"{name} serves another certificate", lambda: served(name) not in (before, None), 60)
            return time.monotonic() - begun

    slowest = max(seconds(name) for name in EDGES)
    assert figures.record("acme_renewal_served_seconds", round(slowest, 1), "s", "<=60")["ok"]


@pytest.mark.parametrize("cause", CAUSES)
def test_a_renewal_that_fails_leaves_the_old_certificate_and_says_so(on, address, served, cause):
    """The failed unit causes the alert UnitFailed."""
    hosts, begin, end = CAUSES[cause]
    words = {"acme": address("acme1"), "site": SITE, "reload": RELOAD, "closed": CLOSED}
    edge, before = on("edge1"), served("edge1")
    since = edge.check_output("date +%s")
    for name in hosts:
        on(name).check_output(begin.format(**words))
    try:
        with due(edge):
            assert edge.run("systemctl start certbot.service").rc != 0
            assert edge.run("systemctl is-failed certbot.service").stdout.strip() == "failed"
    finally:
        for name in hosts:
            on(name).check_output(end.format(**words))
    journal = edge.check_output(f"journalctl -u certbot.service -o cat --since=@{since}")
    assert f"Failed to renew certificate {NAME}" in journal
    assert served("edge1") == before


def test_a_refused_order_is_one_line_and_leaves_the_internal_certificate(on, served):
    """molecule/shared/acme_server.yml lists the name that the ACME server refuses."""
    before = served("edge1")
    run = playbook("playbooks/edge.yml", "--limit", "edge1", "-e", "acme_name=refused.example.test")
    assert run.returncode != 0
    said = one_line(run.stdout)
    assert "edge1 got no certificate for refused.example.test from https://acme1:14000/dir. Check" in said, run.stdout[-3000:]
    assert "port 80 of every edge is open" in said
    assert "certbot gave no reason" not in said
    until("the internal certificate is served", lambda: served("edge1", PLATFORM_CA.read_text()), 10)
    run = playbook("playbooks/edge.yml", "--limit", "edge1")
    assert run.returncode == 0, run.stdout[-3000:]
    until("the public certificate is served again", lambda: served("edge1") == before, 10)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("acme_name=refused.example.test", "refused.example.test, and the ACME server https://acme1:14000/dir refuses: "),
        (
            "acme_name=other.example.test acme_email=nobody",
            "other.example.test, and the ACME server https://acme1:14000/dir refuses: ",
        ),
        ("acme_name=other.example.test", ""),
    ],
    ids=["name", "e-mail address", "nothing"],
)
def test_what_the_acme_server_refuses_is_known_before_anything_changes(given, reason):
    """The server lists the first name as refused, and the second address is none. Another name gets an order."""
    run = playbook(str(HERE / "reach.yml"), "--limit", "edge1", "-e", given)
    assert (run.returncode != 0) == (reason != ""), run.stdout[-3000:]
    assert reason in one_line(run.stdout)
    assert not changed(run.stdout)


def test_check_mode_works_on_live_edges_and_on_a_fresh_host(monkeypatch, tmp_path):
    monkeypatch.setenv("ANSIBLE_FORCE_COLOR", "false")
    live = playbook("playbooks/edge.yml", "--check", "--diff")
    assert live.returncode == 0, live.stdout[-3000:]
    assert not changed(live.stdout)
    third = tmp_path / "hosts.yml"  # an edge without nginx and certbot
    third.write_text("edge: {hosts: {acme1: {}}}\n")
    fresh = playbook("playbooks/edge.yml", "--check", "--diff", "--limit", "acme1", "-i", str(third))
    assert fresh.returncode == 0, fresh.stdout[-3000:]
    assert any("Install the packages certbot" in task for task in changed(fresh.stdout))
