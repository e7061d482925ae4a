#!/usr/bin/python3
"""Who is the primary of the Redis set, and who shall be. For operators, and for the Ansible role itself.

Works on any host with Redis or Sentinel, as root, without a controller: it needs Python and /etc/redis alone.
docs/failover.md says when to use what. Every refusal says why and changes nothing; exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

DIRECTORY = Path("/etc/redis")
DESCRIPTION = DIRECTORY / "image-editor.json"
PASSWORD = DIRECTORY / "admin.password"
STATE = DIRECTORY / "redis-state.conf"
SENTINEL_COMMANDS = DIRECTORY / "image-editor-sentinel.commands"
DATA = Path("/var/lib/redis")
TIMEOUT = 2.0  # seconds for one answer
PAUSE = 10.0  # seconds for which writes are paused at most; renewed while a switchover needs it
PROXIES_NOTICE = 1.5  # seconds after which every proxy has looked at the primary twice (redis_proxy_check_interval)


class Refusal(Exception):
    """Something is not as it must be; the text tells the operator what and what to do."""


class ReplyError(Exception):
    """An error that Redis answered."""


class Connection:
    """One TLS connection to a node or a Sentinel, as admin. Raises OSError where nothing answers, ReplyError for an error."""

    def __init__(self, name: str, address: str, port: int, ca: str) -> None:
        self.name = name
        plain = socket.create_connection((address, port), TIMEOUT)
        try:
            tls = ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise
        self._socket, self._stream = tls, tls.makefile("rb")
        self._authenticate()

    def _authenticate(self) -> None:
        """Try the password that the caller has, then the one of this host: during a change, nodes differ for a while."""
        stored = [PASSWORD.read_text().strip()] if PASSWORD.exists() else []
        refused = ReplyError("there is no password to try")
        for password in dict.fromkeys([*filter(None, [os.environ.get("REDISCLI_AUTH")]), *stored]):
            try:
                self("AUTH", "admin", password)
                return
            except ReplyError as error:
                refused = error
        raise refused

    def __call__(self, *command: str | int) -> Any:
        parts = [str(part).encode() for part in command]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return self._reply()

    def _reply(self) -> Any:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection was closed")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise ReplyError(rest)
        if kind == b"$":
            return None if rest == "-1" else self._stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return None if rest == "-1" else [self._reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def info(self, *sections: str) -> dict[str, str]:
        lines = self("INFO", *sections).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def table(self, *command: str) -> dict[str, str]:
        """A reply that lists names and values in turn."""
        flat = self(*command)
        return dict(zip(flat[::2], flat[1::2], strict=True))


@dataclass
class Node:
    """What a data node says of itself; ``error`` if it says nothing."""

    name: str
    error: str = ""
    role: str = ""
    follows: str = ""  # address of its primary
    link: str = ""
    offset: int = 0
    keys: int = 0
    persisted: bool = True


@dataclass
class Sentinel:
    """What a Sentinel says; ``primary`` is an address, empty while it watches nothing."""

    name: str
    error: str = ""
    primary: str = ""
    flags: str = ""
    others: int = 0


@dataclass
class RedisSet:
    """The set as /etc/redis/image-editor.json describes it, and what its members said when they were asked."""

    me: str
    name: str
    port: int
    sentinel_port: int
    ca: str
    addresses: dict[str, str]
    sentinel_addresses: dict[str, str]
    nodes: dict[str, Node] = field(default_factory=dict)
    sentinels: dict[str, Sentinel] = field(default_factory=dict)

    def node(self, name: str) -> Connection:
        return Connection(name, self.addresses[name], self.port, self.ca)

    def tell(self, name: str, *command: str | int) -> None:
        """Give a node one command; tried again for a while, because a node that changes its role cuts connections."""
        _patiently(lambda: self.node(name)(*command), f"{name} does not take {command[0]}", 5)

    def sentinel(self, name: str) -> Connection:
        return Connection(name, self.sentinel_addresses[name], self.sentinel_port, self.ca)

    def called(self, address: str) -> str:
        """The name of the node with this address; the address itself if it is nobody's."""
        return next((name for name, known in self.addresses.items() if known == address), address)

    @property
    def majority(self) -> int:
        return len(self.sentinel_addresses) // 2 + 1

    @property
    def named(self) -> str:
        """The node that a majority of all Sentinels names; empty if there is none."""
        votes = [sentinel.primary for sentinel in self.sentinels.values() if sentinel.primary]
        return next((self.called(address) for address in set(votes) if votes.count(address) >= self.majority), "")

    @property
    def primaries(self) -> list[str]:
        return [node.name for node in self.nodes.values() if node.role == "master"]

    def survey(self) -> RedisSet:
        """Ask everybody at once."""
        with ThreadPoolExecutor(len(self.addresses) + len(self.sentinel_addresses)) as pool:
            nodes, sentinels = pool.map(self._ask_node, self.addresses), pool.map(self._ask_sentinel, self.sentinel_addresses)
            self.nodes = {node.name: node for node in nodes}
            self.sentinels = {sentinel.name: sentinel for sentinel in sentinels}
        return self

    def _ask_node(self, name: str) -> Node:
        try:
            info = self.node(name).info("replication", "keyspace", "persistence")
        except (OSError, ReplyError) as error:
            return Node(name, error=str(error))
        return Node(
            name,
            role=info["role"],
            follows=info.get("master_host", ""),
            link=info.get("master_link_status", ""),
            offset=int(info.get("slave_repl_offset") or info["master_repl_offset"]),
            keys=sum(int(text.split(",")[0].removeprefix("keys=")) for key, text in info.items() if key.startswith("db")),
            persisted=info["aof_last_write_status"] == info["rdb_last_bgsave_status"] == "ok",
        )

    def _ask_sentinel(self, name: str) -> Sentinel:
        try:
            watched = self.sentinel(name).table("SENTINEL", "MASTER", self.name)
        except ReplyError as error:
            return Sentinel(name) if "No such master" in str(error) else Sentinel(name, error=str(error))
        except OSError as error:
            return Sentinel(name, error=str(error))
        return Sentinel(name, primary=watched["ip"], flags=watched["flags"], others=int(watched["num-other-sentinels"]))

    def problems(self) -> list[str]:
        """What an operator should know, worst first."""
        found = []
        if self.sentinels and not self.named:
            found.append("no majority of Sentinels names a primary: clients are held off")
        if len(self.primaries) != 1:
            found.append(f"{len(self.primaries)} nodes say that they are primary: {', '.join(self.primaries) or 'none'}")
        elif self.named and self.primaries != [self.named]:
            found.append(f"Sentinels name {self.named}, but {self.primaries[0]} says that it is primary")
        for member in (*self.nodes.values(), *self.sentinels.values()):
            kind = "node" if isinstance(member, Node) else "Sentinel"
            if member.error:
                found.append(f"{kind} {member.name} does not answer: {member.error}")
        for node in self.nodes.values():
            if node.role == "slave" and node.link != "up":
                found.append(f"replica {node.name} is not connected to {self.called(node.follows)}")
            if not node.error and not node.persisted:
                found.append(f"node {node.name} could not write to its disk")
        for sentinel in self.sentinels.values():
            if not sentinel.error and sentinel.others != len(self.sentinel_addresses) - 1:
                found.append(f"Sentinel {sentinel.name} knows {sentinel.others} others, not {len(self.sentinel_addresses) - 1}")
        return found


