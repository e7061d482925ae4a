"""The store as the application and the edge see it. The client is the controller, over the lab's network."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import ssl
import subprocess
import threading
import time

import helpers
import pytest
import requests
from helpers import PHOTO, ROOT, playbook, secret

CA = ROOT / "secrets" / os.environ["LAB_NAME"] / "ca" / "ca.crt"
IMAGE = PHOTO.read_bytes()
ROOT_DIRECTORY = "/var/lib/image-editor-media"


EARLIER = "the-earlier-key-of-this-scenario-0123456789"  # also in converge.yml


def key_name(key: str) -> str:
    """The name of a key in the URLs that it signs."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def signed(name: str, expires: int | None = None, key: str | None = None) -> str:
    """Return the path of a signed URL without the key's name, as earlier releases of the application compute it."""
    expires = int(time.time()) + 60 if expires is None else expires
    text = f"{expires}/media/{name} {key or secret('media_signing_key')}"
    digest = base64.urlsafe_b64encode(hashlib.md5(text.encode()).digest()).rstrip(b"=").decode()
    return f"/media/{name}?md5={digest}&expires={expires}"


class Store:
    """Requests to the store; ``certificate`` holds the client certificate and its key, if any."""

    def __init__(self, address: str, certificate: str | None) -> None:
        self.address, self.certificate = address, certificate
        self.session = requests.Session()
        self.session.cert = certificate
        self.session.verify = str(CA)
        self.session.trust_env = False

    def __call__(self, method: str, path: str, **kwargs: object) -> requests.Response:
        request = self.session.prepare_request(requests.Request(method, f"https://{self.address}:8443/", **kwargs))
        request.url = f"https://{self.address}:8443{path}"  # requests would normalise the path
        return self.session.send(request, verify=str(CA), timeout=30)


@pytest.fixture(scope="session")
def media(on):
    return on("media1")


@pytest.fixture(scope="session")
def address(media):
    return helpers.address(media)


@pytest.fixture(scope="session")
def certificate_of(on, tmp_path_factory):
    """Return a function: the path of a copy of the host's certificate and key."""

    def copy(name: str) -> str:
        path = tmp_path_factory.mktemp("certificates") / f"{name}.pem"
        path.touch(0o600)
        path.write_text(on(name).check_output("cat /etc/ssl/certs/image-editor.crt /etc/ssl/private/image-editor.key"))
        return str(path)

    return copy


@pytest.fixture(scope="session")
def store(address, certificate_of):
    return Store(address, certificate_of("media1"))


@pytest.fixture(scope="session")
def anybody(address):
    return Store(address, None)


@pytest.fixture(scope="session")
def other_host(address, certificate_of):
    return Store(address, certificate_of("fresh1"))


@pytest.fixture(scope="session")
def second(on, certificate_of):
    """The second media host. Most tests use the first one alone."""
    return Store(on("media2").check_output("hostname -I").split()[0], certificate_of("media1"))


@pytest.fixture(scope="session")
def at_edge(store):
    """Return a function: the edge's answer for a file. The edge knows both media hosts."""
    return lambda name: store.session.get(f"https://{store.address}{signed(name)}", timeout=30)


@pytest.fixture
def stored(store):
    assert store("PUT", "/dav/results/1/1.jpg", data=IMAGE).ok
    return "results/1/1.jpg"


def assert_problem(answer, status, code):
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    assert answer.headers["Cache-Control"] == "no-store"


# --- signed URLs


def test_a_stored_image_is_served_at_its_signed_url(store, stored):
    answer = store("GET", signed(stored))
    assert answer.content == IMAGE
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "private, max-age=3600, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Disposition" not in answer.headers
    head = store("HEAD", signed(stored))
    assert head.headers["Content-Length"] == str(len(IMAGE))
    assert store("GET", signed(stored), headers={"Range": "bytes=0-9"}).content == IMAGE[:10]


def test_the_edge_passes_responses_of_the_media_host_on(store, stored):
    edge = f"https://{store.address}"
    answer = store.session.get(edge + signed(stored), timeout=10)
    assert answer.content == IMAGE
    assert answer.headers["Cache-Control"] == "private, max-age=3600, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert_problem(store.session.get(edge + signed(stored, 1), timeout=10), 410, "expired")
    assert_problem(store.session.get(edge + f"/media/{stored}", timeout=10), 403, "signature_invalid")


