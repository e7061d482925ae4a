"""The metrics endpoint of workers and the collector: over TLS, for clients with a certificate of the platform's CA."""

import contextlib
import logging
import os
import socket
import ssl
import threading
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
    certificate_at = 0  # modification time, in nanoseconds

    def load_certificate(self) -> None:
        """Load the certificate if it was renewed, for the next connections. No worker restarts for it."""
        certificate, key, _ = settings.METRICS_TLS
        changed_at = os.stat(certificate).st_mtime_ns
        if self.context and changed_at != self.certificate_at:
            self.context.load_cert_chain(certificate, key)
            self.certificate_at = changed_at

    def get_request(self) -> tuple[socket.socket, tuple]:
        connection, address = super().get_request()
        connection.settimeout(PATIENCE)
        if self.context:
            with contextlib.suppress(OSError):  # half written: the old one is used a little longer
                self.load_certificate()
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_: object) -> None:
        """Ignore clients that have no certificate or hang up."""


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def serve(registry: CollectorRegistry) -> bool:
    """Answer scrapes in a thread of this process, at IMAGE_EDITOR_METRICS_LISTEN. False if that is not possible."""
    host, _, port = settings.METRICS_LISTEN.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = type("Server", (_Server,), {"address_family": family})((host.strip("[]"), int(port)), _Handler)
        if settings.METRICS_TLS:
            server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.context.verify_mode = ssl.CERT_REQUIRED
            server.context.load_verify_locations(settings.METRICS_TLS[2])
            server.load_certificate()
    except (OSError, ValueError) as error:
        log.error("metrics are not served", extra={"listen": settings.METRICS_LISTEN, "error": repr(error)})
        return False
    server.set_app(make_wsgi_app(registry))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return True
