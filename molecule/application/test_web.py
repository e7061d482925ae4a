import collections
import json
import sys

from helpers import APPLICATION_CURL, CURL, ROOT, main_process, secret, until

sys.path.insert(0, str(ROOT / "scripts"))
import figures

URL = "https://localhost:8000"


def test_readyz_names_every_check_and_the_release(host):
    answer = json.loads(host.check_output(f"{CURL} {URL}/readyz"))
    assert answer["status"] == "ok"
    assert {"database", "migrations", "broker", "cache"} <= answer["checks"].keys()
    assert answer["release"] == host.file("/opt/image-editor/current/REVISION").content_string.strip()


def test_only_clients_with_a_certificate_of_the_ca_can_connect(host):
    assert host.run(f"curl -sS --cacert /etc/ssl/certs/image-editor-ca.crt {URL}/healthz").rc != 0
    assert host.run("curl -sS http://localhost:8000/healthz").stdout == ""


def test_a_client_whose_certificate_has_another_name_is_refused(host):
    status = f"{APPLICATION_CURL} -o /dev/null -w '%{{http_code}}'"
    for path in ("/healthz", "/metrics", "/api/v1/edits"):
        assert host.check_output(f"{status} {URL}{path}") == "403", path
    upload = "-F image=@/etc/hostname -F prompt=greyscale"
    assert host.check_output(f"{status} {upload} {URL}/api/v1/edits") == "403"


def test_the_api_cannot_read_the_hosts_key(host):
    main = main_process(host, "image-editor-web")
    groups = host.check_output(f"grep ^Groups: /proc/{main}/status").split()[1:]
    assert host.check_output("getent group image-editor-application | cut -d: -f3") in groups
    assert host.check_output("getent group ssl-cert | cut -d: -f3") not in groups


def test_a_revoked_token_is_refused_in_time(host, api):
    """Clients use the token while it is revoked, six at a time, so that they reach every process. A process remembers it."""
    status, leaked = api("-H 'Content-Type: application/json' -d '{\"name\":\"leaked\"}' /api/v1/tokens")
    assert status == 201, leaked
    ask = f"{CURL} -o /dev/null -w '%{{http_code}}\\n' {URL}/api/v1"
    use = f"{ask}/edits -H 'Authorization: Bearer {leaked['token']}'"
    host.check_output(f"cat > /tmp/use.sh <<'EOF'\nwhile sleep 0.1; do echo $(date +%s.%N) $({use}); done\nEOF")
    revoke = f"{ask}/tokens/{leaked['id']} -X DELETE -H 'Authorization: Bearer {api.token}'"
    clients = "for i in 1 2 3 4 5 6; do timeout 14 sh /tmp/use.sh > /tmp/used.$i & done"
    status, at = host.check_output(f"{clients}; sleep 1; {revoke}; date +%s.%N; wait").split()
    assert status == "204"
    lines = host.check_output("cat /tmp/used.*").splitlines()
    answers = [(float(when) - float(at), status) for when, status in map(str.split, lines)]
    accepted = [when for when, status in answers if status == "200"]
    assert min(accepted) < 0 < max(accepted), "no process has remembered the token"
    assert {status for when, status in answers if when > 10} == {"401"}
    assert figures.record("token_revoked_seconds", max(accepted), "s", "<=10")["ok"]


def test_restarts_under_load_drop_no_request(host):
    """systemd holds the socket: requests every 20 ms succeed while the service restarts three times."""
    # A request may wait for all three restarts, so it has a minute.
    request = f"{CURL} --max-time 60 -o /dev/null -w '%{{http_code}}\\n' {URL}/healthz"
    load = f"for i in $(seq 150); do {request} & sleep 0.02; done; wait"
    host.check_output(f"cat > /tmp/load.sh <<'EOF'\n{load}\nEOF")
    host.check_output(
        "sh /tmp/load.sh > /tmp/load.codes 2> /tmp/load.errors & sleep 0.3;"
        " for i in 1 2 3; do systemctl restart image-editor-web.service; sleep 0.3; done; wait"
    )
    codes = collections.Counter(host.file("/tmp/load.codes").content_string.split())
    assert codes == {"200": 150}, host.file("/tmp/load.errors").content_string


