"""The whole platform on twelve hosts, as clients and operators use it."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import pytest
import requests
from helpers import PHOTO, REPEAT, ROOT, SOAK, changed, container, in_soak, playbook, secret, until
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

URL = f"https://localhost:{os.environ['LAB_EDGE_PORT']}"
EDGES = ("edge1", "edge2")
HOSTS = (*EDGES, "web1", "web2", "worker1", "worker2", "db1", "db2", "redis1", "redis2", "monitor1", "monitor2")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the report of playbooks/smoke.yml."""
    path = tmp_path_factory.mktemp("smoke") / "report"
    result = playbook("playbooks/smoke.yml", "-e", f"smoke_report={path}")
    assert result.returncode == 0, result.stdout[-3000:]
    return path.read_text()


@pytest.fixture(scope="module")
def session(report):
    """Return a client with the token of the user smoke. playbooks/smoke.yml has created the user."""
    client = requests.Session()
    # The edge answers 429 to more than 30 requests a second from one address. A fast machine sends more.
    client.mount(
        "https://", HTTPAdapter(max_retries=Retry(total=8, status_forcelist=[429], allowed_methods=None, backoff_factor=0.1))
    )
    client.trust_env = False
    client.verify = str(ROOT / "secrets" / os.environ["LAB_NAME"] / "ca/ca.crt")
    client.headers["Authorization"] = f"Bearer {secret('smoke_token')}"
    return client


def submit(session, prompt="greyscale", content=None, **fields):
    """POST an edit of ``content`` (default: the photograph); return the answer."""
    files = {"image": ("photo.jpg", PHOTO.read_bytes() if content is None else content)}
    return session.post(f"{URL}/api/v1/edits", files=files, data={"prompt": prompt, **fields}, timeout=60)


def finished(session, answer, seconds=60):
    """Wait until the accepted edit has ended; return it."""
    assert answer.status_code == 202, answer.text
    status_url = URL + answer.json()["status_url"]

    def poll():
        edit = session.get(status_url, timeout=20).json()
        return edit if edit["status"] in ("succeeded", "failed") else None

    return until("the edit has ended", poll, seconds)


def test_smoke_tests_every_part_and_ends_with_its_verdict(report):
    """The smoke test tried every part, and its last line is the verdict."""
    for part in ("private addresses refused", "batch of 10 edited", "callback received, its signature verified"):
        assert part in report
    assert re.fullmatch(r"smoke: ok edit=[0-9a-f-]{36} seconds=[0-9.]+", report.splitlines()[-1]), report


