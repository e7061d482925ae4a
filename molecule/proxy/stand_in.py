#!/usr/bin/python3
"""A stand-in for two PostgreSQL nodes, each with its Patroni. A file names the nodes that claim to be primary.

Patroni's stand-in answers OPTIONS /primary on port 8008 with 200 or 503, over mutual TLS. It refuses GET with 501: HAProxy
would close before Patroni has sent the body, and Patroni would log a traceback. PostgreSQL's stand-in sends the name of its
node on port 5432, and keeps the session open.
"""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

NODES = {"127.0.0.2": "platform1", "127.0.0.3": "localhost"}  # the host's certificate has both names
PRIMARY = Path("/etc/stand-in-primary")


class Patroni(BaseHTTPRequestHandler):
    def do_OPTIONS(self):
        primary = NODES[self.server.server_address[0]] in PRIMARY.read_text().split()
        self.send_response(200 if primary and self.path == "/primary" else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


class PatroniServer(ThreadingHTTPServer):
    def finish_request(self, request, client_address):
        """Do the TLS handshake in the request's thread, so that a silent client does not block others."""
        request.settimeout(10)
        super().finish_request(tls.wrap_socket(request, server_side=True), client_address)

    def handle_error(self, *_):
        pass


class PostgreSQL(StreamRequestHandler):
    def handle(self):
        self.wfile.write(f"{NODES[self.server.server_address[0]]}\n".encode())
        self.rfile.read()


tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/etc/ssl/certs/image-editor.crt", "/etc/ssl/private/image-editor.key")
tls.load_verify_locations("/etc/ssl/certs/image-editor-ca.crt")
tls.verify_mode = ssl.CERT_REQUIRED

servers = [PatroniServer((address, 8008), Patroni) for address in NODES]
servers += [ThreadingTCPServer((address, 5432), PostgreSQL) for address in NODES]
for server in servers:
    threading.Thread(target=server.serve_forever).start()