def widened(redis: RedisSet, last: RedisSet | None) -> RedisSet:
    """The set that the inventory describes, with what the last run knew beside: who leaves it still has its say."""
    if not last:
        return redis
    return replace(
        redis,
        addresses=last.addresses | redis.addresses,
        # Not the new ones: they have nothing to say yet, and would only make a majority harder to find.
        sentinel_addresses={name: redis.sentinel_addresses.get(name, at) for name, at in last.sentinel_addresses.items()}
        or redis.sentinel_addresses,
    )


def choose(redis: RedisSet, bootstrap: str, discard: str = "", wanted: Collection[str] = ()) -> str:
    """Who is primary, for a run of the role. The inventory's ``bootstrap`` counts only where nobody alive knows better.

    Raises Refusal where following the inventory could discard data; ``discard`` names the node whose data may go. ``wanted``
    are the nodes that the inventory has, if those of ``redis`` are more.
    """
    wanted = wanted or redis.addresses
    _refuse_wrong_passwords(redis)
    rivals = [name for name in redis.primaries if name != discard]
    followed = {redis.called(node.follows) for node in redis.nodes.values() if node.role == "slave"}
    if redis.named:
        primary = redis.named
    elif len(rivals) > 1:
        raise Refusal(
            f"{' and '.join(rivals)} both say that they are primary, and no majority of Sentinels decides. Compare them "
            f"(`image-editor-redis status`), then name the one whose data may go: -e redis_discard_confirm=<host>"
        )
    elif rivals:
        primary = rivals[0]
    else:
        primary = followed.pop() if len(followed) == 1 else bootstrap
    if primary not in wanted:
        raise Refusal(
            f"{primary} is the live primary, but not in redis_nodes ({', '.join(wanted)}). Put it back, or switch over before it "
            f"leaves: playbooks/redis_switchover.yml -e redis_switchover_to={next(iter(wanted))}"
        )
    for name in rivals:
        if name != primary and redis.nodes[name].keys:
            raise Refusal(
                f"{name} says that it is primary and holds {redis.nodes[name].keys} keys, but {primary} is the primary. If it is "
                f"an old primary, Sentinel makes it a replica within seconds: run this again. To discard its data: "
                f"-e redis_discard_confirm={name}"
            )
    return primary


