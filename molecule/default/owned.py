"""What each account of this host reaches: files with secrets, data, and ports for some accounts only. Runs on a host, as root.

Reads from standard input, as JSON: ``secrets``, a list of texts; ``read`` and ``write``, lists of directories with data. Prints
as JSON: ``reached``, for each account a list such as ``read /path``, ``write /path``, ``connect 2379``; ``may_connect``, the
accounts of each such port. An account is tried with the groups of its processes, besides its own.
"""

import json
import os
import pwd
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

PLACES = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
EXAMPLES = ("/opt/", "/etc/ssl/private/ssl-cert-snakeoil.key")  # keys of libraries in a release, and Debian's, which nothing uses
LARGEST = 1 << 20  # bytes; a file with secrets is small
KEY = b"PRIVATE KEY-----"
RULES = Path("/etc/image-editor-firewall/ports.json")
Identity = tuple[int, tuple[int, ...]]  # a user ID, and the IDs of its groups
Port = tuple[str, int]  # an address, and a port there


def identities() -> dict[str, list[Identity]]:
    """The identities of each account but root."""
    found = {(entry.pw_uid, tuple(sorted(os.getgrouplist(entry.pw_name, entry.pw_gid)))) for entry in pwd.getpwall()}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it has ended
            continue
        groups = {int(group) for group in lines["Groups"].split()} | {int(lines["Gid"].split()[0])}
        found.add((int(lines["Uid"].split()[0]), tuple(sorted(groups))))
    named: dict[str, list[Identity]] = {}
    for uid, groups in sorted(found):
        if uid:
            named.setdefault(name_of(uid), []).append((uid, groups))
    return named


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # of a container or of a unit with DynamicUser
        return str(uid)


def files_with(secrets: list[bytes]) -> list[str]:
    """Every small file that has one of the secrets, or a private key."""
    found = []
    for directory, _, names in chain.from_iterable(os.walk(place) for place in PLACES):
        for path in map(Path(directory).joinpath, names):
            try:
                if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
                    continue
                content = path.read_bytes()
            except OSError:
                continue
            is_key = KEY in content and not str(path).startswith(EXAMPLES)
            if is_key or any(secret in content for secret in secrets):
                found.append(str(path))
    return found


def restricted() -> tuple[list[Port], dict[int, list[str]]]:
    """The ports that only some accounts of this host may reach, here or on another host, and these accounts."""
    rules = json.loads(RULES.read_text())
    ends = [("127.0.0.1", port, rule) for rule in rules["guarded"] for port in rule["ports"]]
    ends += [
        (rule["ipv4"][0], port, rule)
        for rule in rules["outgoing"]
        if rule["accounts"] is not None and rule["ipv4"]
        for port in rule["ports"]
    ]
    accounts: dict[int, set[str]] = {}
    for _, port, rule in ends:
        accounts.setdefault(port, set()).update(rule["accounts"])
    return [(address, port) for address, port, _ in ends], {port: sorted(names) for port, names in accounts.items()}


def connects(end: Port) -> bool:
    try:
        socket.create_connection(end, 1).close()
    except OSError:
        return False
    return True


def begin(identity: Identity, readable: list[str], writable: list[str], ports: list[Port]) -> int:
    """Start a process with this identity. Returns a file descriptor, from which what it reaches can be read."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        return reader
    uid, groups = identity
    os.setgroups(groups)
    os.setgid(groups[0])
    os.setuid(uid)
    reached = [f"read {path}" for path in readable if os.access(path, os.R_OK)]
    reached += [f"write {path}" for path in writable if os.access(path, os.W_OK)]
    with ThreadPoolExecutor(16) as pool:
        reached += [f"connect {port}" for (_, port), works in zip(ports, pool.map(connects, ports), strict=True) if works]
    os.write(writer, json.dumps(reached).encode())
    os._exit(0)


def main() -> None:
    wanted = json.load(sys.stdin)
    files = files_with([secret.encode() for secret in wanted["secrets"]])
    readable, writable = (files + wanted[verb] for verb in ("read", "write"))
    ports, may_connect = restricted()
    tried = [(name, begin(each, readable, writable, ports)) for name, listed in identities().items() for each in listed]
    reached: dict[str, set[str]] = {}
    for name, reader in tried:
        with os.fdopen(reader) as answer:
            reached.setdefault(name, set()).update(json.load(answer))
    answers = {name: sorted(found) for name, found in reached.items()}
    json.dump({"reached": answers, "may_connect": may_connect}, sys.stdout)


if __name__ == "__main__":
    main()