def test_names_with_spaces_and_chinese_characters_are_stored_and_served(store):
    assert store("PUT", "/dav/results/2/%E7%8C%AB%20a.png", data=b"png").ok
    path = signed("results/2/猫 a.png").replace("猫 a.png", "%E7%8C%AB%20a.png")
    assert store("GET", path).content == b"png"


@pytest.mark.parametrize(
    "forge",
    [
        lambda name: f"/media/{name}",
        lambda name: signed(name, key="x" * 32),
        lambda name: signed(name).replace("expires=", "expires=9"),
        lambda name: signed(name).replace("md5=", "md5=x"),
        lambda name: signed("results/1/other.jpg").replace("other.jpg", "1.jpg"),
        lambda name: signed(name).replace("&expires=", "&soon="),
    ],
    ids=["unsigned", "other key", "other time", "other signature", "other file", "no time"],
)
def test_forged_urls_are_refused(store, stored, forge):
    answer = store("GET", forge(stored))
    assert_problem(answer, 403, "signature_invalid")


def test_urls_of_the_earlier_key_are_accepted_by_its_name_alone(store, stored):
    present = secret("media_signing_key")
    earlier = signed(stored, key=EARLIER)
    assert store("GET", f"{earlier}&key={key_name(EARLIER)}").ok
    assert store("GET", f"{signed(stored)}&key={key_name(present)}").ok
    for forged in (earlier, f"{earlier}&key={key_name(present)}", f"{signed(stored)}&key={key_name(EARLIER)}"):
        assert_problem(store("GET", forged), 403, "signature_invalid")


def test_expired_urls_answer_410(store, stored):
    assert_problem(store("GET", signed(stored, int(time.time()) - 1)), 410, "expired")


def test_the_edge_passes_the_language_of_the_client_on(store, stored):
    answer = store.session.get(f"https://{store.address}{signed(stored, 1)}", headers={"Accept-Language": "zh-CN"}, timeout=10)
    assert_problem(answer, 410, "expired")
    assert answer.json()["detail"].startswith("URL 已过期")


def test_a_missing_image_answers_404_with_a_problem_document(store):
    assert_problem(store("GET", signed("results/none.jpg")), 404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PROPFIND"])
def test_signed_urls_allow_reading_only(store, stored, method):
    answer = store(method, signed(stored), data=b"x")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD"
    assert store("GET", signed(stored)).content == IMAGE


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "noextension", "archive.jpg.exe"])
def test_a_file_other_than_an_image_is_served_as_a_download(store, name):
    assert store("PUT", f"/dav/results/3/{name}", data=b"<script>alert(1)</script>").ok
    answer = store("GET", signed(f"results/3/{name}"))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


# --- two media hosts


def test_the_edge_finds_a_file_that_only_one_media_host_has(store, second, at_edge):
    for name, host in (("results/7/1.jpg", store), ("results/7/2.jpg", second)):
        assert host("PUT", f"/dav/{name}", data=IMAGE).ok
        assert {at_edge(name).content for _ in range(10)} == {IMAGE}
    assert_problem(at_edge("results/7/never.jpg"), 404, "not_found")


@pytest.mark.parametrize(("away", "back"), [("stop", "start"), ("kill --signal=STOP", "kill --signal=CONT")])
def test_no_download_fails_while_one_media_host_is_stopped_or_frozen(on, store, second, at_edge, away, back):
    for host in (store, second):
        assert host("PUT", "/dav/results/7/3.jpg", data=IMAGE).ok
    assert at_edge("results/7/3.jpg").ok  # the edge keeps connections
    on("media2").check_output(f"systemctl {away} nginx")
    try:
        answers = [at_edge("results/7/3.jpg") for _ in range(20)]
    finally:
        on("media2").check_output(f"systemctl {back} nginx")
    assert {answer.content for answer in answers} == {IMAGE}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 10


