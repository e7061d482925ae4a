"""Ending a Patroni that hangs, so that systemd starts it again.

A Patroni whose main thread waits for ever neither demotes its server nor promotes it, and does not see SIGTERM. Patroni
itself says so: ``/liveness`` answers 503 when its loop has not run for ``ttl`` (a primary) or twice as long (a replica). A
process that was stopped, or whose API hangs, does not answer at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException

from image_editor_tools.errors import Failure
from image_editor_tools.postgresql.connection import Clients, is_hung
from image_editor_tools.shell import run

EVERY = 3.0  # seconds between two questions
UNWELL = 3.0  # seconds for which Patroni says that its loop does not run, beyond those that Patroni itself waits
SILENT = 10.0  # seconds for which Patroni does not answer; a busy host may be slow once
STARTING = 30.0  # seconds in which a new process need not answer


@dataclass(frozen=True)
class Unit:
    """What systemd says of patroni.service. ``age``: seconds since its main process was started."""

    state: str
    age: float


def read_unit(shown: str, now: float) -> Unit:
    """Read the properties that ``systemctl show`` prints. ``now``: the monotonic clock, in seconds."""
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    return Unit(values["ActiveState"], now - int(values["ExecMainStartTimestampMonotonic"] or 0) / 1e6)


@dataclass
class Watch:
    """What was seen of Patroni so far."""

    since: float | None = None  # when the first question without a good answer was sent; None if the last answer was good
    misses: int = 0

    def well(self) -> None:
        """Patroni's loop runs."""
        self.since, self.misses = None, 0

    def unwell(self, enough: float, asked: float, now: float, unit: Unit) -> bool:
        """Note that a question of the time ``asked`` had a bad answer. Return whether Patroni has to be ended."""
        if unit.state not in ("active", "deactivating") or unit.age < STARTING:
            self.well()
            return False
        self.since, self.misses = asked if self.since is None else self.since, self.misses + 1
        return self.misses > 1 and now - self.since >= enough


def look() -> Unit:
    """Ask systemd for Patroni's unit."""
    shown = run("systemctl", "show", "--property=ActiveState,ExecMainStartTimestampMonotonic", "patroni.service")
    return read_unit(shown, time.monotonic())


def end(unit: Unit, reason: str) -> None:
    """Kill Patroni. The next one takes its server over. If Patroni was to be stopped, its server stops, too."""
    print(f"Patroni hangs: {reason}. Patroni is killed, and systemd starts it again", flush=True)
    if unit.state == "deactivating":
        run("systemctl", "kill", "--kill-whom=all", "--signal=INT", "patroni.service")  # PostgreSQL's fast shutdown
    run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "patroni.service")


def watch(connect: Callable[[], Clients], again: Callable[[], bool] = lambda: True) -> None:
    """Ask Patroni on this host for ever, and end it when it hangs. ``again``: whether to go on.

    ``connect`` is called again after each error, because certificates and the CA are replaced while this runs.
    """
    seen, clients = Watch(), None
    while again():
        asked = time.monotonic()
        try:
            clients = clients or connect()
            clients.patroni(clients.described.me, "/liveness")
            seen.well()
        except (OSError, HTTPException, Failure) as error:
            clients = None
            if not is_hung(error):  # such as a refused connection, while Patroni starts or stops its server
                seen.well()
            elif seen.unwell(UNWELL if isinstance(error, Failure) else SILENT, asked, time.monotonic(), unit := look()):
                end(unit, f"GET /liveness: {error}")
                seen.well()
        time.sleep(EVERY)
