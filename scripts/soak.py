"""Run pieces of the long tests (molecule/suite.yml), and keep a record of each proof in docs/proofs.jsonl.

soak.py            list the pieces: when each was proven, and whether its inputs have changed since
soak.py NAME…      run these pieces
soak.py --due [H]  run the pieces that are due: never proven or with other inputs now; the oldest proof first. After H hours
                   less the 50 minutes of a piece, begin no other.

Commit docs/proofs.jsonl after a run. Only a run of committed files is recorded as a proof.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import figures
import rollbacks
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROOFS = ROOT / "docs/proofs.jsonl"
PIECES = yaml.safe_load((ROOT / "molecule/suite.yml").read_text())["pieces"]
LONGEST = 50 * 60  # seconds of a piece
EVERYWHERE = ("roles", "playbooks", "plugins", "inventories", "app", "tools", "molecule/shared")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def inputs(name: str) -> str:
    """A hash of the committed files that a proof of the piece depends on."""
    scenario = PIECES[name].get("test")
    paths = [*EVERYWHERE, f"molecule/{scenario}" if scenario else "molecule", *PIECES[name].get("inputs", [])]
    return hashlib.sha256(git("ls-tree", "HEAD", "--", *paths).encode()).hexdigest()[:12]


def proofs() -> dict[str, dict]:
    """The newest record of each piece whose newest run passed."""
    records = map(json.loads, PROOFS.read_text().splitlines()) if PROOFS.exists() else ()
    return {name: record for name, record in {record["piece"]: record for record in records}.items() if record["ok"]}


def due() -> list[str]:
    """The pieces without a proof of the files that are committed now, the oldest proof first."""
    proven = proofs()
    found = [name for name in PIECES if name not in proven or proven[name]["inputs"] != inputs(name)]
    return sorted(found, key=lambda name: proven[name]["start"] if name in proven else "")


def added(path: Path, since: int) -> list:
    """The JSON lines that a file has got since it had so many bytes."""
    return [json.loads(line) for line in path.read_bytes()[since:].splitlines()] if path.exists() else []


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def run(name: str) -> bool:
    """Run a piece, and append its record."""
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/proofs.jsonl"):
        sys.exit(f"soak: commit these files first, because a proof names its commit:\n{changed}")
    piece = PIECES[name]
    before = size(figures.FIGURES), size(rollbacks.PROVEN)
    selected = {"PYTEST_ADDOPTS": f"-k '{piece['select']}'"} if "select" in piece else {}
    alone = {"SOAK": "1", "JOBS": "1"} if "test" in piece else {}
    environment = os.environ | alone | selected | piece.get("env", {})
    start, log = now(), ROOT / "build/soak" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    test = piece.get("test")
    command = piece.get("command", f"python scripts/suite.py {test}; result=$?; cat build/log/{test}.log; exit $result")
    with log.open("w") as stream:
        ran = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    said = log.read_text(errors="replace")
    # The application's tests end within a test of the scenario, so the largest counts are those that matter.
    counts = {word: max(map(int, re.findall(rf"(\d+) {word}", said)), default=0) for word in ("passed", "failed", "skipped")}
    measured = {entry["figure"]: entry["value"] for entry in added(figures.FIGURES, before[0])}
    record = {
        "piece": name,
        "ok": ran.returncode == 0,
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "inputs": inputs(name),
        "seed": next(iter(re.findall(r"(?:SEED|seed)[= ](\d+)", said)), None),
        "start": start,
        "end": now(),
        **counts,
        "figures": measured,
        "cells": [" ".join(cell) for cell in added(rollbacks.PROVEN, before[1])],
    }
    with PROOFS.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    verdict = "ok" if record["ok"] else "FAILED"
    print(f"soak: {name} {verdict}, {counts['passed']} passed, {counts['failed']} failed: {log.relative_to(ROOT)}")
    return record["ok"]


def table() -> str:
    """All pieces, with the age of their proofs."""
    proven, waiting = proofs(), due()
    lines = [f"{'piece':18} {'proven':20} {'commit':13} {'minutes':>7}"]
    for name in PIECES:
        record = proven.get(name)
        if record is None:
            lines.append(f"{name:18} never")
            continue
        start, end = (datetime.datetime.fromisoformat(record[key]) for key in ("start", "end"))
        age = (datetime.datetime.now(datetime.UTC) - start).days
        due_ = "  due: its inputs have changed" if name in waiting else ""
        lines.append(f"{name:18} {f'{age} days ago':20} {record['commit']:13} {(end - start).total_seconds() / 60:7.0f}{due_}")
    return "\n".join([*lines, "", "make soak PIECE=name runs one, make soak DUE=1 runs those that are due."])


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    if not arguments:
        print(table())
        return 0
    began, hours = time.monotonic(), math.inf
    if arguments[0] == "--due":
        names, hours = due(), float(arguments[1]) if arguments[1:] else hours
    else:
        names = arguments
    if unknown := set(names) - PIECES.keys():
        sys.exit(f"soak: no such piece: {', '.join(sorted(unknown))}. There are: {', '.join(PIECES)}")
    verdicts = [run(name) for name in names if time.monotonic() - began <= hours * 3600 - LONGEST]
    figures.record("soak_pieces", len(PIECES), "pieces")
    figures.record("soak_pieces_proven", len(proofs().keys() & PIECES.keys()), "pieces", f">={len(PIECES)}")
    figures.record("soak_pieces_due", len(due()), "pieces")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
