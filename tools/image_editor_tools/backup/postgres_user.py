"""Commands of this program that only the user postgres can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from image_editor_tools.backup.host import COMMAND
from image_editor_tools.errors import Failure
from image_editor_tools.shell import run


def as_postgres(*arguments: str | Path) -> dict[str, Any]:
    """Run a command of this program as the user postgres; return its JSON."""
    try:
        return json.loads(run(COMMAND, *arguments, "--json", user="postgres").splitlines()[-1])
    except Failure as failure:
        raise Failure(error_of(str(failure))) from None


def error_of(complaint: str) -> str:
    """The error in what a command printed with ``--json``, or all that it printed."""
    _, found, rest = complaint.partition('{"error": ')
    return json.loads(found + rest)["error"] if found else complaint
