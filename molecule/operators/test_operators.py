"""Access to the services on loopback, through the edge."""

import json
import re
from pathlib import Path

import pytest
from helpers import CURL, playbook, secret

EDGE = "curl -sS --max-time 20 --cacert /etc/ssl/certs/image-editor-ca.crt --path-as-is"
PROTECTED = ("/operators/", "/prometheus/", "/alertmanager/")


@pytest.fixture(scope="module", autouse=True)
def account(host):
    """Write the account to a file for curl, because other users can read a command line."""
    host.check_output("install -m 600 /dev/null /root/account")
    host.check_output("echo %s > /root/account", f'user = "operator:{secret("operator_password")}"')


def ask(host, path: str, options: str = "--config /root/account") -> tuple[int, float, str]:
    """Return status, seconds and body."""
    out = host.check_output(f"{EDGE} {options} -w '\\n%{{http_code}} %{{time_total}}' 'https://localhost{path}'")
    body, _, rest = out.rpartition("\n")
    return int(rest.split()[0]), float(rest.split()[1]), body


@pytest.mark.parametrize("path", PROTECTED)
def test_services_without_a_sign_in_need_the_password(host, path):
    status, _, body = ask(host, path)
    assert status == 200
    assert path.strip("/") in body
    assert ask(host, path, "")[0] == 401
    status, seconds, _ = ask(host, path, "--user operator:wrong")
    assert status == 401
    assert seconds >= 1, "a wrong password was answered at once"


@pytest.mark.parametrize("path", ["/flower/", "/grafana/"])
def test_services_with_their_own_sign_in_are_passed_on(host, path):
    assert ask(host, path, "")[:1] == (200,)


@pytest.mark.parametrize(
    "path", ["/flower/metrics", "/flower/healthcheck", "/flower/./metrics", "//flower/metrics", "/flower/%6Detrics", "/metrics"]
)
def test_paths_without_a_password_answer_404(host, path):
    assert ask(host, path)[0] == 404


def test_the_site_requires_a_client_certificate_and_serves_listed_paths_only(host):
    url = "https://localhost:8444/prometheus/"
    assert host.check_output(f"{EDGE} -o /dev/null -w '%{{http_code}}' {url}") == "400", "accepted without a certificate"
    assert host.check_output(f"{CURL} {url}") == "prometheus"
    assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' https://localhost:8444/flower/metrics") == "404"
    assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' https://localhost:8444/") == "404"


def test_the_start_page_runs_its_own_scripts_only(host):
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


def test_password_guesses_are_limited(host):
    host.check_output("printf 'url = \"https://localhost/prometheus/\"\\noutput = /dev/null\\n%.0s' $(seq 200) > /root/guesses")
    out = host.check_output(
        f"{EDGE} --parallel --parallel-max 50 --user operator:guess -w '%{{http_code}}\\n' --config /root/guesses"
    )
    assert set(out.split()) == {"401", "429"}
    assert out.split().count("401") < 150


def test_the_host_has_only_a_hash_of_the_password(host):
    account = host.file("/etc/image-editor-operators/account")
    assert (account.user, account.group, account.mode) == ("root", "www-data", 0o640)
    assert secret("operator_password") not in account.content_string


def test_without_grafana_its_path_answers_404_with_the_reason(host):
    """Grafana is not installed if its vendor cannot be reached. For any other service that does not run, the edge answers 502."""
    host.check_output("systemctl stop stand-in@3000 stand-in@5555")
    try:
        status, _, body = ask(host, "/grafana/", "")
        assert (status, "its vendor's repository could not be reached" in body) == (404, True), body
        assert ask(host, "/flower/")[0] == 502
    finally:
        host.check_output("systemctl start stand-in@3000 stand-in@5555")


def test_services_that_are_switched_off_are_not_passed_on(host):
    """The last test, because it removes the services."""
    off = json.dumps({"flower_enabled": False, "monitoring_enabled": False})
    ran = playbook(str(Path(__file__).parent / "converge.yml"), "-e", off)
    assert ran.returncode == 0, ran.stdout
    assert ask(host, "/operators/")[0] == 200
    for path in ("/flower/", "/prometheus/", "/alertmanager/", "/grafana/"):
        assert "stand-in" not in ask(host, path)[2]
        assert ask(host, path)[0] == 502, "expected 502 from the application, which does not run here"
    assert host.run("ss -Hltn 'sport = :8444'").stdout == ""
