"""A page of docs that a program writes: what the programs `alerts.py` and `api_errors.py` share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def update(page: Path, text: str, name: str, program: str, arguments: Iterable[str]) -> int:
    """Write the text to the page if it differs; with --check, only say so. Returns the exit status.

    ``name`` begins what is printed. ``program`` is the path of the calling program.
    """
    same = page.exists() and page.read_text() == text
    shown = page.relative_to(ROOT)
    if "--check" in arguments:
        print(f"{name}: ok" if same else f"{name}: {shown} differs: run .venv/bin/python scripts/{Path(program).name}")
        return 0 if same else 1
    if not same:
        page.write_text(text)
        print(f"{name}: wrote {shown}")
    return 0
