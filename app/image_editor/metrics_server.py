"""Where a process that is no web server answers Prometheus: over TLS, and only who shows a certificate of our CA."""

import logging
import socket
import ssl
import threading
from wsgiref.simple_server import WSGIRequestHandler

from django.conf import settings
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

log = logging.getLogger(__name__)
PATIENCE = 10  # seconds for a client to say something


class _Server(ThreadingWSGIServer):
    """Handshakes in the connection's own thread: a client that says nothing holds up nobody else.

    (prometheus_client's own server shakes hands while it accepts.)
    """

    context: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, tuple]:
        connection, address = super().get_request()
        connection.settimeout(PATIENCE)
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_: object) -> None:
        """Whoever has no certificate, or hangs up, is nothing to report."""


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def serve(registry: CollectorRegistry) -> bool:
    """Answer scrapes from a thread of this process, at IMAGE_EDITOR_METRICS_LISTEN. False: it cannot."""
    host, _, port = settings.METRICS_LISTEN.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = type("Server", (_Server,), {"address_family": family})((host.strip("[]"), int(port)), _Handler)
        if settings.METRICS_TLS:
            certificate, key, ca = settings.METRICS_TLS
            server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.context.verify_mode = ssl.CERT_REQUIRED
            server.context.load_verify_locations(ca)
            server.context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        log.error("metrics are not served", extra={"listen": settings.METRICS_LISTEN, "error": repr(error)})
        return False
    server.set_app(make_wsgi_app(registry))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return True
