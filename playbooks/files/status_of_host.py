"""Print the units, versions and roles of this host as one JSON object of texts. An answer that a host cannot give is empty.

playbooks/status.yml runs it on every host, and scripts/status.py reads what it prints.
"""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SECONDS = 20  # for each command
UNITS = (
    "image-editor-*",
    "postgresql@*",
    "patroni.service",
    "etcd.service",
    "redis-*",
    "haproxy.service",
    "keepalived.service",
    "nginx.service",
    "prometheus*",
    "grafana-server.service",
)
PACKAGES = (
    "postgresql-17",
    "etcd-server",
    "redis-server",
    "redis-sentinel",
    "haproxy",
    "keepalived",
    "nginx",
    "grafana",
    "prometheus*",
)
LEASE = "SELECT split_part(holder, ':', 1) FROM scheduler_lease WHERE expires_at > now()"
COMMANDS = {
    "units": ("systemctl", "list-units", "--all", "--output=json", "--type=service,timer", *UNITS),
    "failed": ("systemctl", "list-units", "--failed", "--output=json"),
    "packages": ("dpkg-query", "--show", r"--showformat=${db:Status-Abbrev} ${Package} ${Version}\n", *PACKAGES),
    "redis": ("/usr/local/sbin/image-editor-redis-cli", "INFO", "replication"),
    "postgresql": ("/usr/local/sbin/image-editor-postgresql", "status", "--json"),
    "scheduler": ("runuser", "-u", "postgres", "--", "psql", "-XtAd", "image_editor", "-c", LEASE),
}


def answer(command: tuple[str, ...]) -> str:
    """Return what `command` prints, also when it fails: dpkg-query does for one unknown package, and lists the others."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd="/", check=False).stdout.strip()
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""


def main() -> None:
    """See the module's docstring."""
    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        found = dict(zip(COMMANDS, pool.map(answer, COMMANDS.values()), strict=True))
    current = Path("/opt/image-editor/current")
    found["release"] = current.readlink().name if current.is_symlink() else ""
    print(json.dumps(found))


main()