def test_a_full_or_read_only_disk_refuses_writes_and_still_serves_files(on, second, at_edge):
    def refused(size: int) -> bool:
        try:
            return second("PUT", "/dav/results/8/2.jpg", data=b"x" * size).status_code >= 500
        except requests.ConnectionError:  # nginx may close the connection before it has read the body
            return True

    host = on("media2")
    host.check_output(
        f"systemctl stop nginx && mount -t tmpfs -o size=1m tmpfs {ROOT_DIRECTORY}"
        f" && install -d -o www-data -g www-data -m 750 {ROOT_DIRECTORY}/files {ROOT_DIRECTORY}/incoming && systemctl start nginx"
    )
    try:
        assert second("PUT", "/dav/results/8/1.jpg", data=IMAGE).ok
        assert refused(4 * 2**20)
        assert second("GET", "/dav/results/8/1.jpg").content == IMAGE
        host.check_output(f"mount -o remount,ro {ROOT_DIRECTORY}")
        assert refused(100_000)
        assert at_edge("results/8/1.jpg").content == IMAGE
    finally:
        host.check_output(f"systemctl stop nginx && umount {ROOT_DIRECTORY} && systemctl start nginx")


# --- WebDAV for the application


@pytest.mark.parametrize("auth", [None, ("application", "wrong"), ("other", "wrong")])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("client", ["anybody", "other_host"])
def test_webdav_requests_without_a_certificate_of_the_application_are_refused(request, store, stored, client, method, auth):
    answer = request.getfixturevalue(client)(method, f"/dav/{stored}", auth=auth, data=b"x")
    assert answer.status_code == 401
    assert store("GET", f"/dav/{stored}").content == IMAGE


def test_signed_urls_need_no_certificate(anybody, other_host, stored):
    assert anybody("GET", signed(stored)).content == IMAGE
    assert other_host("GET", signed(stored)).content == IMAGE


def test_the_previous_release_of_the_application_still_uses_its_password(anybody):
    account = ("application", secret("media_password"))
    assert anybody("PUT", "/dav/results/6/1.jpg", data=IMAGE, auth=account).ok
    assert anybody("GET", "/dav/results/6/1.jpg", auth=account).content == IMAGE


def test_a_certificate_that_the_platform_did_not_sign_is_refused(address, stored, tmp_path):
    forged = tmp_path / "forged.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=media1 -keyout"
    subprocess.run([*command.split(), forged, "-out", tmp_path / "crt"], check=True, capture_output=True)
    forged.write_text((tmp_path / "crt").read_text() + forged.read_text())
    assert Store(address, str(forged))("GET", f"/dav/{stored}").status_code == 400


def test_a_removed_image_answers_404(store, stored):
    assert store("DELETE", f"/dav/{stored}").status_code == 204
    assert store("GET", f"/dav/{stored}").status_code == 404
    assert store("DELETE", f"/dav/{stored}").status_code == 404
    assert_problem(store("GET", signed(stored)), 404, "not_found")


def test_a_directory_is_listed_for_the_application_alone(store, anybody, stored):
    assert store("PUT", "/dav/results/1/more/2.png", data=IMAGE).ok
    answer = store("GET", "/dav/results/1/")
    assert answer.headers["Content-Type"] == "application/json"
    assert {(entry["name"], entry["type"]) for entry in answer.json()} >= {("1.jpg", "file"), ("more", "directory")}
    assert store("GET", "/dav/results/never/").status_code == 404
    assert anybody("GET", "/dav/results/1/", auth=("application", "wrong")).status_code == 401
    assert_problem(store("GET", signed("results/1/")), 403, "signature_invalid")


def test_a_directory_is_removed_with_all_that_is_in_it(store, stored, media):
    for name in ("1.jpg", "2.png"):
        assert store("PUT", f"/dav/results/2026-01-01/12-00/6/{name}", data=IMAGE).ok
    assert store("DELETE", "/dav/results/2026-01-01/12-00/6").status_code == 409, "without the slash"
    assert store("DELETE", "/dav/results/2026-01-01/12-00/6/").status_code == 204
    assert not media.file(f"{ROOT_DIRECTORY}/files/results/2026-01-01/12-00/6").exists
    assert store("GET", f"/dav/{stored}").content == IMAGE


