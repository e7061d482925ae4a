"""The edge as clients see it. The client is the controller, which reaches the hosts over the lab's network."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import helpers
import pytest
import requests
from helpers import ROOT, changed, playbook, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

CA = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca" / "ca.crt"
PROBLEM = "application/problem+json"


class Edge:
    """Requests to the edge from one client."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = requests.Session()
        self.session.verify = str(CA)
        self.session.trust_env = False

    def __call__(self, method: str, path: str, **kwargs: object) -> requests.Response:
        return self.session.request(method, f"https://{self.address}{path}", timeout=30, **kwargs)

    def many(self, method: str, path: str, count: int, **kwargs: object) -> list[int]:
        """Return the status codes of ``count`` requests over eight connections; 0 is a broken connection."""
        local = threading.local()

        def one(_: int) -> int:
            if not hasattr(local, "edge"):
                local.edge = Edge(self.address)
            try:
                return local.edge(method, path, **kwargs).status_code
            except requests.RequestException:
                return 0

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, range(count)))


@pytest.fixture(scope="session")
def address(on):
    return lambda name: helpers.address(on(name))


@pytest.fixture(scope="session")
def edge(address):
    return Edge(address("edge1"))


@pytest.fixture(scope="session")
def web(on):
    return on("web1")


@pytest.fixture
def healthy(edge, web):
    """Run both application hosts again after the test, and wait until nginx uses both."""
    yield
    web.check_output("systemctl kill --signal=CONT 'stand-in@*'; systemctl start stand-in@8001 stand-in@8002")
    seen = set()

    def all_seen():
        for method in ("GET", "POST"):
            answer = edge(method, "/")
            if answer.ok:
                seen.add((method, answer.json()["port"]))
        return len(seen) == 4

    until("both application hosts get GETs and POSTs", all_seen, 20)


def received(web, request_id):
    """Return how many requests with this id reached the application hosts."""
    return web.run("grep -c ' %s$' /var/lib/stand-in/requests", request_id).stdout.strip()


def assert_problem(answer, status, code):
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == PROBLEM
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# --- TLS and headers


