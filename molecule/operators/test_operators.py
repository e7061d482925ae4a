"""Who gets to the services on loopback, how, and what is closed to everybody."""

import json
import re
from pathlib import Path

import pytest
from helpers import CURL, playbook, secret

EDGE = "curl -sS --max-time 20 --cacert /etc/ssl/certs/image-editor-ca.crt --path-as-is"
OURS = ("/operators/", "/prometheus/", "/alertmanager/")


@pytest.fixture(scope="module", autouse=True)
def account(host):
    """For curl, in a file: a command line can be read by others."""
    host.check_output("install -m 600 /dev/null /root/account")
    host.check_output("echo %s > /root/account", f'user = "operator:{secret("operator_password")}"')


def ask(host, path: str, options: str = "--config /root/account") -> tuple[int, float, str]:
    """Status, seconds, body."""
    out = host.check_output(f"{EDGE} {options} -w '\\n%{{http_code}} %{{time_total}}' 'https://localhost{path}'")
    body, _, rest = out.rpartition("\n")
    return int(rest.split()[0]), float(rest.split()[1]), body


@pytest.mark.parametrize("path", OURS)
def test_ours_are_for_who_knows_the_password(host, path):
    status, _, body = ask(host, path)
    assert status == 200
    assert path.strip("/") in body
    assert ask(host, path, "")[0] == 401
    status, seconds, _ = ask(host, path, "--user operator:wrong")
    assert status == 401
    assert seconds >= 1, "a guess takes a second"


@pytest.mark.parametrize("path", ["/flower/", "/grafana/"])
def test_those_with_a_sign_in_of_their_own_are_passed_on(host, path):
    assert ask(host, path, "")[:1] == (200,)


@pytest.mark.parametrize(
    "path", ["/flower/metrics", "/flower/healthcheck", "/flower/./metrics", "//flower/metrics", "/flower/%6Detrics", "/metrics"]
)
def test_what_needs_no_password_is_closed(host, path):
    assert ask(host, path)[0] == 404


def test_only_the_edge_gets_to_the_site_behind(host):
    url = "https://localhost:8444/prometheus/"
    assert host.check_output(f"{EDGE} -o /dev/null -w '%{{http_code}}' {url}") == "400", "no certificate"
    assert host.check_output(f"{CURL} {url}") == "prometheus"
    assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' https://localhost:8444/flower/metrics") == "404"
    assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' https://localhost:8444/") == "404"


def test_the_start_page_runs_what_is_ours_alone(host):
    headers = host.check_output(f"{EDGE} --config /root/account -D - -o /dev/null https://localhost/operators/").lower()
    (policy,) = re.findall(r"content-security-policy: (.*)", headers)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    _, _, page = ask(host, "/operators/")
    assert "onclick" not in page
    assert " style=" not in page
    for name, kind in (("page.js", "javascript"), ("page.css", "text/css")):
        assert f'"{name}"' in page
        assert kind in host.check_output(f"{EDGE} --config /root/account -I https://localhost/operators/{name}").lower()
    assert ask(host, "/operators", "")[0] == 301


def test_a_guesser_is_slowed_down(host):
    host.check_output("printf 'url = \"https://localhost/prometheus/\"\\noutput = /dev/null\\n%.0s' $(seq 200) > /root/guesses")
    out = host.check_output(
        f"{EDGE} --parallel --parallel-max 50 --user operator:guess -w '%{{http_code}}\\n' --config /root/guesses"
    )
    assert set(out.split()) == {"401", "429"}
    assert out.split().count("401") < 150


def test_the_password_is_not_on_the_host(host):
    account = host.file("/etc/image-editor-operators/account")
    assert (account.user, account.group, account.mode) == ("root", "www-data", 0o640)
    assert secret("operator_password") not in account.content_string


def test_without_grafana_its_path_says_why(host):
    """Where its vendor cannot be reached there is none; another service that does not run is simply not reached."""
    host.check_output("systemctl stop stand-in@3000 stand-in@5555")
    try:
        status, _, body = ask(host, "/grafana/", "")
        assert (status, "where the repository of its vendor cannot be reached" in body) == (404, True), body
        assert ask(host, "/flower/")[0] == 502
    finally:
        host.check_output("systemctl start stand-in@3000 stand-in@5555")


def test_what_is_switched_off_is_not_there(host):
    """Last: it takes the services away."""
    off = json.dumps({"flower_enabled": False, "monitoring_enabled": False})
    ran = playbook(str(Path(__file__).parent / "converge.yml"), "-e", off)
    assert ran.returncode == 0, ran.stdout
    assert ask(host, "/operators/")[0] == 200
    for path in ("/flower/", "/prometheus/", "/alertmanager/", "/grafana/"):
        assert "stand-in" not in ask(host, path)[2]
        assert ask(host, path)[0] == 502, "the application's to answer, which is not here"
    assert host.run("ss -Hltn 'sport = :8444'").stdout == ""
