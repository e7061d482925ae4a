"""Redis over TLS, with the server's certificate verified: broker, cache, result backend and probe alike."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import TOKEN
from services import PASSWORD, Process, certificates, free_port, listening, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """Return a function: the environment for a Redis with TLS only. The argument is the CA file to trust."""
    certificates(tmp_path, "redis")
    port = free_port()
    (tmp_path / "redis.conf").write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsave \"\"\ntls-auth-clients no\n"
        f"tls-cert-file {tmp_path}/redis.crt\ntls-key-file {tmp_path}/redis.key\ntls-ca-cert-file {tmp_path}/ca.crt\n"
        f"user default off\nuser app on >{PASSWORD} ~* &* +@all -@dangerous +info +client\n"
    )  # fmt: skip
    process = Process(["redis-server", str(tmp_path / "redis.conf")], tmp_path / "redis.log")
    process.start()
    wait_for(lambda: listening(port), what="Redis listens")
    quoted = PASSWORD.replace("@", "%40").replace("/", "%2F")

    def env(ca: str) -> dict[str, str]:
        return {
            f"IMAGE_EDITOR_{name}_URL": f"rediss://app:{quoted}@127.0.0.1:{port}/{db}"
            f"?ssl_cert_reqs=required&ssl_ca_certs={ca}"
            for db, name in enumerate(("BROKER", "CACHE", "RESULT"))
        }

    yield env
    process.kill()


def test_an_edit_succeeds_with_redis_over_tls(
    clean: None,
    user: Any,
    photo: bytes,
    files: Any,
    start: Callable,
    web: Callable,
    tls_redis: Callable,
    tmp_path: Path,
) -> None:
    env = tls_redis(f"{tmp_path}/ca.crt")
    base = web(**env)
    assert requests.get(f"{base}/readyz", timeout=10).json()["checks"] == dict.fromkeys(
        ("database", "migrations", "broker", "cache", "result_backend"), "ok"
    )
    start("edit", **env)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"image_url": files.serve("/photo.jpg", photo), "prompt": "sepia"}
    answer = requests.post(f"{base}/api/v1/edits", json=body, headers=headers, timeout=10).json()
    assert answer["status"] == "queued"

    def succeeded() -> bool:
        address = base + answer["status_url"]
        return requests.get(address, headers=headers, timeout=10).json()["status"] == "succeeded"

    wait_for(succeeded, 15, "the edit succeeds")


def test_a_redis_certificate_of_another_ca_is_not_trusted(clean: None, web: Callable, tls_redis: Callable) -> None:
    base = web(**tls_redis("/etc/ssl/certs/ca-certificates.crt"))
    checks = requests.get(f"{base}/readyz", timeout=10).json()["checks"]
    assert {checks["broker"], checks["cache"], checks["result_backend"]} == {"failed: ConnectionError"}