def test_folders_of_many_edits_are_removed_by_the_host_once_they_are_empty(store, media):
    day = f"{ROOT_DIRECTORY}/files/results/2026-01-02"
    for minute in ("12-00", "12-01"):
        assert store("PUT", f"/dav/results/2026-01-02/{minute}/6/1.jpg", data=IMAGE).ok
    for path in ("2026-01-02/12-00/", "2026-01-02/"):
        assert store("DELETE", f"/dav/results/{path}").status_code == 202
    assert store("GET", "/dav/results/2026-01-02/12-00/6/1.jpg").content == IMAGE
    assert store("DELETE", "/dav/results/2026-01-02/12-00/6/").status_code == 204
    clean = "systemctl start image-editor-media-folders"
    media.check_output(clean)
    assert media.file(f"{day}/12-00").is_directory, "something was removed from it a moment ago"
    media.check_output(f"find {day} -type d -exec touch --date '2 days ago' {{}} +; {clean}")
    assert media.check_output(f"ls {day}") == "12-01"
    assert store("GET", "/dav/results/2026-01-02/12-01/6/1.jpg").content == IMAGE
    assert media.check_output("systemctl is-enabled image-editor-media-folders.timer") == "enabled"


@pytest.mark.parametrize("path", ["other", "other/1.jpg", "results.jpg", "identity/1", "files/results/1/1.jpg"])
def test_nothing_is_written_or_removed_outside_uploads_and_results(store, media, path):
    media.check_output(f"install -D -o www-data /dev/null {ROOT_DIRECTORY}/files/outside/1/2/3.jpg")
    assert store("PUT", f"/dav/{path}", data=IMAGE).status_code == 403
    for there in ("outside/1/2/3.jpg", "outside/1/2/", "identity"):
        assert store("DELETE", f"/dav/{there}").status_code == 403
    assert media.file(f"{ROOT_DIRECTORY}/files/outside/1/2/3.jpg").exists
    media.check_output(f"rm -r {ROOT_DIRECTORY}/files/outside")


def test_the_application_marks_a_disk(store):
    assert store("PUT", "/dav/identity", data=b"5").ok
    assert store("GET", "/dav/identity").text == "5"


def test_all_results_cannot_be_removed_at_once(store, stored):
    for path in ("/dav/", "/dav/results", "/dav/results/"):
        assert store("DELETE", path, headers={"Depth": "infinity"}).status_code in (403, 409), path
    assert store("GET", f"/dav/{stored}").content == IMAGE


@pytest.mark.parametrize("path", ["/dav/../outside", "/dav/x/../../outside", "/dav/%2e%2e/outside", "/dav/..%2f..%2foutside"])
def test_paths_outside_the_media_directory_cannot_be_written(store, media, path):
    assert store("PUT", path, data=b"x").status_code in (400, 404)
    assert media.run(f"find {ROOT_DIRECTORY} /var/lib /etc -maxdepth 2 -name outside").stdout == ""


def test_symbolic_links_are_not_followed(store, media):
    media.check_output(f"ln -sfn /etc {ROOT_DIRECTORY}/files/link; ln -sf /etc/hostname {ROOT_DIRECTORY}/files/name.jpg")
    for path in ("/dav/link/hostname", "/dav/link/", "/dav/name.jpg", signed("link/hostname"), signed("name.jpg")):
        assert store("GET", path).status_code in (403, 404), path
    media.check_output(f"rm {ROOT_DIRECTORY}/files/link {ROOT_DIRECTORY}/files/name.jpg")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/results/1/1.jpg", 404),
        ("GET", "/etc/passwd", 404),
        ("GET", "/media/results/1/", 403),
        ("PROPFIND", "/dav/", 405),
        ("MKCOL", "/dav/new/", 405),
        ("MOVE", "/dav/results/1/1.jpg", 405),
        ("POST", "/dav/results/1/1.jpg", 405),
    ],
)
def test_other_paths_and_methods_are_refused(store, stored, method, path, status):
    assert store(method, path).status_code == status


def test_a_too_large_image_is_refused(store):
    assert store("PUT", "/dav/results/4/1.jpg", data=b"x" * 9 * 2**20).status_code == 413
    assert store("GET", "/dav/results/4/1.jpg").status_code == 404