def _refuse_wrong_passwords(redis: RedisSet) -> None:
    for member in (*redis.nodes.values(), *redis.sentinels.values()):
        if member.error.startswith(("WRONGPASS", "NOAUTH", "there is no password")):
            raise Refusal(
                f"{member.name} answers, but refuses the admin's password: redis_passwords.admin is not the one that it knows "
                f"({member.error})"
            )


def refuse_to_discard(redis: RedisSet, primary: str, discard: str) -> None:
    """A node that this role has never set up must not overwrite data: neither its own nor the replicas'."""
    if STATE.exists() or redis.me not in redis.addresses:
        return
    if primary != redis.me and discard != redis.me and any((DATA / "appendonlydir").glob("*.base.*")):
        raise Refusal(
            f"{redis.me} has data in {DATA} and would lose it as a replica of {primary}. "
            f"To discard it: -e redis_discard_confirm={redis.me}"
        )
    for node in redis.nodes.values():
        if primary == redis.me and node.name not in (redis.me, discard) and node.keys:
            raise Refusal(
                f"{redis.me} is empty and would become the primary of {node.name}, which holds {node.keys} keys and would lose "
                f"them. Promote {node.name} (docs/failover.md), or discard its data: -e redis_discard_confirm={node.name}"
            )


def join(redis: RedisSet, primary: str) -> bool:
    """Give this host's node its place in the set and wait until it has it. True if that took a command."""
    node = _patiently(lambda: redis.node(redis.me), f"{redis.me}: Redis does not answer", 30)
    changed = False
    if redis.me != primary:
        info = node.info("replication")
        if (info["role"], info.get("master_host")) != ("slave", redis.addresses[primary]):
            node("REPLICAOF", redis.addresses[primary], redis.port)
            node("CONFIG", "REWRITE")
            changed = True
    wanted = ("role", "master") if redis.me == primary else ("master_link_status", "up")
    _patiently(
        lambda: node.info("replication").get(wanted[0]) == wanted[1],
        f"{redis.me}: {wanted[0]} is not {wanted[1]} (primary: {primary}); look at journalctl -u redis-server on both",
        60,
    )
    return changed


def watch(redis: RedisSet, primary: str, apply: bool) -> bool:
    """Let this host's Sentinel watch the set, or, with ``apply``, tell it settings that changed. True if that took a command."""
    sentinel = _patiently(lambda: redis.sentinel(redis.me), f"{redis.me}: Sentinel does not answer", 30)
    known = redis.survey().sentinels[redis.me].primary
    if known and not apply:
        return False
    if not known:
        sentinel("SENTINEL", "MONITOR", redis.name, redis.addresses[primary], redis.port, redis.majority)
    for command in SENTINEL_COMMANDS.read_text().splitlines():
        if command and not command.startswith("#"):
            sentinel(*command.split())
    return True


