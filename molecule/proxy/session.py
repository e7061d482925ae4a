#!/usr/bin/python3
"""Opens a session through the proxy, and prints the node that it leads to; nothing if the proxy refuses the session.

With names, these nodes then claim to be primary. Prints the seconds until the session ended, and until a new one leads to the
first name.
"""

import json
import socket
import sys
import time
from pathlib import Path

PRIMARY = Path("/etc/stand-in-primary")


def received(session):
    try:
        return session.recv(100).decode().strip()
    except ConnectionResetError:
        return ""


def connect():
    return socket.create_connection(("127.0.0.1", 5432), timeout=10)


def node():
    with connect() as session:
        return received(session)


if len(sys.argv) == 1:
    print(node())
    sys.exit()
old = connect()
before, began = received(old), time.monotonic()
PRIMARY.write_text(" ".join(sys.argv[1:]))
rest = received(old)
ended = time.monotonic() - began
while node() != sys.argv[1] and time.monotonic() < began + 10:
    time.sleep(0.05)
print(json.dumps({"before": before, "rest": rest, "ended": ended, "followed": time.monotonic() - began}))
