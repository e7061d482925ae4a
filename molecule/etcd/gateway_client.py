"""Asks the member of this host over HTTP, as Patroni does, while the member restarts. Prints how often there was each answer.

gateway_client.py ADDRESS RESTARTS
"""

import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter

CLIENTS = 4
BODY = json.dumps({"key": "aGVyZQ==", "serializable": True})  # "here"; Patroni reads so, too

address, restarts = sys.argv[1], int(sys.argv[2])
tls = ssl.create_default_context(cafile="/etc/ssl/certs/image-editor-ca.crt")
tls.load_cert_chain("/etc/ssl/certs/image-editor.crt", "/etc/ssl/private/image-editor.key")
answers: Counter[str] = Counter()
ended = threading.Event()


def ask() -> None:
    """One client, which keeps its connection."""
    connection = http.client.HTTPSConnection(address, 2379, context=tls, timeout=5)
    while not ended.is_set():
        try:
            connection.request("POST", "/v3/kv/range", body=BODY, headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):  # Patroni then asks the next member
            connection.close()
            time.sleep(0.02)
        else:
            answers["ok" if answer.status == 200 else text] += 1


clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
for client in clients:
    client.start()
for _ in range(restarts):
    time.sleep(0.5)
    subprocess.run(["systemctl", "restart", "etcd"], check=True)
time.sleep(0.5)
ended.set()
for client in clients:
    client.join()
print(json.dumps(answers))
