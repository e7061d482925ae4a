"""Access to the services on loopback, through the edge."""

import json
import re
import sys
from pathlib import Path

import pytest
from helpers import APPLICATION_CURL, CURL, ROOT, changed, playbook, secret

sys.path.insert(0, str(ROOT / "scripts"))
import docs

EDGE = "curl -sS --max-time 20 --cacert /etc/ssl/certs/image-editor-ca.crt --path-as-is"
SERVICES = ("/flower/", "/prometheus/", "/alertmanager/")
PROTECTED = ("/operators/", *SERVICES, "/grafana/")
OPERATOR, VIEWER = "--config /root/operator", "--config /root/viewer"
PASSED_ON = 501  # the stand-ins' answer to every method except GET and HEAD


@pytest.fixture(scope="module", autouse=True)
def accounts(host):
    """Write the accounts to files for curl, because other users can read a command line."""
    for user in ("operator", "viewer"):
        host.check_output(f"install -m 600 /dev/null /root/{user}")
        host.check_output(f"echo %s > /root/{user}", f'user = "{user}:{secret(f"{user}_password")}"')


def ask(host, path: str, options: str = OPERATOR) -> tuple[int, float, str]:
    """Return status, seconds and body."""
    out = host.check_output(f"{EDGE} {options} -w '\\n%{{http_code}} %{{time_total}}' 'https://localhost{path}'")
    body, _, rest = out.rpartition("\n")
    return int(rest.split()[0]), float(rest.split()[1]), body


@pytest.mark.parametrize("path", PROTECTED)
def test_every_page_needs_the_password(host, path):
    status, _, body = ask(host, path)
    assert status == 200
    assert path.strip("/") in body
    assert ask(host, path, "")[0] == 401
    status, seconds, _ = ask(host, path, "--user operator:wrong")
    assert status == 401
    assert seconds >= 1, "a wrong password was answered at once"


@pytest.mark.parametrize(
    "path",
    [*(f"{path}page.js" for path in PROTECTED), "/operators/page.css", "/operators/readyz/", "/grafana/login"],
)
def test_every_file_needs_the_password(host, path):
    status, _, body = ask(host, path, "")
    assert status == 401
    assert "401 Authorization Required" in body, "the answer is not the edge's own"


def test_grafana_does_not_receive_the_password_and_decides_itself_what_a_viewer_may_change(host):
    received = {
        path: host.check_output(f"{EDGE} {VIEWER} -o /dev/null -w '%header{{got-authorization}}' https://localhost{path}")
        for path in ("/flower/", "/grafana/")
    }
    assert received == {"/flower/": "yes", "/grafana/": "no"}
    assert ask(host, "/grafana/api/ds/query", f"{VIEWER} -X POST")[0] == PASSED_ON


@pytest.mark.parametrize("path", PROTECTED)
def test_a_redirect_names_neither_host_nor_port(host, path):
    """So the client keeps the port that it used, and a forged Host header leads nowhere."""
    answer = f"{EDGE} -o /dev/null -w '%{{http_code}} %header{{location}}' https://localhost{path.rstrip('/')}"
    assert host.check_output(answer) == f"301 {path}"


@pytest.mark.parametrize("path", ["/", "/api/v1/docs", "/media/results/1.jpg", *PROTECTED, "/operators"])
def test_a_request_for_another_host_name_gets_no_page(host, path):
    for name in ("elsewhere.example", "127.0.0.1"):
        assert ask(host, path, f"{OPERATOR} -H 'Host: {name}'")[0] == 421
        assert ask(host, "/healthz", f"-H 'Host: {name}'")[0] == 200, "load balancers call the edge by its address"


@pytest.mark.parametrize("path", SERVICES)
def test_a_viewer_reads_and_changes_nothing(host, path):
    assert ask(host, path, VIEWER)[0] == 200
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert ask(host, path, f"{OPERATOR} -X {method}")[0] == PASSED_ON
        assert ask(host, path, f"{VIEWER} -X {method}")[0] == 403


def test_a_viewer_may_send_the_one_post_that_only_reads(host):
    assert ask(host, "/flower/tasks/datatable", f"{VIEWER} -X POST")[0] == PASSED_ON
    for path in ("/flower/api/worker/shutdown/x/../../../../tasks/datatable", "/flower/tasks/datatable/x"):
        assert ask(host, path, f"{VIEWER} -X POST")[0] == 403, path


CHANGES = (
    "/flower/api/worker/shutdown/edit@worker1",
    "/prometheus/api/v1/admin/tsdb/snapshot",
    "/alertmanager/api/v2/silences",
    "/grafana/api/dashboards/db",
)
OWN_PAGE, OTHER_PAGE = ("Origin: https://localhost",), ("Origin: https://elsewhere.example",)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN_PAGE, PASSED_ON),
        (("Sec-Fetch-Site: same-origin", *OWN_PAGE), PASSED_ON),
        (("Sec-Fetch-Site: cross-site", *OTHER_PAGE), 403),
        (("Sec-Fetch-Site: cross-site",), 403),
        (("Sec-Fetch-Site: same-site",), 403),
        (OTHER_PAGE, 403),
        (("Origin: null",), 403),
        (("Origin: http://localhost",), 403),
        (("Origin: https://localhost:444",), 403),
        (("Origin: https://localhost.elsewhere.example",), 403),
    ],
)
def test_pages_of_other_sites_change_nothing(host, headers, status):
    """A browser adds the operator's password to the requests of any page."""
    options = OPERATOR + "".join(f" -H '{header}'" for header in headers)
    for path in CHANGES:
        assert ask(host, path, f"{options} -X POST")[0] == status, path
    assert ask(host, "/flower/", options)[0] == 200, "a link from another site works"


