"""Requests to the API of this host, as many as it answers, for some seconds; prints how many a second were accepted.

Runs with the application's Python and nothing but the standard library: ``load.py TOKEN THREADS SECONDS PICTURE``.
"""

from __future__ import annotations

import http.client
import ssl
import sys
import threading
import time
from pathlib import Path

token, threads, seconds, picture = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]).read_bytes()
BOUNDARY = "boundary"
BODY = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nresize to 16\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
).encode()
BODY += picture + f"\r\n--{BOUNDARY}--\r\n".encode()
HEADERS = {"Authorization": f"Bearer {token}", "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
context = ssl.create_default_context(cafile="/etc/ssl/certs/image-editor-ca.crt")
context.load_cert_chain("/etc/ssl/certs/image-editor.crt", "/etc/ssl/private/image-editor.key")
accepted = [0] * threads
end = time.monotonic() + seconds


def submit(number: int) -> None:
    connection = http.client.HTTPSConnection("localhost", 8000, context=context, timeout=10)
    while time.monotonic() < end:
        connection.request("POST", "/api/v1/edits", BODY, HEADERS)
        answer = connection.getresponse()
        answer.read()
        accepted[number] += answer.status == 202


running = [threading.Thread(target=submit, args=(number,)) for number in range(threads)]
for thread in running:
    thread.start()
for thread in running:
    thread.join()
print(sum(accepted) / seconds)
