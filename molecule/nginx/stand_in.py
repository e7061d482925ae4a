#!/usr/bin/python3
"""A stand-in for the application, with mutual TLS. Its answers describe the request that arrived.

/status/<code> answers with that code, /hangup does not answer, /slow answers too late. /events has two events, four seconds
apart. Every request is written to a file.
Port 8003 is an impostor, whose certificate the platform's CA did not sign.
"""

import json
import re
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REQUESTS = Path("/var/lib/stand-in/requests")
PORT = int(sys.argv[1])
NAME = "impostor" if PORT == 8003 else "image-editor"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = -1  # send an answer in one piece: nginx cannot repeat a request after a part of an answer

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with REQUESTS.open("a") as requests:
            requests.write(f"{PORT} {self.command} {self.path} {self.headers.get('X-Request-ID')}\n")
        if "/hangup" in self.path:
            self.close_connection = True
            return
        if self.path.endswith("/events"):
            self.events()
            return
        if "/slow" in self.path:
            time.sleep(5)
        status = re.search(r"/status/(\d+)", self.path)
        seen = {
            "port": PORT,
            "method": self.command,
            "path": self.path,
            "bytes": len(body),
            "connection": self.client_address[1],
            "headers": self.headers.items(),
        }
        text = json.dumps(seen).encode()
        self.send_response(int(status[1]) if status else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Frame-Options", "ALLOWALL")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for seconds in (0, 4):
            time.sleep(seconds)
            self.wfile.write(b"9\r\ndata: 1\n\n\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_):
        pass


tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(f"/etc/ssl/certs/{NAME}.crt", f"/etc/ssl/private/{NAME}.key")
tls.load_verify_locations("/etc/ssl/certs/image-editor-ca.crt")
tls.verify_mode = ssl.CERT_REQUIRED


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def finish_request(self, request, client_address):
        """Do the TLS handshake in the request's thread, so that a silent client does not block others."""
        request.settimeout(10)
        super().finish_request(tls.wrap_socket(request, server_side=True), client_address)

    def handle_error(self, *_):
        pass


Server(("0.0.0.0", PORT), Handler).serve_forever()
