"""Print what playbooks/status.yml found as a table: one row for each unit of each host, then what needs attention.

status.py [FILE]    FILE is build/status.json unless given
                    exit 1 if a unit has failed, a host does not answer or PostgreSQL has a problem
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

REPORT = Path(__file__).resolve().parent.parent / "build" / "status.json"
HEADER = ("HOST", "UNIT", "STATE", "VERSION")
# Units whose package has another name.
PACKAGES = {"postgresql@17-main": "postgresql-17", "etcd": "etcd-server", "grafana-server": "grafana"}
# Units that run the application's release.
APPLICATION = tuple(f"image-editor-{name}" for name in ("web", "worker@", "scheduler", "collector", "flower"))


def versions(listing: str) -> dict[str, str]:
    """Return package → version of what is installed, from lines of `status package version`."""
    rows = (line.split() for line in listing.splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "ii"}


def redis_role(info: str) -> str:
    """Return `primary, 1 replica` or `replica of 10.0.0.1, link up` from the text of INFO replication."""
    fields = dict(line.strip().split(":", 1) for line in info.splitlines() if ":" in line)
    match fields.get("role"):
        case "master":
            count = int(fields.get("connected_slaves", 0))
            return f"primary, {count} {'replica' if count == 1 else 'replicas'}"
        case "slave":
            return f"replica of {fields.get('master_host')}, link {fields.get('master_link_status')}"
        case _:
            return "does not answer"


def cluster(host: dict) -> dict:
    """The state of the PostgreSQL cluster as this host sees it. Empty if the host is no node."""
    found = json.loads(host.get("postgresql") or "{}")
    return found if "nodes" in found else {}


def patroni(name: str, found: dict) -> str:
    """Patroni's version and the node's role."""
    node = found.get("nodes", {}).get(name, {})
    return ", ".join(filter(None, (node.get("version"), node.get("role")))) or "does not answer"


def rows(name: str, host: dict) -> list[tuple[str, str, str, str]]:
    """Return the table's rows of one host: its units, then units of others that have failed."""
    if not host.get("units"):
        return [(name, "-", "NO ANSWER", "")]
    packages = versions(host["packages"])
    found = []
    units = {unit["unit"]: unit for unit in json.loads(host["units"])}
    failed = {unit["unit"]: unit for unit in json.loads(host["failed"] or "[]")}
    for title, unit in sorted((units | failed).items()):
        if unit.get("load") == "not-found":
            continue
        stem = title.removesuffix(".service")
        state = "FAILED" if title in failed else f"{unit['active']} ({unit['sub']})"
        version = packages.get(PACKAGES.get(stem, stem), "")
        if stem.startswith(APPLICATION) and host["release"]:
            version = f"release {host['release']}"
        if stem == "redis-server":
            version = f"{version}, {redis_role(host['redis'])}"
        if stem == "patroni":
            version = patroni(name, cluster(host))
        found.append((name, stem, state, version))
    return found or [(name, "-", "no units", "")]


def table(report: dict) -> tuple[str, bool]:
    """Return the report as text, and whether everything is well."""
    body = [row for name, host in report["hosts"].items() for row in rows(name, host)]
    widths = [max(len(row[column]) for row in [HEADER, *body]) for column in range(len(HEADER))]
    lines, previous = [], None
    for row in [HEADER, *body]:
        shown = row if row[0] != previous else ("", *row[1:])
        previous = row[0]
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip())
    silent = [row[0] for row in body if row[2] == "NO ANSWER"]
    failed = [f"{row[1]} on {row[0]}" for row in body if row[2] == "FAILED"]
    releases = sorted({host["release"] for host in report["hosts"].values() if host.get("release")})
    lines += [
        "",
        f"environment  {report['environment']}, {len(report['hosts']) - len(silent)} of {len(report['hosts'])} hosts answer",
    ]
    lines.append(f"release      {', '.join(releases) or 'none'}{' (hosts differ)' if len(releases) > 1 else ''}")
    schedulers = sorted({host["scheduler"] for host in report["hosts"].values() if host.get("scheduler")})
    lines.append(f"scheduler    {', '.join(schedulers) or 'no lease found'}")
    # Every node has been asked, and each may see something else.
    problems = sorted({problem for host in report["hosts"].values() for problem in cluster(host).get("problems", [])})
    lines += [f"postgresql   {problem}" for problem in problems]
    lines.append(f"failed       {', '.join(failed) or 'nothing'}")
    if silent:
        lines.append(f"no answer    {', '.join(silent)}")
    return "\n".join(lines), not silent and not failed and not problems


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    text, well = table(json.loads(Path(arguments[0] if arguments else REPORT).read_text()))
    print(text)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
