"""The metrics endpoint of workers and the collector: over TLS, for clients whose certificate the platform's CA signed.

IMAGE_EDITOR_METRICS_CLIENTS names the clients that get an answer, because the CA signs the certificate of every host.
"""

import contextlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from django.conf import settings
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

log = logging.getLogger(__name__)
PATIENCE = 10  # seconds that a client may be silent


class _Server(ThreadingWSGIServer):
    """Does the TLS handshake in the thread of the connection, so that a silent client delays no other.

    prometheus_client's own server does the handshake while it accepts.
    """

    context: ssl.SSLContext | None = None
    loaded: list[int] | None = None  # modification times of the files, in nanoseconds

    def load_certificates(self) -> None:
        """Load certificate, key and CA if one was renewed, for the next connections. No worker restarts for it."""
        certificate, key, ca = settings.METRICS_TLS
        found = [os.stat(path).st_mtime_ns for path in (certificate, key, ca)]
        if found != self.loaded:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(ca)
            context.load_cert_chain(certificate, key)
            self.context, self.loaded = context, found

    def get_request(self) -> tuple[socket.socket, tuple]:
        connection, address = super().get_request()
        connection.settimeout(PATIENCE)
        if self.context:
            with contextlib.suppress(OSError):  # half written: the old one is used a little longer
                self.load_certificates()
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_: object) -> None:
        """Ignore clients that have no certificate or hang up."""


class _Handler(WSGIRequestHandler):
    def get_environ(self) -> dict[str, Any]:
        """Return the environment of a request, with the subject of the client's certificate."""
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        return super().get_environ() | {"image_editor.subject": (certificate or {}).get("subject", ())}

    def log_message(self, *_: object) -> None:
        pass


def _for_clients(metrics: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Answer only clients whose certificate bears a name of IMAGE_EDITOR_METRICS_CLIENTS, if that is set."""
    clients = set(settings.METRICS_CLIENTS)

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        subject = environ["image_editor.subject"]
        if clients.isdisjoint(value for part in subject for kind, value in part if kind == "commonName"):
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        return metrics(environ, start_response)

    return answer if clients else metrics


def serve(registry: CollectorRegistry) -> bool:
    """Answer scrapes in a thread of this process, at IMAGE_EDITOR_METRICS_LISTEN. False if that is not possible."""
    host, _, port = settings.METRICS_LISTEN.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = type("Server", (_Server,), {"address_family": family})((host.strip("[]"), int(port)), _Handler)
        if settings.METRICS_TLS:
            server.load_certificates()
    except (OSError, ValueError) as error:
        log.error("metrics are not served", extra={"listen": settings.METRICS_LISTEN, "error": repr(error)})
        return False
    server.set_app(_for_clients(make_wsgi_app(registry)))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return True
