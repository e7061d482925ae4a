"""Running other programs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from image_editor_tools.errors import Failure

COMPLAINT = re.compile(r"ERROR|FATAL|Fatal|error|HINT")


def run(*command: str | Path, user: str = "", **options: Any) -> str:
    """Run a program, as ``user`` if one is named and the caller is root; return its output.

    ``options`` are those of subprocess.run. Raises Failure with the program's own complaint and exit code.
    """
    name = Path(command[0]).name
    if user and os.geteuid() == 0:
        command = ("runuser", "-u", user, "--", *command)
    if "input" not in options:
        options = {"stdin": subprocess.DEVNULL} | options
    done = subprocess.run(
        command, **({"capture_output": True, "text": True, "errors": "replace", "cwd": "/"} | options), check=False
    )
    if done.returncode != 0:
        raise Failure(f"{name}: {complaint(done.stderr + done.stdout) or f'exit code {done.returncode}'}", done.returncode)
    return done.stdout


def complaint(text: str) -> str:
    """The lines of a program's output that say what went wrong, at most three; its last line if none says so."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(([line for line in lines if COMPLAINT.search(line)] or lines[-1:])[:3])
