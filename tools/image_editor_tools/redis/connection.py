"""Connections to nodes and Sentinels: TLS, as the ACL user admin."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from image_editor_tools.redis.members import Description
from image_editor_tools.waiting import wait_for

PASSWORD = Path("/etc/redis/admin.password")
TIMEOUT = 2.0  # seconds for one answer
UNANSWERED = (RedisError, OSError)


class Clients:
    """Opens connections to the members of a set, each by its address, for which its certificate must be valid."""

    def __init__(self, described: Description) -> None:
        self.described = described

    def node(self, name: str) -> Redis:
        """A connection to a data node. Raises RedisError or OSError if the node does not answer."""
        return connect(self.described.addresses[name], self.described.port, self.described.ca)

    def sentinel(self, name: str) -> Redis:
        """A connection to a Sentinel."""
        return connect(self.described.sentinel_addresses[name], self.described.sentinel_port, self.described.ca)

    def tell(self, name: str, what: str, command: Callable[[Redis], object]) -> None:
        """Give a node one command on a connection of its own, and repeat it for 5 s if that fails.

        A node whose role changes cuts its connections. ``what`` names the command in the refusal.
        """

        def done() -> bool:
            with self.node(name) as node:
                command(node)
            return True

        wait_for(done, f"{name} does not take {what}", 5, retry=UNANSWERED)


def connect(address: str, port: int, ca: str) -> Redis:
    """Connect with the caller's password, then with this host's: while a password changes, nodes differ for a while."""
    refused = AuthenticationError("there is no password to try")
    for password in passwords():
        client = Redis(
            host=address,
            port=port,
            username="admin",
            password=password,
            ssl=True,
            ssl_ca_certs=ca,
            ssl_check_hostname=True,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            client.role()  # a node with a full disk refuses PING, but not ROLE
        except AuthenticationError as error:
            refused = error
            client.close()
        else:
            return client
    raise refused


def passwords() -> Iterator[str]:
    """The passwords to try, each once."""
    given = os.environ.get("REDISCLI_AUTH", "")
    stored = PASSWORD.read_text().strip() if PASSWORD.exists() else ""
    yield from dict.fromkeys(password for password in (given, stored) if password)


def is_refusal(error: Exception) -> bool:
    """Whether a member answered, but one side does not trust the other."""
    return isinstance(error, AuthenticationError) or "CERTIFICATE_VERIFY_FAILED" in str(error)
