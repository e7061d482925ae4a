#!/usr/bin/python3
"""A webhook on port 8098 and a mail server on port 8025.

Both append each message as a line of JSON, with the client's address, to /var/lib/receivers/webhook or /var/lib/receivers/mail.
"""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def note(kind, message):
    with Path("/var/lib/receivers", kind).open("a") as stream:
        stream.write(json.dumps(message) + "\n")


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note("webhook", {"client": self.client_address[0], "path": self.path, **message})
        self.send_response(200)
        self.end_headers()


class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        recipients, text = [], None
        self.wfile.write(b"220 receivers\r\n")
        for line in self.rfile:
            if text is not None:
                if line == b".\r\n":
                    note("mail", {"client": self.client_address[0], "to": recipients, "text": "".join(text)})
                    text = None
                else:
                    text.append(line.decode())
                    continue
            if line.startswith(b"RCPT"):
                recipients.append(line.decode().split("<")[1].split(">")[0])
            if line.startswith(b"DATA"):
                text = []
            self.wfile.write(b"354 go on\r\n" if text == [] else b"250 receivers\r\n")
            if line.startswith(b"QUIT"):
                return


threading.Thread(target=ThreadingHTTPServer(("0.0.0.0", 8098), Webhook).serve_forever, daemon=True).start()
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", 8025), Mail).serve_forever()