def slow_put(store, path, data, pause):
    """PUT ``data`` in two halves and call ``pause`` between them. If it returns False, close the connection."""
    context = ssl.create_default_context(cafile=CA)
    context.load_cert_chain(store.certificate)
    connection = http.client.HTTPSConnection(store.address, 8443, context=context, timeout=20)
    connection.putrequest("PUT", path)
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders()
    connection.send(data[: len(data) // 2])
    if pause() is False:
        connection.close()
        return None
    connection.send(data[len(data) // 2 :])
    status = connection.getresponse().status
    connection.close()
    return status


def test_readers_see_the_old_or_the_new_image_and_never_a_partial_one(store, stored):
    old, new, seen, done = IMAGE, os.urandom(4 * 2**20), set(), threading.Event()

    def read():
        reader = Store(store.address, None)
        while not done.is_set():
            seen.add(reader("GET", signed(stored)).content)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    status = slow_put(store, f"/dav/{stored}", new, lambda: time.sleep(0.5))
    time.sleep(0.2)
    done.set()
    thread.join()
    assert status == 204
    assert seen == {old, new}


def test_an_interrupted_upload_leaves_no_file_and_keeps_the_old_image(store, stored, media):
    slow_put(store, f"/dav/{stored}", b"x" * 2**20, lambda: False)
    slow_put(store, "/dav/results/5/1.jpg", b"x" * 2**20, lambda: False)
    time.sleep(0.5)
    assert store("GET", f"/dav/{stored}").content == IMAGE
    assert store("GET", "/dav/results/5/1.jpg").status_code == 404
    assert media.run(f"find {ROOT_DIRECTORY}/incoming -type f").stdout == ""


# --- secrets


def test_secrets_are_unreadable_for_others_and_appear_in_no_log_or_command_line(media, store, anybody, stored):
    """Others cannot read the files, and no log, journal or command line contains a secret or a signature."""
    for name, group in (("account", "www-data"), ("signing.conf", "root")):
        file = media.file(f"/etc/image-editor-media/{name}")
        assert (file.user, file.group, file.mode) == ("root", group, 0o640)
    assert media.file(ROOT_DIRECTORY).mode == 0o750
    assert media.run("runuser -u nobody -- ls /etc/image-editor-media").rc != 0

    url = signed(stored)
    store("GET", url)
    store("GET", signed("results/none.jpg"))
    anybody("GET", f"/dav/{stored}", auth=("application", "a-wrong-password"))
    time.sleep(0.2)
    secrets = [secret("media_password"), secret("media_signing_key"), url.split("md5=")[1], "a-wrong-password", "md5="]
    for secret_ in secrets:
        assert media.run("journalctl --no-pager | grep -F %s", secret_).stdout == ""
        assert media.run("grep -rF %s /var/log/nginx", secret_).stdout == ""
        assert media.run("ps -ef | grep -v grep | grep -F -- %s", secret_).stdout == ""
    assert secret("media_password") not in media.file("/etc/image-editor-media/account").content_string
    assert "results/1/1.jpg" in media.file("/var/log/nginx/access.log").content_string


def test_nginx_stores_images_although_it_is_hardened(media, store, stored):
    """The worker that wrote the image has no capabilities and cannot write the system."""
    main = media.check_output("systemctl show -P MainPID nginx")
    worker = media.check_output(f"pgrep --parent {main} | head -1")
    status = media.file(f"/proc/{worker}/status").content_string
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert media.run(f"nsenter -t {main} -m touch /etc/touched").rc != 0
    file = media.file(f"{ROOT_DIRECTORY}/files/{stored}")
    assert (file.user, file.mode) == ("www-data", 0o640)


# --- the role itself


def test_check_mode_works_on_a_fresh_and_on_a_live_host_and_shows_no_secret(media, monkeypatch):
    """On the live host, both secrets and the site have been edited by hand."""
    monkeypatch.setenv("ANSIBLE_FORCE_COLOR", "false")
    media.check_output(
        "mkdir /root/kept; cp -a /etc/image-editor-media/* /etc/nginx/sites-enabled/media.conf /root/kept;"
        "for file in /etc/image-editor-media/* /etc/nginx/sites-enabled/media.conf; do echo '# by hand' >>$file; done"
    )
    try:
        run = playbook("molecule/media/converge.yml", "--check", "--diff", "-vv")
    finally:
        media.check_output(
            "mv /root/kept/media.conf /etc/nginx/sites-enabled; mv /root/kept/* /etc/image-editor-media; rmdir /root/kept"
        )
    assert run.returncode == 0, run.stdout
    assert "-# by hand" in run.stdout, "the diff of the site is missing"
    for secret_ in (secret("media_password"), secret("media_signing_key"), "$6$"):
        assert secret_ not in run.stdout
    assert re.search(r"^media1 .*changed=4 ", run.stdout, re.MULTILINE), "changes: account, signing key, site, reload"
    assert re.search(r"^fresh1 .*changed=3 ", run.stdout, re.MULTILINE), "changes: directories, dpkg's answer, nginx"