def test_smoke_names_the_layer_that_fails(session, on):
    """One edge without nginx would not be enough: the other edge would take the address over."""
    for edge in EDGES:
        on(edge).check_output("systemctl stop nginx")
    try:
        result = subprocess.run(
            [sys.executable, ROOT / "scripts/smoke.py", "--url", URL, "--ca", session.verify, "--photo", PHOTO],
            env={**os.environ, "SMOKE_TOKEN": "x"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert result.stdout.splitlines()[-1].startswith("smoke: failed layer=edge: ")
    finally:
        for edge in EDGES:
            on(edge).check_output("systemctl start nginx")
    held = "ip -4 -oneline address show scope global | grep -q '/32 '"
    until("an edge holds the address again", lambda: any(on(edge).run(held).rc == 0 for edge in EDGES))


def test_a_chinese_prompt_with_two_operations_succeeds(session):
    edit = finished(session, submit(session, "黑白，旋转90度"))
    assert edit["status"] == "succeeded", edit


def test_events_of_an_edit_arrive_through_the_edge_while_it_runs(session, on):
    """The first event is there before any worker runs, so nothing on the way holds it back."""
    workers = [on(name) for name in ("worker1", "worker2")]
    states = []

    def tell(what):
        for worker in workers:
            worker.check_output(f"systemctl {what} image-editor-worker@edit")

    def watch():
        """Read a stream to its end, as EventSource does. It lasts 20 s at most."""
        with session.get(f"{URL}{edit['status_url']}/events", stream=True, timeout=30) as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            for line in stream.iter_lines(chunk_size=1):
                if line.startswith(b"data: "):
                    if not states:
                        tell("start")
                    states.append(json.loads(line.removeprefix(b"data: "))["status"])
        return states[-1] == "succeeded"

    tell("stop")
    try:
        edit = submit(session).json()
        until("an event says that the edit has succeeded", watch, 90)
    finally:
        tell("start")
    assert states[0] == "queued"


def png(width, height):
    """Return a PNG that claims width x height pixels but has the data of four rows at most."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    row = b"\0" + b"\0" * width * 3
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * min(height, 4))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "prompt", "statuses"),
    [
        pytest.param(b"this is not an image", "greyscale", {415, 422}, id="not an image"),
        pytest.param(PHOTO.read_bytes()[:20_000], "greyscale", {422}, id="truncated"),
        pytest.param(png(300, 1), "greyscale", {422}, id="one pixel high"),
        pytest.param(png(10_000, 10_000), "greyscale", {413, 422}, id="100 megapixels"),
        pytest.param(os.urandom(40 * 2**20), "greyscale", {413}, id="40 MB"),
        pytest.param(None, "make it look like a Rembrandt", {422}, id="unknown prompt"),
    ],
)
def test_bad_input_is_refused_with_what_to_change(session, content, prompt, statuses):
    answer = submit(session, prompt, content)
    assert answer.status_code in statuses, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert len(problem["detail"]) > 10


def test_a_request_without_a_token_is_refused_with_a_problem_document(session):
    answer = requests.get(f"{URL}/api/v1/edits/{'0' * 8}-0000-4000-8000-{'0' * 12}", verify=session.verify, timeout=10)
    assert answer.status_code == 401
    assert answer.headers["Content-Type"].startswith("application/problem+json")


def test_workers_still_process_edits_after_bad_input(session):
    assert finished(session, submit(session))["status"] == "succeeded"


def test_the_memory_of_workers_does_not_grow_with_the_number_of_edits(session, on):
    """Many edits do not increase the memory of warm edit workers."""

    def edits(count):
        with ThreadPoolExecutor(4) as pool:
            ended = list(pool.map(lambda _: finished(session, submit(session, "sepia, blur"), 120), range(count)))
        assert {edit["status"] for edit in ended} == {"succeeded"}

    def largest():
        """Return the resident memory of the largest worker process, in MiB."""
        resident = [on(name).check_output("ps -u image-editor -o rss=").split() for name in ("worker1", "worker2")]
        return max(map(int, resident[0] + resident[1])) / 1024

    edits(24)
    warm = largest()
    edits(40 * REPEAT**2)
    grown = largest() - warm
    assert grown < 40, f"the largest worker process has {grown:.0f} MiB more than {warm:.0f} MiB after {40 * REPEAT**2} edits"


def test_every_host_runs_the_same_release(session, on):
    ids = {on(name).check_output("readlink /opt/image-editor/current") for name in ("web1", "web2", "worker1", "worker2")}
    assert len(ids) == 1
    answer = session.get(f"{URL}/api/v1/openapi.json", timeout=10)
    assert f"releases/{answer.headers['X-Release']}" in ids


def test_hosts_listen_only_on_expected_ports(on):
    """Each host listens on the network only on the expected ports."""
    wanted = {
        "edge1": {443}, "edge2": {443}, "web1": {8000}, "web2": {8000},
        "worker1": {9810, 9811, 9812, 9819, 9820}, "worker2": {9810, 9811, 9812, 9819, 9820},
        "db1": {5432, 8008}, "db2": {5432, 8008},
        "redis1": {6380, 26379}, "redis2": {6380, 26379}, "monitor1": {8443, 8444, 9094, 26379}, "monitor2": {8443, 8444, 9094},
    }  # fmt: skip
    # Ports for Prometheus, which need a client certificate.
    exported = {
        "edge1": {9113}, "edge2": {9113}, "web1": {9101}, "web2": {9101}, "worker1": {9101}, "worker2": {9101},
        "db1": {9187}, "db2": {9187}, "redis1": {9121}, "redis2": {9121},
        "monitor1": {9101, 9113, 9121}, "monitor2": {9101, 9113},
    }  # fmt: skip
    # These need a client certificate, too: backups, and etcd with its metrics.
    mutual = {"db1": {8432}, "db2": {8432}, "monitor1": {8432, 8433}}
    etcd = {name: {2379, 2380, 2381} for name in ("redis1", "redis2", "monitor2")}
    wanted = {
        name: ports | exported[name] | mutual.get(name, set()) | etcd.get(name, set()) | {9100} for name, ports in wanted.items()
    }

    def found():
        lines = {name: on(name).check_output("ss --no-header --listening --tcp --numeric").splitlines() for name in HOSTS}
        addresses = {name: [line.split()[3] for line in listening] for name, listening in lines.items()}
        return {
            name: {int(address.rsplit(":", 1)[1]) for address in listening if not address.startswith(("127.", "[::1]"))}
            for name, listening in addresses.items()
        }

    # A worker that an earlier test restarted needs time until it listens.
    until("the lost host's workers listen again", lambda: found()["worker2"] >= wanted["worker2"], 60)
    assert found() == wanted


def test_only_operators_reach_the_operators_services(session):
    """The edge asks for the operators' account. Paths that a service serves without a password answer 404."""

    def ask(path, *account):
        return requests.get(f"{URL}{path}", auth=account or None, verify=session.verify, timeout=20)

    account = ("operator", secret("operator_password"))
    for path, shows in (("/operators/", "Scrape targets"), ("/flower/", "batch@worker2")):
        assert ask(path, "operator", "wrong").status_code == 401
        assert shows in ask(path.rstrip("/"), *account).text, "the redirect did not keep the port"
    for path in set(re.findall(r'href="(/[^"]*)"', ask("/operators/", *account).text)) - {
        "/grafana/"
    }:  # Grafana may not be installed
        answer = ask(path)
        assert (ask(path, *account) if answer.status_code == 401 else answer).status_code == 200, path
    ready = ask("/operators/readyz/", *account)
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    for path in ("/metrics", "/readyz", "/flower/metrics", "/flower/healthcheck"):
        assert ask(path, *account).status_code == 404


OPERATORS_PAGES = (
    "/operators/",
    "/flower/",
    "/prometheus/classic/graph",
    "/prometheus/consoles/index.html",
    "/alertmanager/",
    "/grafana/",
)


def test_every_operators_page_and_its_files_need_the_password(session):
    """The files are those that the pages name. Grafana may not be installed; its page needs the password nevertheless.

    Alertmanager's page names its reload, which the edge has for nobody.
    """
    account = ("operator", secret("operator_password"))

    def ask(path, auth=None):
        return requests.get(f"{URL}{path}", auth=auth, verify=session.verify, timeout=30)

    paths = {"/operators/readyz/", "/grafana/login", *OPERATORS_PAGES}
    for page in OPERATORS_PAGES:
        root = f"/{page.split('/')[1]}/"
        named = [urljoin(page, name) for name in re.findall(r'(?:src|href)="([^"#?]+)', ask(page, account).text)]
        paths |= {path for path in named if path.startswith(root)}
    assert len(paths) > 20, paths
    with ThreadPoolExecutor(8) as pool:  # each refusal takes a second
        statuses = dict(zip(paths, pool.map(lambda path: ask(path).status_code, paths), strict=True))
    assert {path: status for path, status in statuses.items() if status != 401} == {"/alertmanager/-/reload": 404}


def test_a_page_of_another_site_neither_silences_nor_reloads_alertmanager(session):
    def post(path, site):
        options = {"auth": ("operator", secret("operator_password")), "verify": session.verify, "timeout": 20}
        return requests.post(f"{URL}/alertmanager/{path}", json={}, headers={"Sec-Fetch-Site": site}, **options).status_code

    assert post("api/v2/silences", "cross-site") == 403
    assert post("api/v2/silences", "same-origin") in (400, 422), "Alertmanager itself refuses an empty silence"
    assert {post("-/reload", site) for site in ("cross-site", "same-origin")} == {404}


def test_no_host_has_a_failed_unit(on):
    failed = {name: on(name).check_output("systemctl list-units --failed --plain --no-legend") for name in HOSTS}
    assert not any(failed.values()), failed


@in_soak
def test_a_limited_run_with_an_empty_facts_cache_changes_nothing(tmp_path, monkeypatch):
    """A limited run gathers the facts of hosts outside it, for one layer and, in the soak, for the whole platform."""
    for name, limit in (("edge", "edge1"), *([("site", "web1")] if SOAK else [])):
        monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN_CONNECTION", str(tmp_path / name))
        result = playbook(f"playbooks/{name}.yml", "--limit", limit)
        assert result.returncode == 0, result.stdout[-3000:]
        assert not changed(result.stdout)
        assert list((tmp_path / name).glob("*monitor1")), "the facts of a host outside the run were gathered"


@in_soak
def test_a_host_that_is_declared_down_is_left_out_and_named(on, tmp_path, monkeypatch):
    """The run deploys the other hosts. No host uses the missing host until it is back."""
    *layers, last = [f"playbooks/{name}.yml" for name in ("preflight", "database", "application", "prometheus", "edge")]
    upstreams = "nginx -T 2>/dev/null | grep -c ':8000'"
    both = on("edge1").run(upstreams).stdout
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN_CONNECTION", str(tmp_path))
    subprocess.run(["docker", "stop", "-t", "60", container("web2")], check=True, capture_output=True)
    try:
        result = playbook(last, "-e", "platform_down=web2", *layers)
        assert result.returncode == 0, result.stdout[-3000:]
        hosts = {host for task in changed(result.stdout) for host in re.findall(r"^changed: \[(\w+)", task, re.MULTILINE)}
        named = {*EDGES, "db1", "db2", "monitor1", "monitor2"}
        assert hosts == named, "only edges, databases and Prometheus name the missing host"
        end = result.stdout.rpartition("PLAY RECAP")[2]
        assert re.search(r"declared_down.*web2", end), end
        assert not re.search(r"^web2 ", end, re.MULTILINE), end
        assert on("edge1").run(upstreams).stdout != both
    finally:
        subprocess.run(["docker", "start", container("web2")], check=True, capture_output=True)
    until("web2 is back", lambda: on("web2").run("systemctl is-active image-editor-web.service").stdout.strip() == "active", 60)
    result = playbook("playbooks/edge.yml", "playbooks/database.yml", "playbooks/prometheus.yml")
    assert result.returncode == 0, result.stdout[-3000:]
    assert on("edge1").run(upstreams).stdout == both


@in_soak  # scenario single_host has the same test
def test_check_mode_on_the_live_platform_finds_nothing_to_change():
    """One host of each kind is enough."""
    result = playbook("playbooks/site.yml", "--check", "--diff", "--limit", "all:!web2:!worker2")
    assert result.returncode == 0, result.stdout[-3000:]
    assert not changed(result.stdout)


def test_secrets_are_in_no_journal_and_on_no_command_line(on):
    secrets = [path.read_text().strip() for path in (ROOT / "secrets" / os.environ["LAB_NAME"]).iterdir() if path.is_file()]
    for name in HOSTS:
        host = on(name)
        seen = host.check_output("journalctl --no-pager -o cat; ps -eo args")
        assert not [value for value in secrets if value in seen], f"a secret shows on {name}"


def test_status_prints_units_versions_and_the_release(session, tmp_path):
    started = time.monotonic()
    report = tmp_path / "status.json"
    result = playbook("playbooks/status.yml", "-e", f"status_report={report}")
    assert result.returncode == 0, result.stdout[-3000:]
    shown = subprocess.run([sys.executable, ROOT / "scripts/status.py", report], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout
    release = session.get(f"{URL}/api/v1/openapi.json", timeout=10).headers["X-Release"]
    assert re.search(
        rf"^web1 .*\n(?: +.*\n)*? +image-editor-web +active \(running\) +release {release}$", shown.stdout, re.MULTILINE
    )
    assert re.search(r"^db1 .*\n(?: +.*\n)*? +patroni +active \(running\) +4", shown.stdout, re.MULTILINE)
    assert re.search(r"redis-server +active \(running\) +\S+, primary, 1 replica$", shown.stdout, re.MULTILINE)
    environment, released, scheduler, failed = shown.stdout.splitlines()[-4:]
    assert environment.endswith(", 12 of 12 hosts answer")
    assert time.monotonic() - started < 60
    assert released == f"release      {release}"
    assert scheduler in ("scheduler    worker1", "scheduler    worker2")
    assert failed == "failed       nothing"