@pytest.mark.parametrize(
    "path", ["/prometheus/-/reload", "/prometheus/-/quit", "/alertmanager/-/reload", "/alertmanager/%2D/reload"]
)
def test_nobody_reloads_or_stops_a_service_through_the_edge(host, path):
    for method in ("POST", "PUT"):
        assert ask(host, path, f"{OPERATOR} -X {method}")[0] == 404


@pytest.mark.parametrize(
    "path", ["/flower/metrics", "/flower/healthcheck", "/flower/./metrics", "//flower/metrics", "/flower/%6Detrics", "/metrics"]
)
def test_paths_without_a_password_answer_404(host, path):
    assert ask(host, path)[0] == 404


def test_the_site_requires_a_client_certificate_and_serves_listed_paths_only(host):
    url = "https://localhost:8444/prometheus/"
    assert host.check_output(f"{EDGE} -o /dev/null -w '%{{http_code}}' {url}") == "400", "accepted without a certificate"
    assert host.check_output(f"{APPLICATION_CURL} -o /dev/null -w '%{{http_code}}' {url}") == "403", "accepted with another name"
    assert host.check_output(f"{CURL} {url}") == "prometheus"
    assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' https://localhost:8444/flower/metrics") == "404"
    assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' https://localhost:8444/") == "404"


def test_the_start_page_runs_its_own_scripts_only(host):
    headers = host.check_output(f"{EDGE} {OPERATOR} -D - -o /dev/null https://localhost/operators/").lower()
    (policy,) = re.findall(r"content-security-policy: (.*)", headers)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    _, _, page = ask(host, "/operators/")
    assert "onclick" not in page
    assert " style=" not in page
    for name, kind in (("page.js", "javascript"), ("page.css", "text/css")):
        assert f'"{name}"' in page
        assert kind in host.check_output(f"{EDGE} {OPERATOR} -I https://localhost/operators/{name}").lower()


def test_password_guesses_are_limited(host):
    host.check_output("printf 'url = \"https://localhost/prometheus/\"\\noutput = /dev/null\\n%.0s' $(seq 500) > /root/guesses")
    told = "-w '%{http_code}:%header{retry-after}\\n'"
    out = host.check_output(f"{EDGE} --parallel --parallel-max 100 --user operator:guess {told} --config /root/guesses")
    assert set(out.split()) == {"401:", "429:1"}
    assert out.split().count("401:") < 450
    assert ask(host, "/prometheus/", f"{OPERATOR} --retry 5")[0] == 200, "the right password does not work after a second"


def test_the_host_has_only_hashes_of_the_passwords(host):
    account = host.file("/etc/image-editor-operators/account")
    assert (account.user, account.group, account.mode) == ("root", "www-data", 0o640)
    for user in ("operator", "viewer"):
        assert f"{user}:$6$" in account.content_string
        assert secret(f"{user}_password") not in account.content_string


def test_without_grafana_its_path_answers_404_with_the_reason(host):
    """Grafana is not installed if its vendor cannot be reached. For any other service that does not run, the edge answers 502."""
    host.check_output("systemctl stop stand-in@3000 stand-in@5555")
    try:
        status, _, body = ask(host, "/grafana/")
        assert (status, "its vendor's repository could not be reached" in body) == (404, True), body
        assert ask(host, "/flower/")[0] == 502
        assert ask(host, "/flower/", "--user operator:wrong")[0] == 401, "a wrong password was passed on to Flower"
    finally:
        host.check_output("systemctl start stand-in@3000 stand-in@5555")


def test_the_documents_are_installed_once_and_served_with_the_password(host, tmp_path):
    (tmp_path / "site/zh-CN").mkdir(parents=True)
    (tmp_path / "site/zh-CN/index.html").write_text("<p>Redis</p>")
    docs.pack(tmp_path / "site", tmp_path / "site.tar.gz", 1234567890)
    given = json.dumps({"operators_documents": str(tmp_path / "site.tar.gz")})
    for tasks in (1, 0):
        ran = playbook(str(Path(__file__).parent / "converge.yml"), "-e", given)
        assert ran.returncode == 0, ran.stdout
        assert len(changed(ran.stdout)) == tasks, changed(ran.stdout)
    assert ask(host, "/operators/docs/zh-CN/")[::2] == (200, "<p>Redis</p>")
    assert ask(host, "/operators/docs/zh-CN/", VIEWER)[0] == 200
    assert ask(host, "/operators/docs/zh-CN/", "")[0] == 401


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