def test_the_edge_shows_the_certificate_of_the_platform(edge):
    assert edge("GET", "/healthz").text == "edge: ok\n"
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://{edge.address}/healthz", timeout=5)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(edge, version):
    context = ssl.create_default_context(cafile=CA)
    context.set_ciphers("ALL@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection((edge.address, 443), 5) as connection, pytest.raises(ssl.SSLError) as refusal:
        context.wrap_socket(connection, server_hostname=edge.address)
    assert refusal.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION", "the client refused, not the edge"


def test_the_edge_supports_http2(edge):
    context = ssl.create_default_context(cafile=CA)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((edge.address, 443), 5) as connection:
        assert context.wrap_socket(connection, server_hostname=edge.address).selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("path", ["/", "/api/v1/edits", "/api/status/404", "/metrics"])
def test_responses_have_the_security_headers(edge, path):
    headers = edge("GET", path).headers
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY", "the application's header was not replaced"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Server"] == "nginx", "the version of nginx is shown"


def test_the_edge_answers_by_ipv6(on):
    """The certificate has no IPv6 address, so curl asks for the name, and takes the address from its option."""
    curl = "curl -sSf --cacert /etc/ssl/certs/image-editor-ca.crt --resolve 'localhost:443:[::1]'"
    assert on("edge1").check_output(f"{curl} https://localhost/healthz") == "edge: ok"


def test_only_the_edges_port_answers_from_outside(on, edge):
    for port in (80, 8088):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((edge.address, port), 5)
    assert "Active" in on("edge1").check_output("curl -sS http://127.0.0.1:8088/nginx_status")


# --- what the application receives


def test_address_headers_of_a_client_are_dropped(edge):
    claims = {
        "X-Forwarded-For": "6.6.6.6",
        "X_Forwarded_For": "6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Host": "evil.example",
    }
    seen = edge("GET", "/", headers=claims).json()["headers"]
    forwarded = {name: value for name, value in seen if "orward" in name or "Real" in name}
    assert forwarded.keys() == {"X-Forwarded-For", "X-Forwarded-Proto"}
    assert forwarded["X-Forwarded-Proto"] == "https"
    assert forwarded["X-Forwarded-For"] != "6.6.6.6"
    assert socket.inet_aton(forwarded["X-Forwarded-For"])


@pytest.mark.parametrize(("sent", "kept"), [("my-request-0001", True), ("short", False), ('x" injected="yes', False)])
def test_valid_request_id_is_kept_and_any_other_replaced(edge, sent, kept):
    answer = edge("GET", "/", headers={"X-Request-ID": sent})
    seen = dict(answer.json()["headers"])["X-Request-ID"]
    assert seen == answer.headers["X-Request-ID"]
    assert (seen == sent) is kept


@pytest.mark.parametrize(
    "path", ["/metrics", "/readyz", "/readyz/", "/metrics/", "/%6detrics", "/x/../metrics", "//metrics", "/tool/metrics"]
)
def test_internal_paths_answer_404(edge, path):
    request = requests.Request("GET", f"https://{edge.address}/").prepare()
    request.url = f"https://{edge.address}{path}"  # requests would normalise the path
    assert edge.session.send(request, verify=str(CA), timeout=30).status_code == 404


def test_other_services_answer_under_their_own_path(edge):
    assert edge("GET", "/tool/page?x=1").json()["path"] == "/tool/page?x=1"
    assert edge("POST", "/tool/page", data=b"x" * 2000).status_code == 413


def test_locations_of_the_environment_are_added(edge):
    """nginx_locations_extra adds to nginx_locations."""
    assert edge("GET", "/extra/page").json()["port"] == 8001
    assert edge("GET", "/extra/hidden").status_code == 404


def test_nginx_and_the_web_hosts_verify_each_others_certificate(edge, address):
    """The application refuses clients without a certificate of the CA, and the edge refuses such servers."""
    with pytest.raises(requests.exceptions.RequestException):
        requests.get(f"https://{address('web1')}:8001/", verify=str(CA), timeout=5)
    assert edge("GET", "/impostor/").status_code == 502


def test_connections_to_the_web_hosts_are_reused(edge):
    used = [tuple(map(edge("GET", "/").json().get, ("port", "connection"))) for _ in range(20)]
    assert len(set(used)) < 10


# --- limits


def test_40_mb_are_refused_and_20_mb_accepted(edge):
    refused = edge("POST", "/api/v1/edits", data=b"x" * 40_000_000)
    assert_problem(refused, 413, "too_large")
    assert "21MB" in refused.json()["detail"]
    accepted = edge("POST", "/api/v1/edits", data=b"x" * 20_971_520)
    assert accepted.json()["bytes"] == 20_971_520


def test_too_many_requests_are_refused_with_429(edge):
    codes = edge.many("GET", "/api/v1/edits", 200)
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 60, "the burst was refused"
    answers = [edge("GET", "/api/v1/edits") for _ in range(100)]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_problem(refused, 429, "rate_limited")
    assert refused.headers["Retry-After"] == "1"
    assert edge("GET", "/page").status_code == 200, "a request outside the API was limited"
    time.sleep(2)  # 20 requests are let in again: the uploads of a later test come at once
    assert edge("GET", "/api/v1/edits").status_code == 200


def test_password_guesses_are_limited(edge):
    answers = [edge("POST", "/admin/login/") for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
    assert answers[-1].text == "More than 10 sign-ins/m came from your address. Try again in 60 s.\n"
    assert answers[-1].headers["Retry-After"] == "60"
    assert edge("GET", "/admin/login/").status_code == 200


def test_requests_with_a_password_are_limited(edge):
    """A sign-in with a password of both kinds counts as a sign-in, also after the burst of 300."""
    password = {"Authorization": "Basic dXNlcjpndWVzcw=="}
    assert set(edge.many("GET", "/page", 400, headers=password)) == {200, 429}
    refused = next(answer for _ in range(50) if (answer := edge("GET", "/page", headers=password)).status_code == 429)
    assert refused.text == "More than 10 requests/s with a password came from your address. Try again in 1 s.\n"
    assert refused.headers["Retry-After"] == "1"
    assert edge("GET", "/page").status_code == 200, "a request without a password was limited"
    answers = [edge("POST", "/login/", headers=password) for _ in range(10)]
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert {answer.text for answer in answers if answer.status_code == 429} == {
        "More than 10 sign-ins/m came from your address. Try again in 60 s.\n"
    }


def stalled_upload(edge):
    """Return the connection of a POST that nginx has let in, and whose body does not arrive."""
    context = ssl.create_default_context(cafile=CA)
    connection = context.wrap_socket(socket.create_connection((edge.address, 443), 20), server_hostname=edge.address)
    connection.sendall(b"POST /api/v1/edits HTTP/1.1\r\nHost: edge\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    return connection


def test_uploads_at_once_are_limited_and_a_stalled_upload_is_cut_off(edge):
    """12 uploads at once, and 5 s between two parts of a body (converge.yml)."""
    stalled = [stalled_upload(edge) for _ in range(12)]
    started = time.monotonic()
    assert_problem(edge("POST", "/api/v1/edits", data=b"edit"), 429, "rate_limited")
    refused = edge("POST", "/page", data=b"edit")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert refused.text == "More than 12 uploads at once came from your address. Try again in 1 s.\n"
    assert edge("GET", "/page").status_code == 200, "a request without a body was limited"
    assert {connection.recv(1) for connection in stalled} == {b""}, "a stalled upload was answered"
    assert 3 < time.monotonic() - started < 15
    assert edge("POST", "/api/v1/edits", data=b"edit").status_code == 200
    for connection in stalled:
        connection.close()


# --- language


@pytest.mark.parametrize("wanted", ["zh-CN,zh;q=0.9,en;q=0.8", "zh-TW", "ZH", "de-AT, zh;q=0.5"])
def test_a_client_that_wants_chinese_gets_a_chinese_problem(edge, wanted):
    answer = edge("PUT", "/media/results/1.jpg", headers={"Accept-Language": wanted})
    assert_problem(answer, 405, "method_not_allowed")
    assert (answer.json()["title"], answer.json()["detail"]) == ("Method not allowed", "请使用 GET 或 HEAD")


@pytest.mark.parametrize("wanted", ["en-US,en;q=0.9,zh;q=0.8", "de, en;q=0.5, zh;q=0.4", "fr", "*", "zhx", "x" * 5000, None])
def test_any_other_client_gets_an_english_problem(edge, wanted):
    answer = edge("PUT", "/media/results/1.jpg", headers={"Accept-Language": wanted})
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.json()["detail"] == "use GET or HEAD here"


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("path", "size", "status", "code", "words"),
    [
        ("/api/v1/edits", 40_000_000, 413, "too_large", "21MB：请发送更小的图片"),
        ("/api/hangup", 4, 502, "bad_gateway", "没有应用主机应答"),
        ("/api/slow", 4, 504, "timeout", "应用处理时间过长"),
    ],
)
def test_every_problem_of_the_api_is_chinese(edge, path, size, status, code, words):
    answer = edge("POST", path, data=b"x" * size, headers={"Accept-Language": "zh-CN"})
    assert_problem(answer, status, code)
    assert words in answer.json()["detail"]


# --- failover


def during(action, edge, method, path, count, **kwargs):
    """Run ``action`` during ``count`` requests; return the status codes."""
    with ThreadPoolExecutor(1) as pool:
        codes = edge.many(method, path, count // 4, **kwargs)
        running = pool.submit(action)
        codes += edge.many(method, path, count - count // 4, **kwargs)
        running.result()
    return codes


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("signal", ["KILL", "STOP"], ids=["killed", "frozen"])
def test_a_lost_web_host_fails_no_get(edge, web, signal):
    codes = during(lambda: web.check_output(f"systemctl kill --signal={signal} stand-in@8001"), edge, "GET", "/page", 400)
    assert codes == [200] * 400


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("command", ["stop stand-in@8001", "kill --signal=STOP stand-in@8001"], ids=["down", "frozen"])
def test_a_post_arrives_exactly_once_while_a_host_is_lost(edge, web, command):
    web.check_output(f"systemctl {command}")
    for _ in range(12):
        request_id = uuid.uuid4().hex
        answer = edge("POST", "/api/v1/edits", data=b"edit", headers={"X-Request-ID": request_id})
        assert (answer.status_code, answer.json()["port"]) == (200, 8002)
        assert received(web, request_id) == "1"


@pytest.mark.usefixtures("healthy")
def test_a_post_whose_answer_was_lost_is_not_repeated(edge, web):
    posted, got = uuid.uuid4().hex, uuid.uuid4().hex
    assert_problem(edge("POST", "/api/hangup", data=b"edit", headers={"X-Request-ID": posted}), 502, "bad_gateway")
    assert received(web, posted) == "1"
    edge("GET", "/api/hangup", headers={"X-Request-ID": got})
    assert int(received(web, got)) > 1, "the GET was not repeated"


@pytest.mark.usefixtures("healthy")
def test_no_request_fails_if_one_host_is_lost_just_after_the_other_recovered(edge, web):
    """Both hosts have failed recently, as in a rolling restart, but one of them works."""
    web.check_output("systemctl stop stand-in@8001")
    assert edge.many("GET", "/page", 40) == [200] * 40
    web.check_output("systemctl start stand-in@8001")
    until("port 8001 is open again", lambda: web.run("ss -Hltn sport = :8001").stdout, 5)
    web.check_output("systemctl stop stand-in@8002")
    for method in ("GET", "POST"):
        assert edge.many(method, "/page", 40) == [200] * 40


@pytest.mark.usefixtures("healthy")
def test_a_spare_server_is_used_only_while_the_first_server_does_not_answer(edge, web):
    assert {edge("GET", "/pair/").json()["port"] for _ in range(20)} == {8001}
    web.check_output("systemctl stop stand-in@8001")
    assert edge("GET", "/pair/").json()["port"] == 8002
    web.check_output("systemctl start stand-in@8001")
    until("the first server is used again", lambda: edge("GET", "/pair/").json()["port"] == 8001, 10)


@pytest.mark.usefixtures("healthy")
def test_without_any_web_host_requests_answer_502_and_the_edge_stays_healthy(edge, web):
    web.check_output("systemctl stop stand-in@8001 stand-in@8002")
    for method in ("GET", "POST"):
        answer = edge(method, "/api/v1/edits")
        assert_problem(answer, 502, "bad_gateway")
        assert answer.headers["Retry-After"] == "5"
    assert edge("GET", "/healthz").text == "edge: ok\n"


@pytest.mark.usefixtures("healthy")
def test_a_slow_response_answers_504_and_is_not_repeated(edge, web):
    request_id = uuid.uuid4().hex
    assert_problem(edge("POST", "/api/slow", headers={"X-Request-ID": request_id}), 504, "timeout")
    assert received(web, request_id) == "1"


@pytest.mark.usefixtures("healthy")
def test_a_request_that_no_web_host_takes_in_time_answers_503(edge, web):
    web.check_output("systemctl restart stand-in@8001 stand-in@8002")  # frozen, a pooled connection would take a GET
    until("both listen", lambda: web.run("ss -Hltn '( sport = 8001 or sport = 8002 )'").stdout.count("LISTEN") == 2, 20)
    web.check_output("systemctl kill --signal=STOP stand-in@8001 stand-in@8002")
    for method in ("GET", "POST"):
        answer = edge(method, "/api/v1/edits")
        assert_problem(answer, 503, "unavailable")
        assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize("path", ["/api/v1/edits/1/events", "/api/v1/batches/1/events"])
def test_events_arrive_one_by_one_although_the_stream_is_silent_in_between(edge, path):
    """The two events are 4 s apart. After 2 s of silence, nginx ends any other request (converge.yml)."""
    with edge.session.get(f"https://{edge.address}{path}", stream=True, timeout=30) as answer:
        came = [(event, time.monotonic()) for event in answer.iter_content(chunk_size=None)]
    assert [event for event, _ in came] == [b"data: 1\n\n"] * 2
    assert came[1][1] - came[0][1] > 3, "the first event was held back"


@pytest.mark.usefixtures("healthy")
def test_errors_of_the_application_are_passed_on(edge):
    for status in (422, 500, 503):
        answer = edge("GET", f"/api/status/{status}")
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.usefixtures("healthy")
def test_a_503_of_every_web_host_stays_a_503_and_other_requests_go_on(edge):
    """As while the database changes over. After two such answers, nginx counts the host as failed."""
    for _ in range(10):
        answer = edge("GET", "/api/status/503")
        assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/json")
        assert edge("GET", "/page").status_code == 200


def test_a_reload_fails_no_request(on, edge):
    """Each request has its own connection: a client with an open connection may lose it between two requests."""
    codes = during(
        lambda: on("edge1").check_output("systemctl reload nginx"),
        edge,
        "GET",
        "/page",
        160,
        headers={"Connection": "close"},
    )
    assert codes == [200] * 160


def test_files_of_the_operators_own_are_served(on, edge):
    """The next run without these paths serves the platform's certificate again."""
    own = {"nginx_certificate_path": "/etc/ssl/certs/own.crt", "nginx_private_key_path": "/etc/ssl/private/own.key"}
    on("edge1").check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=own -keyout %s -out %s 2>&1",
        own["nginx_private_key_path"],
        own["nginx_certificate_path"],
    )
    for variables in (own, {}):
        ran = playbook("molecule/nginx/converge.yml", "-e", json.dumps(variables))
        assert ran.returncode == 0, ran.stdout
        path = variables.get("nginx_certificate_path", "/etc/ssl/certs/image-editor.crt")
        assert ssl.get_server_certificate((edge.address, 443)).strip() in on("edge1").file(path).content_string


def test_a_killed_nginx_restarts(on, edge):
    def main():
        return on("edge1").check_output("systemctl show -P MainPID nginx")

    killed = main()
    on("edge1").check_output("systemctl kill --kill-whom=main --signal=KILL nginx")
    # Workers answer for a moment without their main process, so wait for the new main process.
    until("nginx has a new main process", lambda: main() not in (killed, "0"), 10)

    def answers():
        with contextlib.suppress(requests.RequestException):
            return Edge(edge.address)("GET", "/healthz").ok

    until("nginx is back", answers, 10)


# --- hardening


def test_nginx_runs_hardened(on, edge):
    """The main process has few capabilities, the workers have none, and neither can write the system."""
    edge1 = on("edge1")
    main = edge1.check_output("systemctl show -P MainPID nginx")
    status = edge1.file(f"/proc/{main}/status").content_string
    assert "NoNewPrivs:\t1" in status
    # CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, NET_BIND_SERVICE: bits 0, 1, 5, 6, 7 and 10
    assert "CapBnd:\t00000000000004e3" in status
    worker = edge1.check_output(f"pgrep --parent {main} | head -1")
    status = edge1.file(f"/proc/{worker}/status").content_string
    assert "CapEff:\t0000000000000000" in status
    assert edge1.run(f"nsenter -t {main} -m touch /etc/touched").rc != 0

    report = edge1.check_output("systemd-analyze security --no-pager nginx.service")
    exposure = float(re.search(r"Overall exposure level for nginx.service: ([\d.]+)", report)[1])
    assert figures.record("nginx_exposure", exposure, "of 10", "<=4")["ok"], report


def test_nginx_reopens_rotated_logs(on, edge):
    """Rename the log, then tell nginx, as logrotate does. nginx's main process creates a log that its workers can write."""
    edge1 = on("edge1")
    edge1.check_output("mv /var/log/nginx/access.log /var/log/nginx/access.log.1")
    edge1.check_output("/etc/init.d/nginx rotate")
    request_id = f"rotated-{uuid.uuid4().hex}"
    log = edge1.file("/var/log/nginx/access.log")
    until("the new access log belongs to the workers", lambda: log.exists and log.user == "www-data", 10)
    assert edge("GET", "/page", headers={"X-Request-ID": request_id}).ok
    until("the new access log has the request", lambda: request_id in log.content_string, 10)


# --- media


def test_signed_urls_reach_the_media_host_unchanged(edge):
    assert edge("GET", "/media/results/a%20b.jpg?md5=x&expires=1").json()["path"] == "/media/results/a%20b.jpg?md5=x&expires=1"
    for method in ("PUT", "DELETE", "POST"):
        answer = edge(method, "/media/results/1.jpg")
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.usefixtures("healthy")
def test_no_credential_is_logged(on, edge, web):
    signature, token = uuid.uuid4().hex, uuid.uuid4().hex
    path, headers = (
        f"/media/results/1.jpg?md5={signature}",
        {"Authorization": f"Bearer {token}", "Referer": f"https://x/?{signature}"},
    )
    assert edge("GET", path, headers=headers).status_code == 200
    web.check_output("systemctl stop stand-in@8001")
    assert_problem(edge("GET", path, headers=headers), 502, "bad_gateway")
    time.sleep(0.2)
    log = [json.loads(line) for line in on("edge1").file("/var/log/nginx/access.log").content_string.splitlines()]
    assert [line["status"] for line in log if line["path"] == "/media/results/1.jpg"][-2:] == [200, 502]
    assert on("edge1").run("grep -rE '%s|%s' /var/log/nginx", signature, token).stdout == ""


# --- the role itself


PROXY = b"PROXY TCP4 203.0.113.9 192.0.2.1 5000 443\r\n"  # what a load balancer says before the TLS handshake


def heard(edge, said=b""):
    """Return the client's address as the application hears it, or nothing if the edge refuses what the connection begins with."""
    context = ssl.create_default_context(cafile=CA)
    try:
        with socket.create_connection((edge.address, 443), 5) as connection:
            connection.sendall(said)
            with context.wrap_socket(connection, server_hostname=edge.address) as tls:
                tls.sendall(f"GET / HTTP/1.0\r\nHost: {edge.address}\r\n\r\n".encode())
                answer = b"".join(iter(lambda: tls.recv(65536), b""))
    except OSError:
        return ""
    return dict(json.loads(answer.partition(b"\r\n\r\n")[2])["headers"])["X-Forwarded-For"]


def test_only_a_known_load_balancer_tells_the_client_by_the_proxy_protocol(edge, on):
    """Programs of the host need no PROXY protocol: the check of keepalived is one."""

    def converge(*networks):
        variables = json.dumps({"nginx_proxy_protocol_from": networks})
        run = playbook("molecule/nginx/converge.yml", "--limit", "edge1", "-e", variables)
        assert run.returncode == 0, run.stdout

    controller = heard(edge)
    assert controller
    assert heard(edge, PROXY) == ""
    try:
        converge("192.0.2.0/24")
        until("the protocol is read, and not believed", lambda: heard(edge, PROXY) == controller, 20)
        assert heard(edge) == ""
        on("edge1").check_output("curl -sSfk https://127.0.0.1/healthz")
        converge(f"{controller}/32")
        until("the protocol is believed", lambda: heard(edge, PROXY) == "203.0.113.9", 20)
    finally:
        converge()
    until("the edge serves clients again", lambda: heard(edge) == controller, 20)


def test_check_mode_works_on_a_fresh_and_on_a_live_host(monkeypatch):
    monkeypatch.setenv("ANSIBLE_FORCE_COLOR", "false")
    run = playbook("molecule/nginx/converge.yml", "--check", "--diff")
    assert run.returncode == 0, run.stdout
    assert re.search(r"^edge1 .*changed=0 ", run.stdout, re.MULTILINE), run.stdout
    found, installed = changed(run.stdout)  # on web1; check mode ends there, because nginx is missing
    assert "Ask dpkg whether packages are missing" in found
    assert "Install the packages nginx" in installed
