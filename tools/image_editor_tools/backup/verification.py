"""Verification: restore the newest backup of every kind into a scratch directory, and compare."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from image_editor_tools.backup import media, metrics, postgresql, redis
from image_editor_tools.backup.guards import locked
from image_editor_tools.backup.host import STATE, Host
from image_editor_tools.errors import Failure


@dataclass(frozen=True)
class Verdict:
    """Whether the newest backup of a kind was restored, and what was found or went wrong."""

    kind: str
    ok: bool
    text: str

    def line(self) -> str:
        """The verdict for people."""
        return f"{'ok' if self.ok else 'FAILED'} {self.kind}: {self.text}"


def verify(host: Host, report: Callable[[str], None]) -> list[Verdict]:
    """Verify every kind, even if another kind fails. ``report`` gets each verdict as soon as it is known."""
    verdicts = []
    with locked("verify"):
        for kind in host.kinds:
            verdicts.append(_verify(host, kind))
            report(verdicts[-1].line())
    return verdicts


def _verify(host: Host, kind: str) -> Verdict:
    began = time.time()
    try:
        if kind == "postgresql":
            found = postgresql.verify(host)
        else:
            with _scratch() as work:
                found = {"redis": redis, "media": media}[kind].verify(host, work)
    except Failure as failure:
        return Verdict(kind, False, str(failure))
    metrics.record("verify", {("verified_timestamp_seconds", kind): time.time()})
    return Verdict(kind, True, f"{found}, {time.time() - began:.1f} s")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=STATE / "verify") as work:
        yield Path(work)


def failed(verdicts: list[Verdict]) -> list[str]:
    """The kinds that could not be verified."""
    return [verdict.kind for verdict in verdicts if not verdict.ok]
