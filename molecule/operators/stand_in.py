#!/usr/bin/python3
"""A stand-in for a service on loopback. It answers a GET with the first part of the path, and any other method with 501."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.path.split('/')[1]}\n".encode()
        self.send_response(200)
        self.send_header("Got-Authorization", "yes" if "Authorization" in self.headers else "no")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
