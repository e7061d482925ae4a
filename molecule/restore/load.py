"""Submit edits to the API of client1: ``load.py TOKEN THREADS SECONDS PAUSE IMAGE``.

Each thread submits one edit after the other, PAUSE seconds apart. An accepted edit is printed at once as ``edit <time> <id>``, a
refused one as ``none <time> <reason>``. The last line is the number of accepted edits per second. The script runs with the
application's Python and needs only the standard library.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

token, threads, seconds, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
BOUNDARY = "boundary"
BODY = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nresize to 16\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
).encode()
BODY += Path(sys.argv[5]).read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
HEADERS = {"Authorization": f"Bearer {token}", "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
context = ssl.create_default_context(cafile="/etc/ssl/certs/image-editor-ca.crt")
context.load_cert_chain("/etc/ssl/certs/image-editor.crt", "/etc/ssl/private/image-editor.key")
accepted = [0] * threads
end = time.monotonic() + seconds


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def submit(number: int) -> None:
    # By address: the API's certificate does not have the host's name.
    connection = http.client.HTTPSConnection(socket.gethostbyname("client1"), 8000, context=context, timeout=10)
    while time.monotonic() < end:
        try:
            connection.request("POST", "/api/v1/edits", BODY, HEADERS)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:  # the API is stopped while data is restored
            connection.close()
            say(f"none {time.time()} {error!r}")
            time.sleep(0.2)
            continue
        if answer.status == 202:
            accepted[number] += 1
            say(f"edit {time.time()} {json.loads(body)['id']}")
        else:
            say(f"none {time.time()} {answer.status} {body[:200]!r}")
        time.sleep(pause if answer.status == 202 else max(pause, 0.2))


running = [threading.Thread(target=submit, args=(number,)) for number in range(threads)]
for thread in running:
    thread.start()
for thread in running:
    thread.join()
print(sum(accepted) / seconds)
