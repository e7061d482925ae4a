"""Write what the platform survives, and what has proven it, into the tables of docs/promises.md and its translation.

promises.py    take the rows of docs/promises.yml and the newest proofs of docs/proofs.jsonl, and record how many rows have none
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import figures
import soak
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROMISES = yaml.safe_load((ROOT / "docs/promises.yml").read_text())
# For each page: its keys of the texts, the header of its table, and the words for a row without proof.
PAGES = {
    "docs/promises.md": ("event", "notice", "event | clients notice | command that measures it | figure | proven", "not yet"),
    "docs/zh-CN/promises.md": ("event_zh", "notice_zh", "事件 | 客户端的感受 | 测量命令 | 数值 | 证明", "尚未"),
}


def command(promise: Mapping) -> str:
    """The commands that measure a row."""
    first, *others = promise.get("scenarios", []) or [""]
    commands = [", ".join([f"`make test SCENARIO={first}`", *(f"`{name}`" for name in others)])] if first else []
    first, *others = [name for name in promise["pieces"] if name != "suite"] or [""]
    commands += [", ".join([f"`make soak PIECE={first}`", *(f"`{name}`" for name in others)])] if first else []
    return ", ".join(commands)


def proof(promise: Mapping, proven: Mapping[str, dict]) -> dict | None:
    """The oldest of the newest proofs of the row's pieces. None if a piece has none."""
    found = [proven.get(name) for name in promise["pieces"]]
    return None if None in found else min(found, key=lambda record: record["start"])


def table(page: str, proven: Mapping[str, dict]) -> str:
    """The table of a page."""
    event, notice, header, missing = PAGES[page]
    lines = [f"| {header} |", "| --- | --- | --- | --- | --- |"]
    for promise in PROMISES:
        found = proof(promise, proven)
        name = promise.get("figure")
        values = [
            proven[piece]["figures"][name] for piece in promise["pieces"] if name in proven.get(piece, {}).get("figures", {})
        ]
        figure = f"`{name}`" + (f" {', '.join(f'{value:g}' for value in values)}" if values else "") if name else "–"
        when = f"{found['start'][:10]}, {found['commit'][:8]}" if found else missing
        lines.append(f"| {promise[event]} | {promise[notice]} | {command(promise)} | {figure} | {when} |")
    return "\n".join(lines) + "\n"


def fill(page: str, text: str, proven: Mapping[str, dict]) -> str:
    """The text of a page with the table in the place of the one whose header begins with the same words."""
    new = table(page, proven)
    begin = re.escape("| " + " | ".join(PAGES[page][2].split(" | ")[:2]) + " |")
    text, count = re.subn(rf"(?m)^{begin}.*\n(?:\|.*\n)*", lambda _: new, text)
    if count != 1:
        raise ValueError(f"{page} has {count} tables of promises")
    return text


def main() -> int:
    """See the module's docstring."""
    proven = soak.proofs()
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(page, path.read_text(), proven))
    missing = [promise["event"] for promise in PROMISES if proof(promise, proven) is None]
    entry = figures.record("promises_without_proof", len(missing), "promises", "<=0")
    print(f"promises: {len(PROMISES)}, without proof: {len(missing)}", *missing, sep="\n  ")
    return 0 if entry["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
