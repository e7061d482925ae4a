"""The application's services, as systemd and /proc know them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from image_editor_tools import shell

PROPERTIES = "Id,ActiveState,Type,MainPID,WorkingDirectory,ExecMainStartTimestamp"


@dataclass(frozen=True)
class Service:
    """A service of the application."""

    name: str
    state: str  # systemd's ActiveState
    oneshot: bool
    directory: str  # where its main process works, which is the release that it runs; empty without a process
    started: float  # seconds since the epoch

    def is_stale(self, current: str, changed: float) -> bool:
        """Whether the service must be restarted to run the release in ``current`` with the settings of time ``changed``.

        True if it runs another release, started before the settings changed, or does not come up.
        """
        if self.state in ("active", "reloading"):
            return self.directory != current or self.started < changed
        return self.state in ("activating", "failed") and not self.oneshot and self.directory != current


def parse(shown: str, directory: Path) -> list[Service]:
    """Parse what ``systemctl show`` prints; keep the services whose working directory is ``directory``."""
    found = []
    for block in shown.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.strip().splitlines())
        if unit.get("WorkingDirectory") != str(directory):
            continue
        runs, started = "", 0.0
        with contextlib.suppress(OSError, ValueError):  # the process may have ended since
            runs = str(Path(f"/proc/{unit['MainPID']}/cwd").readlink())
            text = unit["ExecMainStartTimestamp"].removesuffix(" UTC")
            started = datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
        found.append(Service(unit["Id"], unit["ActiveState"], unit["Type"] == "oneshot", runs, started))
    return found


def loaded(directory: Path) -> list[Service]:
    """The loaded services whose working directory is ``directory``."""
    listed = shell.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "image-editor-*.service")
    names = [line.split()[0] for line in listed.splitlines()]
    if not names:
        return []
    return parse(shell.run("systemctl", "show", "--timestamp=us+utc", f"--property={PROPERTIES}", *names), directory)


def restart(names: Sequence[str]) -> None:
    """Restart the services and wait until they are up."""
    shell.run("systemctl", "restart", *names)
