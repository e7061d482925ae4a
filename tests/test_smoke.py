"""The client of scripts/smoke.py and of the baselines: whom it trusts, and to whom it shows its token."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import smoke


class Handler(BaseHTTPRequestHandler):
    """Answers with the Authorization header of the request."""

    def do_GET(self) -> None:
        body = self.headers.get("Authorization", "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def certificate(directory: Path, name: str) -> Path:
    """Create a self-signed certificate for localhost, which is its own CA. Its key is beside it."""
    path = directory / f"{name}.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign", "-keyout", path.with_suffix(".key"), "-out", path),
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> dict[str, Path]:
    """The CA that the system trusts, the platform's own CA, and another."""
    directory = tmp_path_factory.mktemp("certificates")
    return {name: certificate(directory, name) for name in ("system", "platform", "stranger")}


@pytest.fixture
def client(certificates, monkeypatch) -> Iterator[requests.Session]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["system"]))  # OpenSSL reads the system's CAs from it
    with smoke.client("secret", str(certificates["platform"])) as session:
        yield session


@pytest.fixture
def serve(certificates) -> Iterator:
    """A function that starts a server with a certificate and returns its URL."""
    servers = []

    def start(name: str) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates[name], certificates[name].with_suffix(".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"https://localhost:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["system", "platform"])
def test_the_client_trusts_the_systems_cas_and_the_platforms_ca(client, serve, name):
    assert client.get(serve(name), timeout=10).text == "Bearer secret"


def test_the_client_trusts_nobody_else(client, serve):
    with pytest.raises(requests.exceptions.SSLError):
        client.get(serve("stranger"), timeout=10)


def test_a_signed_url_does_not_get_the_token(client, serve):
    edit = {"result_url": serve("platform")}
    assert smoke.download(client, edit) == b""
