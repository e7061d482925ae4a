"""An account that a stranger has taken over reaches what is its own, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers import ROOT, container, secret
from test_trust import HOSTS

sys.path.insert(0, str(ROOT / "scripts"))
from figures import record

SCRIPT = Path(__file__).with_name("owned.py").read_text()
DOCUMENT = ROOT / "docs/architecture.md"
KINDS = ("postgresql", "redis", "media", "dumps")  # each has a key of its own, derived from the passphrase
VERBS = ("read", "write")


def table() -> dict[str, dict[str, set[str]]]:
    """What each account reads and changes, as the document says."""
    header = "| account | reads | changes | what its owner gains |"
    (rows,) = [part.splitlines()[2:] for part in DOCUMENT.read_text().split("\n\n") if part.startswith(header)]
    found = {}
    for row in rows:
        account, reads, changes = [re.findall("`([^`]+)`", cell) for cell in row.strip("|").split(" | ")[:3]]
        found[account[0]] = {"read": set(reads), "write": set(changes)}
    return found


def tried(host: str, wanted: dict[str, list[str]]) -> dict:
    """What every account of a host reaches."""
    command = ["docker", "exec", "-i", container(host), "python3", "-c", SCRIPT]
    return json.loads(subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=True).stdout)


def test_no_account_reaches_what_is_not_its_own():
    own = table()
    secrets = [path.read_text().strip() for path in (ROOT / "secrets" / os.environ["LAB_NAME"]).iterdir() if path.is_file()]
    secrets += [hashlib.sha256(f"{secret('backup_passphrase')}:{kind}".encode()).hexdigest() for kind in KINDS]
    data = {verb: sorted({path for paths in own.values() for path in paths[verb] if path.startswith("/var/")}) for verb in VERBS}
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(HOSTS, pool.map(lambda host: tried(host, {"secrets": secrets} | data), HOSTS), strict=True))
    wrong, right = [], set()
    for host, answer in found.items():
        for account, reached in answer["reached"].items():
            for what in reached:
                verb, _, target = what.partition(" ")
                if verb == "connect":
                    allowed = account in answer["may_connect"][target]
                else:
                    allowed = target in own.get(account, {}).get(verb, ())
                if allowed:
                    right.add((account, what))
                else:
                    wrong.append(f"{host}: {account}: {what}")
    # Otherwise the test would look at nothing. A failover writes a password into redis-state.conf.
    expected = {(name, f"{verb} {path}") for name, verbs in own.items() for verb, paths in verbs.items() for path in paths}
    expected |= {("postgres", "connect 2379"), ("etcd", "connect 2380"), ("postgres", "connect 8433")}
    assert {(name, what) for name, what in expected - right if "redis-state.conf" not in what} == set()
    tried_accounts = sum(len(answer["reached"]) for answer in found.values())
    assert record("owned_users_tried", tried_accounts, "accounts of hosts", ">=200")["ok"]
    assert record("owned_user_reaches", len(wrong), "files and ports", "<=0")["ok"], "\n".join(wrong)