def switchover(redis: RedisSet, to: str, check: bool) -> None:
    """Planned: the primary changes and no acknowledged write is lost. Refuses where that cannot be promised."""
    if to and redis.primaries == [to] and (redis.named == to or not redis.sentinels):
        say(f"{to} is primary already: nothing to do")
        return
    old, new = _plan(redis, to)
    say(f"{old} -> {new}: primary and replica are sound, {len(redis.sentinels)} of {len(redis.sentinels)} Sentinels agree")
    if check:
        say("check only: nothing was changed")
        return
    _backup(redis.node(old))
    # The Sentinel promotes whom it finds to have the lowest priority. Each command has a connection of its own from here on:
    # Sentinel cuts those to a node whose role it changes.
    redis.tell(new, "CONFIG", "SET", "replica-priority", 1)
    try:
        _promote(redis, old, new)
        # Every Sentinel names the new one, so every proxy sends its clients away from the old one as soon as it has looked
        # again. It waits for that with writes paused: clients that it sent away itself would be back too early.
        time.sleep(PROXIES_NOTICE)
        redis.tell(old, "REPLICAOF", redis.addresses[new], redis.port)
        redis.tell(old, "CLIENT", "KILL", "TYPE", "normal")
    finally:
        redis.tell(old, "CLIENT", "UNPAUSE")
        redis.tell(new, "CONFIG", "SET", "replica-priority", 100)
    redis.tell(old, "CONFIG", "REWRITE")
    redis.tell(new, "CONFIG", "REWRITE")
    _patiently(lambda: redis.node(old).info("replication").get("master_link_status") == "up", f"{old} does not follow {new}", 30)
    say(f"{new} is primary; {old} is its replica and up to date")


def _plan(redis: RedisSet, to: str) -> tuple[str, str]:
    """The present primary and the one to be."""
    if problems := redis.problems():
        raise Refusal("unsafe, nothing was changed: " + "; ".join(problems))
    if not redis.sentinels:
        raise Refusal("there is no Sentinel, so there is no replica to switch over to")
    old = redis.named
    replicas = [node for node in redis.nodes.values() if node.name != old]
    if to and to not in [node.name for node in replicas]:
        raise Refusal(f"{to} is not a node of the set: {', '.join(redis.nodes)}")
    if not replicas:
        raise Refusal("there is no replica to switch over to")
    if any("failover" in sentinel.flags or "down" in sentinel.flags for sentinel in redis.sentinels.values()):
        raise Refusal("a failover is under way, nothing was changed")
    new = redis.nodes[to] if to else max(replicas, key=lambda node: node.offset)
    if (behind := redis.nodes[old].offset - new.offset) > 64 * 2**20:
        raise Refusal(f"{new.name} is {behind >> 20} MiB behind {old}, nothing was changed: wait until it has caught up")
    return old, new.name


def _backup(primary: Connection) -> None:
    """A dump of the data as it was before, verified."""
    before = primary("LASTSAVE")
    while True:
        try:
            primary("BGSAVE")
            break
        except ReplyError as error:
            if "in progress" not in str(error):
                raise Refusal(f"{primary.name} cannot save: {error}") from error
            time.sleep(0.5)

    def saved() -> bool:
        info = primary.info("persistence")
        if info["rdb_bgsave_in_progress"] == "0" and info["rdb_last_bgsave_status"] != "ok":
            raise Refusal(f"{primary.name} could not save, nothing was changed: look at its disk and its journal")
        return info["rdb_bgsave_in_progress"] == "0" and primary("LASTSAVE") >= before

    _patiently(saved, f"{primary.name} is still saving", 600)
    say(f"backup: {primary.name} has saved its data")