def test_no_request_waits_for_a_restart(host):
    """The API needs 12 s to start here. Requests are answered meanwhile, by a service that is gone afterwards."""
    units = "/run/systemd/system/image-editor-web.service.d"
    slow = f"mkdir {units} && printf '[Service]\\nExecStartPre=/bin/sleep 12\\n' > {units}/slow.conf"
    host.check_output(f"{slow} && systemctl daemon-reload")
    try:
        timed = f"{CURL} --max-time 60 -o /dev/null -w '%{{http_code}} %{{time_total}}\\n' {URL}/healthz"
        load = f"for i in $(seq 120); do {timed} & sleep 0.1; done; wait $(jobs -p)"
        answers = host.check_output(f"systemctl restart image-editor-web & {load}").splitlines()
    finally:
        host.check_output(f"rm -r {units} && systemctl daemon-reload")
    assert [answer.split()[0] for answer in answers] == ["200"] * 120
    assert max(float(answer.split()[1]) for answer in answers) < 8
    services = "image-editor-web image-editor-web-handover"
    until("only the API runs", lambda: host.run(f"systemctl is-active {services}").stdout.split() == ["active", "inactive"], 60)
    host.check_output("systemctl stop image-editor-web.socket image-editor-web.service")
    try:
        assert host.run(f"systemctl is-active {services}").stdout.split() == ["inactive", "inactive"]
        assert host.run(f"{CURL} {URL}/healthz").rc == 7, "something still listens"  # curl: failed to connect
    finally:
        host.check_output("systemctl start image-editor-web.socket image-editor-web.service")


def test_a_restart_does_not_wait_for_a_client_that_waits(host, api):
    """It takes less time than the client wants to wait, because the wait ends with its process."""
    host.check_output("systemctl stop image-editor-worker@edit.service")
    try:
        edit = api.submit()
        # Every process has a place, also that of the handover service, so the answer comes from a process that stops.
        ask = f"{CURL} -N -w '\\n%{{time_total}}' -H 'Authorization: Bearer {api.token}' {URL}/api/v1/edits/{edit}/events"
        host.check_output(f"{ask} > /tmp/stream & sleep 3; systemctl restart image-editor-web.service; wait")
        *events, seconds = host.file("/tmp/stream").content_string.splitlines()
        assert "event: edit" in events
        assert 3 <= float(seconds) < 19, "the stream has lasted for its 20 s"
    finally:
        host.check_output("systemctl start image-editor-worker@edit.service")
    until("the edit has ended", lambda: api.ended(edit), 60)


def test_killed_processes_are_replaced(host):
    host.check_output("pkill -9 -o -u image-editor gunicorn")
    host.check_output(f"timeout 30 sh -c 'until {CURL} -sf -o /dev/null {URL}/healthz; do sleep 0.2; done'")


def test_without_the_database_the_api_is_alive_and_not_ready_and_says_why(host):
    host.check_output("systemctl stop postgresql@17-main")
    try:
        assert host.check_output(f"{CURL} -o /dev/null -w '%{{http_code}}' {URL}/healthz") == "200"
        answer = host.check_output(f"{CURL} -w '\\n%{{http_code}}' {URL}/readyz")
        body, status = answer.rsplit("\n", 1)
        assert status == "503"
        assert json.loads(body)["checks"]["database"].startswith("failed")
        assert secret("postgresql_password") not in body
    finally:
        host.check_output("systemctl start postgresql@17-main")
    host.check_output(f"timeout 30 sh -c 'until {CURL} -sf -o /dev/null {URL}/readyz; do sleep 0.2; done'")


def test_metrics_lose_no_count_with_a_killed_process(host):
    ask = f"{CURL} -f -w '\\n%{{time_total}}' {URL}/metrics"
    not_found = 'django_http_responses_total_by_status_view_method_total{method="GET",status="404",view="<unnamed view>"} '

    def scrape() -> tuple[float, float]:
        """Return the count, and the seconds of the scrape."""
        *lines, seconds = host.check_output(ask).splitlines()
        counted = [line.removeprefix(not_found) for line in lines if line.startswith(not_found)]
        return float(counted[0]) if counted else 0.0, float(seconds)

    before, _ = scrape()
    for kill in (False, True):
        if kill:
            main = main_process(host, "image-editor-web")
            host.check_output(f"pkill -9 -P {main}")
            host.check_output(f"timeout 30 sh -c 'until {CURL} -sf -o /dev/null {URL}/healthz; do sleep 0.2; done'")
        host.check_output(f"for i in $(seq 20); do {CURL} -o /dev/null {URL}/nothing/here; done")
    scrapes = [scrape() for _ in range(15)]
    assert {counted for counted, _ in scrapes} == {before + 40}, "a process does not report the counts of all processes"
    # The quickest of these scrapes, because other scenarios use the machine.
    assert figures.record("scrape_seconds", min(seconds for _, seconds in scrapes), "s", "<=0.05")["ok"]
    assert host.run(f"curl -sS --cacert /etc/ssl/certs/image-editor-ca.crt {URL}/metrics").rc != 0
