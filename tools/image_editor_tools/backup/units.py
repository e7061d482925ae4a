"""Start now what a timer starts: the same service, with its user and its limits."""

from __future__ import annotations

import subprocess
import time

from image_editor_tools.errors import Failure, Refusal
from image_editor_tools.shell import run


def run_now(kind: str) -> list[str]:
    """Run the service of a kind and wait until it has ended; return the lines that it printed. As root.

    Raises RunFailed with the service's last line.
    """
    unit = f"image-editor-backup-{kind}.service"
    if "activating" in run("/bin/sh", "-c", f"systemctl is-active {unit} || :"):
        raise Refusal(
            f"a run for {kind} is under way already: nothing was done, wait until it has ended (systemctl status {unit})"
        )
    since = f"--since=@{time.time():.6f}"
    code = subprocess.run(["systemctl", "start", unit], stderr=subprocess.DEVNULL, check=False).returncode
    run("journalctl", "--sync")
    # By unit and time, not by invocation: a journal that is late loses the invocation's ID, and its lines would be missing.
    lines = run("journalctl", "--output=cat", since, f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout").strip().splitlines()
    if code:
        raise RunFailed(unit, lines)
    return lines


class RunFailed(Failure):
    """The service of a kind failed. ``lines`` is all that it printed; the last of them says why."""

    def __init__(self, unit: str, lines: list[str]) -> None:
        super().__init__(lines[-1] if lines else f"{unit} could not be started")
        self.lines = lines