def _promote(redis: RedisSet, old: str, new: str) -> None:
    """Pause writes, let the replica catch up, let Sentinel promote it."""
    primary, replica = redis.node(old), redis.node(new)
    sentinels = [redis.sentinel(name) for name in redis.sentinel_addresses]
    leader = _in_phase(redis, sentinels, redis.addresses[new])
    began = renewed = time.monotonic()
    primary("CLIENT", "PAUSE", int(PAUSE * 1000), "WRITE")
    offset = int(primary.info("replication")["master_repl_offset"])
    _patiently(
        lambda: int(replica.info("replication").get("slave_repl_offset", 0)) >= offset,
        f"{new} did not catch up; writes go on at {old}, nothing was changed",
        PAUSE / 2,
        every=0.01,
    )
    leader("SENTINEL", "FAILOVER", redis.name)

    def switched() -> bool:
        nonlocal renewed
        if time.monotonic() - renewed > PAUSE / 4:
            redis.tell(old, "CLIENT", "PAUSE", int(PAUSE * 1000), "WRITE")
            renewed = time.monotonic()
        named = {tuple(sentinel("SENTINEL", "GET-MASTER-ADDR-BY-NAME", redis.name)) for sentinel in sentinels}
        return named == {(redis.addresses[new], str(redis.port))}

    _patiently(switched, f"the Sentinels did not agree on {new}: look at `image-editor-redis status`", 3 * PAUSE, every=0.02)
    say(f"{new} was promoted within {time.monotonic() - began:.2f} s, in which writes waited")


def _in_phase(redis: RedisSet, sentinels: list[Connection], address: str) -> Connection:
    """The Sentinel that will see the promotion soonest.

    A Sentinel learns of it by INFO, asked once a second during a failover and sent some 0.3 s too early by one that
    has not asked for long. One that has asked half a second ago asks next just after the promotion. It costs nothing
    to wait for that before writes are paused.
    """
    deadline = time.monotonic() + 3 * PAUSE
    while time.monotonic() < deadline:
        for sentinel in sentinels:
            for flat in sentinel("SENTINEL", "REPLICAS", redis.name):
                replica = dict(zip(flat[::2], flat[1::2], strict=True))
                if replica["ip"] == address and replica["slave-priority"] == "1" and 350 <= int(replica["info-refresh"]) <= 550:
                    return sentinel
        time.sleep(0.05)
    raise Refusal("no Sentinel looks at the replica, nothing was changed: look at journalctl -u redis-sentinel")


def failover(redis: RedisSet, to: str, check: bool) -> None:
    """Forced: promote a replica although no majority of Sentinels can. What the primary had not replicated yet is lost."""
    living = [sentinel.name for sentinel in redis.sentinels.values() if sentinel.primary]
    if not living:
        raise Refusal("no Sentinel answers: start one first (systemctl start redis-sentinel on a Redis host)")
    old = redis.called(redis.sentinels[living[0]].primary)
    if old in redis.primaries:
        raise Refusal(f"{old} is alive and primary: use a switchover, which loses nothing")
    replicas = [node for node in redis.nodes.values() if node.role == "slave" and (not to or node.name == to)]
    if not replicas:
        raise Refusal(f"{to or 'no replica'} does not answer as a replica: nobody can be promoted")
    new = max(replicas, key=lambda node: node.offset).name
    say(f"{old} does not answer; {new} has the most of its data and would be promoted by the Sentinel on {living[0]}")
    if check:
        say("check only: nothing was changed")
        return
    sentinel = redis.sentinel(living[0])
    redis.tell(new, "CONFIG", "SET", "replica-priority", 1)
    try:

        def promoted() -> bool:
            if redis.node(new)("ROLE")[0] == "master":
                return True
            try:
                sentinel("SENTINEL", "FAILOVER", redis.name)
            except ReplyError as error:  # one is under way, or the Sentinel has not seen the replica's priority yet
                say(f"{living[0]}: {error}")
            return False

        _patiently(promoted, f"Sentinel did not promote {new}: look at journalctl -u redis-sentinel on {living[0]}", 60, every=2)
    finally:
        redis.tell(new, "CONFIG", "SET", "replica-priority", 100)
    redis.tell(new, "CONFIG", "REWRITE")
    say(f"{new} is primary")
    if len(living) < redis.majority:
        say(f"only {len(living)} of {len(redis.sentinels)} Sentinels answer, so clients hold off. On every client host run:")
        say(f"  image-editor-redis-proxy pin {new}")


