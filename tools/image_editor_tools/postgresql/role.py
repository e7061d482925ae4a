"""What role `postgresql` asks of a cluster."""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path
from typing import Any

from image_editor_tools.errors import Failure
from image_editor_tools.postgresql.connection import UNANSWERED, Clients, ask_node, is_sound, shown_certificate, stored
from image_editor_tools.postgresql.members import PRIMARY, Description
from image_editor_tools.waiting import wait_for

RELOAD = 20.0  # seconds until Patroni has taken over its configuration
RESTART = 300.0  # seconds that a restart of PostgreSQL may take
NOTICED = 5.0  # seconds after which every Patroni has read new settings


def configure(clients: Clients, wanted: dict[str, Any], *, merge: bool) -> bool:
    """Give the cluster its settings, and restart the nodes that need it, one by one. Return whether anything changed.

    With ``merge``, settings that are not in ``wanted`` stay. An operator's pause always stays.
    """
    current = json.loads(_any_node(clients, "/config"))
    kept = current if merge else {name: value for name, value in current.items() if name == "pause"}
    settings = kept | wanted
    if settings == current:
        return False
    _any_node(clients, "/config", settings, method="PUT")
    for _ in range(2):  # a value that becomes smaller reaches a replica only after the primary
        time.sleep(NOTICED)
        for name in pending(clients):
            restart(clients, name)
    return True


def pending(clients: Clients) -> list[str]:
    """The nodes that need a restart, replicas first."""
    nodes = [ask_node(clients, name) for name in clients.described.nodes]
    return [node.name for node in sorted(nodes, key=lambda node: node.role == PRIMARY) if node.pending_restart]


def restart(clients: Clients, name: str) -> None:
    """Have Patroni restart PostgreSQL on a node."""
    clients.patroni(name, "/restart", {}, timeout=RESTART)
    wait_joined(clients, name, RESTART)


def wait_reloaded(described: Description) -> None:
    """Wait until Patroni on this host shows the certificate that is in its file.

    After a signal, Patroni's loop starts the API anew, a second later. A proxy that starts meanwhile would find no primary.
    """
    text, end, _ = Path(described.certificate).read_text().partition("-----END CERTIFICATE-----")
    wanted = ssl.PEM_cert_to_DER_cert(text + end)
    otherwise = "Patroni does not show its new certificate: look at journalctl -u patroni"
    wait_for(lambda: shown_certificate(described) == wanted, otherwise, RELOAD, error=Failure)


def wait_joined(clients: Clients, name: str, seconds: float) -> str:
    """Wait until a node is the primary, or a replica that streams. Return its role."""

    def joined() -> str:
        node = ask_node(clients, name)
        known = stored(clients)
        if "config" not in known:  # Patroni stores the settings one round after it has become the leader
            return ""
        return node.role if is_sound(node, known.get("leader", "")) else ""

    otherwise = f"{name} is neither the primary nor a replica that streams: look at journalctl -u patroni there"
    return wait_for(joined, otherwise, seconds, every=0.5, retry=(OSError, Failure), error=Failure)


def _any_node(clients: Clients, path: str, body: Any = None, method: str = "") -> str:
    """The answer of the first Patroni that gives one, beginning with that of this host."""
    me, reasons = clients.described.me, []
    for name in sorted(clients.described.nodes, key=lambda name: name != me):
        try:
            return clients.patroni(name, path, body, method=method)
        except (*UNANSWERED, Failure) as error:
            reasons.append(f"{name}: {error}")
    raise Failure(f"no Patroni answers. {'; '.join(reasons)}")
