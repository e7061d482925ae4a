"""The releases below one directory: which one is current, previous, kept or rejected, and how this changes.

The current release is the one that the symlink names, never the newest directory. The release that runs is the one that
the processes work in, so a switch that was interrupted is seen and finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_editor_tools import shell
from image_editor_tools.errors import Refusal
from image_editor_tools.release import services

SETTINGS = Path("/etc/image-editor/image-editor.env")


@dataclass(frozen=True)
class Host:
    """The releases of this host below ``root``."""

    root: Path

    @property
    def releases(self) -> Path:
        """The directory that has one directory for each release."""
        return self.root / "releases"

    def link(self, name: str) -> str:
        """The release that a symlink names; empty if there is none."""
        path = self.root / name
        return path.readlink().name if path.is_symlink() else ""

    def kept(self) -> list[str]:
        """The complete releases, the newest on this host first."""
        found = [path.parent for path in self.releases.glob("[0-9a-f]*/COMPLETE")]
        return [path.name for path in sorted(found, key=lambda path: path.stat().st_ctime, reverse=True)]

    def rejected(self) -> dict[str, str]:
        """The releases that are refused on this host, each with the reason."""
        path = self.root / "rejected.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def proven(self) -> str:
        """The release with which a release or rollback last ended well."""
        path = self.root / "proven"
        return path.read_text().strip() if path.exists() else ""

    def status(self) -> dict[str, Any]:
        """Everything that is known about the releases of this host."""
        details = {}
        for release in self.kept():
            facts = {name: self.releases / release / name.upper() for name in ("commit", "migrations")}
            details[release] = {name: path.read_text().strip() for name, path in facts.items() if path.exists()}
        return {
            "current": self.link("current"),
            "previous": self.link("previous"),
            "proven": self.proven(),
            "releases": details,
            "rejected": self.rejected(),
            "stale": self.stale(),
            "free": shutil.disk_usage(self.releases).free,
        }

    def stale(self) -> list[str]:
        """The services that run another release than the current one or older settings, or that do not come up."""
        current = os.path.realpath(self.root / "current")
        changed = SETTINGS.stat().st_mtime if SETTINGS.exists() else 0.0
        return [found.name for found in services.loaded(self.root / "current") if found.is_stale(current, changed)]

    def switch(self, release: str, *, back: bool = False, check: bool = False, only_from: str = "") -> list[str]:
        """Make ``release`` the current one and restart the services that run another; return what was done.

        Without a release, only restart. ``back``: the release that is left does not become the previous one. ``check``:
        change nothing. ``only_from``: do nothing if another release is current.
        """
        done = []
        before = self.link("current")
        if only_from and before != only_from:
            return []
        if release and release != before:
            if not (self.releases / release / "COMPLETE").exists() and not check:
                raise Refusal(
                    f"release {release} is not on this host, or not complete. Complete: {', '.join(self.kept()) or 'none'}"
                )
            done.append(f"current: {before or 'none'} -> {release}")
            if not check:
                if before and not back:
                    _relink(self.root / "previous", f"releases/{before}")
                _relink(self.root / "current", f"releases/{release}")
        if stale := self.stale():
            done.append(f"restart {' '.join(stale)}")
            if not check:
                services.restart(stale)
        return done

    def install(self, archive: Path, release: str, checksum: str) -> list[str]:
        """Unpack a release whose archive has the SHA-256 ``checksum``. The release is installed as a whole or not at all."""
        if (self.releases / release / "COMPLETE").exists():
            return []
        with archive.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != checksum:
            raise Refusal(f"{archive.name} has the checksum {found[:12]}…, not {checksum[:12]}… as when it was built")
        unpacked = self.releases / f".{release}"
        for leftover in (unpacked, self.releases / release):
            shutil.rmtree(leftover, ignore_errors=True)
        unpacked.mkdir()
        shell.run("tar", "-x", "--no-same-owner", "-p", "--strip-components=1", "-f", archive, "-C", unpacked)
        if (unpacked / "REVISION").read_text().strip() != release:
            raise Refusal(f"{archive.name} does not hold release {release}")
        unpacked.rename(self.releases / release)
        return [f"installed {release}"]

    def reject(self, release: str, why: str) -> list[str]:
        """Refuse a release from now on. The first reason is kept."""
        rejected = self.rejected()
        if release in rejected:
            return []
        self._write_rejected(rejected | {release: f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {why}"})
        return [f"rejected {release}"]

    def accept(self, release: str) -> list[str]:
        """Stop refusing a release."""
        rejected = self.rejected()
        if release not in rejected:
            return []
        self._write_rejected({name: why for name, why in rejected.items() if name != release})
        return [f"accepted {release}"]

    def conclude(self, release: str, keep: int) -> list[str]:
        """Record that a release has ended well: it is accepted and proven, and the oldest beyond ``keep`` are removed."""
        done = self.accept(release)
        if self.proven() != release:
            (self.root / "proven").write_text(f"{release}\n")
            done.append(f"proven {release}")
        return done + self.prune(keep, {release})

    def prune(self, keep: int, protected: set[str]) -> list[str]:
        """Remove the oldest releases beyond ``keep``, but never the current, the previous or a ``protected`` one."""
        protected = protected | {self.link("current"), self.link("previous")}
        kept = self.kept()
        room = max(0, keep - len(protected & set(kept)))
        oldest = [release for release in kept if release not in protected][room:]
        unfinished = [path.name for path in self.releases.glob(".[0-9a-f]*")]
        for name in [*oldest, *unfinished]:
            path = self.releases / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [f"removed {name}" for name in [*oldest, *unfinished]]

    def _write_rejected(self, rejected: dict[str, str]) -> None:
        temporary = self.root / ".rejected.json"
        temporary.write_text(json.dumps(rejected, indent=1) + "\n")
        temporary.rename(self.root / "rejected.json")


def _relink(path: Path, target: str) -> None:
    """Point a symlink to ``target`` in one step."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(path)