def status(redis: RedisSet, as_json: bool) -> bool:
    """Print what everybody says. True if all is well."""
    problems = redis.problems()
    if as_json:
        members = {kind: {name: vars(m) for name, m in getattr(redis, kind).items()} for kind in ("nodes", "sentinels")}
        print(json.dumps({"primary": redis.named or "".join(redis.primaries[:1]), "problems": problems, **members}))
        return not problems
    for node in redis.nodes.values():
        if node.error:
            print(f"node      {node.name:24} {node.error}")
            continue
        role = "primary" if node.role == "master" else f"replica of {redis.called(node.follows)}, link {node.link}"
        print(f"node      {node.name:24} {role}; offset {node.offset}, {node.keys} keys")
    for sentinel in redis.sentinels.values():
        print(f"sentinel  {sentinel.name:24} {sentinel.error or 'names ' + (redis.called(sentinel.primary) or 'nobody')}")
    for problem in problems:
        print(f"problem   {problem}")
    print("ok" if not problems else f"{len(problems)} problem(s)")
    return not problems


def _patiently[T](condition: Callable[[], T], otherwise: str, seconds: float, every: float = 0.2) -> T:
    """The first true value of ``condition``, which may fail to connect until then; Refusal(otherwise) after ``seconds``."""
    deadline = time.monotonic() + seconds
    reason = ""
    while True:
        try:
            if value := condition():
                return value
        except (OSError, ReplyError) as error:
            reason = f" ({error})"
        if time.monotonic() > deadline:
            raise Refusal(otherwise + reason)
        time.sleep(every)


def say(text: str) -> None:
    print(text, flush=True)


def load() -> RedisSet:
    if not DESCRIPTION.exists():
        raise Refusal("this host is neither a node nor a Sentinel of a set")
    return RedisSet(**json.loads(DESCRIPTION.read_text()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="image-editor-redis", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == "status":
            command.add_argument("--json", action="store_true")
        if name in ("switchover", "failover"):
            command.add_argument("--to", default="", metavar="HOST", help="who shall be primary")
            command.add_argument("--check", action="store_true", help="only say what would be done")
        if name == "failover":
            command.add_argument("--force", action="store_true", required=True)
        if name in ("join", "watch"):
            command.add_argument("primary")
        if name == "primary":
            command.add_argument("bootstrap", help="who it is if nobody alive knows; standard input describes the set")
            command.add_argument("--discard", default="", metavar="HOST")
        if name == "watch":
            command.add_argument("--apply", action="store_true")
    return parser.parse_args()


COMMANDS = {
    "status": "who is primary, and whether all is well (exit code 1 if not)",
    "switchover": "change the primary while it is well; loses nothing",
    "failover": "promote a replica of a dead primary where no majority of Sentinels can",
    "save": "have this host's node write its data to dump.rdb, and wait until it has",
    "primary": "for the role: who is primary",
    "join": "for the role: give this host's node its place",
    "watch": "for the role: let this host's Sentinel watch",
}


def main() -> None:
    asked = arguments()
    if asked.command == "primary":
        described = RedisSet(**json.load(sys.stdin))
        redis = widened(described, load() if DESCRIPTION.exists() else None).survey()
        primary = choose(redis, asked.bootstrap, asked.discard, described.addresses)
        refuse_to_discard(redis, primary, asked.discard)
        say(primary)
        return
    redis = load()
    if asked.command == "status":
        sys.exit(0 if status(redis.survey(), asked.json) else 1)
    elif asked.command == "save":
        _backup(redis.node(redis.me))
    elif asked.command == "join":
        say("changed" if join(redis, asked.primary) else "unchanged")
    elif asked.command == "watch":
        say("changed" if watch(redis, asked.primary, asked.apply) else "unchanged")
    else:
        {"switchover": switchover, "failover": failover}[asked.command](redis.survey(), asked.to, asked.check)


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(f"refused: {refusal}")
    except PermissionError:
        sys.exit("refused: this needs root")
