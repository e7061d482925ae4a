"""Requests to Patroni and etcd over mutual TLS, with this host's certificate."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from image_editor_tools.errors import Failure
from image_editor_tools.postgresql.members import STREAMING, Description, Member, Node, State

TIMEOUT = 3.0  # seconds for one answer
UNANSWERED = (OSError, HTTPException, ValueError)  # ValueError: the answer is no JSON


class Clients:
    """Asks the members of a cluster, each by its address, for which its certificate must be valid."""

    def __init__(self, described: Description) -> None:
        self.described = described
        context = ssl.create_default_context(cafile=described.ca)
        context.load_cert_chain(described.certificate, described.key)
        self._opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))

    def patroni(self, node: str, path: str, body: Any = None, *, method: str = "", timeout: float = TIMEOUT) -> str:
        """Patroni's answer. Raises one of UNANSWERED, or Failure with its text if Patroni refuses."""
        url = f"https://{self.described.nodes[node]}:{self.described.patroni_port}{path}"
        try:
            return self._ask(url, body, method, timeout)
        except HTTPError as error:
            with error:
                # GET /patroni has a status other than 200 while PostgreSQL does not run, and the same body.
                text = error.read().decode(errors="replace").strip()
            if body is None and text.startswith("{"):
                return text
            raise Failure(f"Patroni on {node} refuses: {text or error.reason}") from error

    def etcd(self, path: str, body: dict[str, Any], members: Iterable[str] = ()) -> dict[str, Any]:
        """The answer of the first etcd member that can give one. ``members``: whom to ask instead of all, in their order."""
        reasons = []
        for name in members or self.described.etcd:
            try:
                return self.etcd_member(name, path, body)
            except UNANSWERED as error:
                reasons.append(f"{name}: {error}")
        raise Failure(f"etcd does not answer. {'; '.join(reasons)}")

    def etcd_member(self, name: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of one etcd member. Raises one of UNANSWERED."""
        return json.loads(self._ask(f"https://{self.described.etcd[name]}:{self.described.etcd_port}{path}", body, "", TIMEOUT))

    def _ask(self, url: str, body: Any, method: str, timeout: float) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data, {"Content-Type": "application/json"}, method=method or ("GET" if data is None else "POST"))
        with self._opener.open(request, timeout=timeout) as answer:
            return answer.read().decode()


def shown_certificate(described: Description) -> bytes:
    """The certificate that Patroni on this host shows, in DER. It is not verified: its CA may have expired. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(described.certificate, described.key)  # Patroni would log a client without one as an error
    address = (described.nodes[described.me], described.patroni_port)
    with socket.create_connection(address, timeout=TIMEOUT) as connection, context.wrap_socket(connection) as session:
        return session.getpeercert(binary_form=True) or b""


def read_node(name: str, answer: dict[str, Any]) -> Node:
    """What an answer to GET /patroni says."""
    wal = answer.get("xlog", {})
    role = answer.get("role", "")
    return Node(
        name,
        version=answer.get("patroni", {}).get("version", ""),
        role=role,
        state=answer.get("state", ""),
        replication=answer.get("replication_state", ""),
        timeline=answer.get("timeline") or 0,
        location=wal.get("location", wal.get("replayed_location")) or 0,
        synchronous=bool(answer.get("sync_standby")),
        pending_restart=bool(answer.get("pending_restart")),
        paused=bool(answer.get("pause")),
    )


def read_member(name: str, answer: dict[str, Any]) -> Member:
    """What an answer to /v3/maintenance/status says. etcd leaves out a value of zero."""
    return Member(name, has_leader=answer.get("leader", "0") != "0", alarms=tuple(map(str.strip, answer.get("errors", []))))


def ask_node(clients: Clients, name: str) -> Node:
    """Ask Patroni on one node. The answer may be an error."""
    try:
        return read_node(name, json.loads(clients.patroni(name, "/patroni")))
    except (*UNANSWERED, Failure) as error:
        return Node(name, error=str(error))


def ask_member(clients: Clients, name: str) -> Member:
    """Ask one etcd member. The answer may be an error."""
    try:
        return read_member(name, clients.etcd_member(name, "/v3/maintenance/status", {}))
    except UNANSWERED as error:
        return Member(name, error=str(error))


def is_hung(error: Exception) -> bool:
    """Whether an error of GET /liveness speaks of a Patroni that hangs: its loop does not run, or it does not answer."""
    if isinstance(error.__cause__, HTTPError):
        return error.__cause__.code == HTTPStatus.SERVICE_UNAVAILABLE
    return isinstance(getattr(error, "reason", error), TimeoutError)


def ask_liveness(clients: Clients, name: str) -> bool:
    """Whether Patroni on one node hangs. A refused connection is a Patroni that does not run."""
    try:
        clients.patroni(name, "/liveness")
    except (*UNANSWERED, Failure) as error:
        return is_hung(error)
    return False


def survey(clients: Clients) -> State:
    """Ask every member at once, so that one that hangs costs the time of one answer."""
    described = clients.described
    nodes, members = list(described.nodes), list(described.etcd)
    with ThreadPoolExecutor(2 * len(nodes) + len(members)) as pool:
        answers = pool.map(lambda name: ask_node(clients, name), nodes)
        hung = pool.map(lambda name: ask_liveness(clients, name), nodes)
        etcd = dict(zip(members, pool.map(lambda name: ask_member(clients, name), members), strict=True))
        asked = {node.name: replace(node, hung=hangs) for node, hangs in zip(answers, hung, strict=True)}
    try:
        leader = stored(clients, sorted(members, key=lambda name: bool(etcd[name].error))).get("leader", "")
    except Failure:  # no majority; `problems` says so
        leader = ""
    return State(described, leader, asked, etcd)


def hung_nodes(clients: Clients) -> list[str]:
    """The nodes whose Patroni hangs."""
    names = list(clients.described.nodes)
    with ThreadPoolExecutor(len(names)) as pool:
        hung = dict(zip(names, pool.map(lambda name: ask_liveness(clients, name), names), strict=True))
    return [name for name in names if hung[name]]


def is_sound(node: Node, leader: str) -> bool:
    """Whether a node is the primary, or a replica that streams."""
    return (node.is_primary and node.name == leader) or (not node.error and node.replication == STREAMING)


def stored(clients: Clients, members: Iterable[str] = ()) -> dict[str, str]:
    """What Patroni keeps in etcd: values by their keys. Raises Failure if no majority of etcd members answers."""
    first, last = _keys(clients.described)
    answer = clients.etcd("/v3/kv/range", {"key": _encode(first), "range_end": _encode(last)}, members)
    found = {_decode(entry["key"]): _decode(entry.get("value", "")) for entry in answer.get("kvs", [])}
    return {key.removeprefix(first): value for key, value in found.items()}


def forget(clients: Clients) -> None:
    """Remove everything that Patroni keeps in etcd."""
    first, last = _keys(clients.described)
    clients.etcd("/v3/kv/deleterange", {"key": _encode(first), "range_end": _encode(last)})


def _keys(described: Description) -> tuple[str, str]:
    """The prefix of Patroni's keys, and the first key behind them."""
    prefix = f"/service/{described.scope}/"
    return prefix, prefix[:-1] + chr(ord("/") + 1)


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")
