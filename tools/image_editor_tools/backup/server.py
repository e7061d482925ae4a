"""Stopping and starting the live database: Debian's unit runs it, or Patroni on a node of a cluster."""

from __future__ import annotations

import json
from pathlib import Path

from image_editor_tools.backup.host import Host
from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.shell import run

NODE = Path("/etc/patroni/config.yml")  # role postgresql removes it from a host that leaves the cluster
CLUSTER = "image-editor-postgresql"
PROMOTION = 300  # seconds


def require_control() -> None:
    """Refuse while Patroni is paused: then PostgreSQL runs on when Patroni stops."""
    if not NODE.exists():
        return
    state = json.loads(run("/bin/sh", "-c", f"{CLUSTER} status --json || :"))
    if any(node["paused"] for node in state.get("nodes", {}).values()):
        raise Refusal("Patroni is paused, nothing was changed: patronictl -c /etc/patroni/config.yml resume")


def stop(host: Host) -> None:
    """Stop the live server."""
    run("systemctl", "stop", "patroni" if NODE.exists() else host.postgresql_unit)


def start(host: Host) -> None:
    """Start the live server, as the primary. Patroni must not run on another node of a cluster.

    Patroni would not promote data that is older than what etcd knows of the cluster, so etcd forgets the cluster. The new cluster
    begins with the settings in Patroni's configuration.
    """
    if not NODE.exists():
        run("systemctl", "start", host.postgresql_unit)
        return
    (Path(host.postgresql_data) / "patroni.dynamic.json").unlink(missing_ok=True)  # the settings when the backup was made
    run(CLUSTER, "forget")
    run("systemctl", "start", "patroni")
    if run(CLUSTER, "wait", str(PROMOTION)).strip() != "primary":
        raise Failure("another node has become the primary: stop Patroni on the other nodes first")
