#!/usr/bin/python3
"""Which release of the application this host runs, has and refuses. For operators, and for the Ansible role itself.

Works as root without a controller. What is current is what the symlink says, never the newest directory; what runs is what
the processes say, so that a switch which was cut off half-way is seen and finished.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SETTINGS = Path("/etc/image-editor/image-editor.env")
LOCK = Path("/run/image-editor-release.lock")  # a reboot ends what it protects, and it


class Refusal(Exception):
    """Something is not as it must be; the text tells the operator what and what to do."""


@dataclass
class Unit:
    """A service of the application, as systemd and /proc know it."""

    name: str
    state: str
    oneshot: bool
    directory: str  # where its main process works: the release it runs
    started: float  # seconds since the epoch


@dataclass
class Host:
    """The releases of this host below ``root``."""

    root: Path

    @property
    def releases(self) -> Path:
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
        path = self.root / "rejected.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def proven(self) -> str:
        """The release with which a release or rollback last ended well."""
        path = self.root / "proven"
        return path.read_text().strip() if path.exists() else ""

    def status(self) -> dict:
        details = {}
        for release in self.kept():
            directory = self.releases / release
            facts = {name: directory / name.upper() for name in ("commit", "migrations")}
            details[release] = {name: path.read_text().strip() for name, path in facts.items() if path.exists()}
        return {
            "current": self.link("current"),
            "previous": self.link("previous"),
            "proven": self.proven(),
            "releases": details,
            "rejected": self.rejected(),
            "stale": [unit.name for unit in self.stale()],
            "free": shutil.disk_usage(self.releases).free,
        }

    def stale(self) -> list[Unit]:
        """Services that run another release than the current one, or with older settings, or do not come up at all."""
        current = os.path.realpath(self.root / "current")
        changed = SETTINGS.stat().st_mtime if SETTINGS.exists() else 0.0
        return [
            unit
            for unit in units(self.root / "current")
            if (unit.state in ("active", "reloading") and (unit.directory != current or unit.started < changed))
            or (unit.state in ("activating", "failed") and not unit.oneshot and unit.directory != current)
        ]

    def switch(self, release: str, *, back: bool = False, check: bool = False, only_from: str = "") -> list[str]:
        """Make ``release`` the current one and restart what runs another; return what was done."""
        done = []
        before = self.link("current")
        if only_from and before != only_from:
            return []
        if release and release != before:
            if not (self.releases / release / "COMPLETE").exists() and not check:
                raise Refusal(f"release {release} is not here, or not complete: {', '.join(self.kept()) or 'no release'} is")
            done.append(f"current: {before or 'none'} -> {release}")
            if not check:
                if before and not back:
                    relink(self.root / "previous", f"releases/{before}")
                relink(self.root / "current", f"releases/{release}")
        restart = [unit.name for unit in self.stale()]
        if restart:
            done.append(f"restart {' '.join(restart)}")
            if not check:
                systemctl("restart", *restart)
        return done

    def install(self, archive: Path, release: str, checksum: str) -> list[str]:
        """Unpack a release; it is there as a whole or not at all."""
        if (self.releases / release / "COMPLETE").exists():
            return []
        with archive.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != checksum:
            raise Refusal(f"{archive.name} has the checksum {found[:12]}…, not {checksum[:12]}… as when it was built")
        for leftover in (self.releases / f".{release}", self.releases / release):
            shutil.rmtree(leftover, ignore_errors=True)
        (self.releases / f".{release}").mkdir()
        subprocess.run(
            ["tar", "-x", "--no-same-owner", "-p", "--strip-components=1", "-f", archive, "-C", self.releases / f".{release}"],
            check=True,
        )
        if (self.releases / f".{release}/REVISION").read_text().strip() != release:
            raise Refusal(f"{archive.name} does not hold release {release}")
        (self.releases / f".{release}").rename(self.releases / release)
        return [f"installed {release}"]

    def reject(self, release: str, why: str) -> list[str]:
        """Remember why a release is refused from now on; with no reason, forget it."""
        rejected = self.rejected()
        wanted = {name: text for name, text in rejected.items() if name != release}
        if why:
            wanted[release] = rejected.get(release) or f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {why}"
        if wanted == rejected:
            return []
        temporary = self.root / ".rejected.json"
        temporary.write_text(json.dumps(wanted, indent=1) + "\n")
        temporary.rename(self.root / "rejected.json")
        return [f"{'rejected' if why else 'accepted'} {release}"]

    def conclude(self, release: str, keep: int) -> list[str]:
        """A release has ended well: nothing is held against it, and of the oldest ones those beyond ``keep`` go."""
        done = self.reject(release, "")
        if self.proven() != release:
            (self.root / "proven").write_text(f"{release}\n")
            done.append(f"proven {release}")
        return done + self.prune(keep, {release})

    def prune(self, keep: int, protected: set[str]) -> list[str]:
        """Remove the oldest releases beyond ``keep``, never the current, the previous or a protected one."""
        protected = protected | {self.link("current"), self.link("previous")}
        kept = self.kept()
        room = max(0, keep - len(protected & set(kept)))
        gone = [release for release in kept if release not in protected][room:]
        half = [path.name for path in self.releases.glob(".[0-9a-f]*")]
        for name in [*gone, *half]:
            path = self.releases / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [f"removed {name}" for name in [*gone, *half]]


def systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def units(current: Path) -> list[Unit]:
    """The loaded services that work in the current release."""
    listed = systemctl("list-units", "--all", "--plain", "--no-legend", "image-editor-*.service")
    names = [line.split()[0] for line in listed.splitlines()]
    if not names:
        return []
    properties = "Id,ActiveState,Type,MainPID,WorkingDirectory,ExecMainStartTimestamp"
    found = []
    for block in systemctl("show", "--timestamp=us+utc", f"--property={properties}", *names).split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.strip().splitlines())
        if unit.get("WorkingDirectory") != str(current):
            continue
        directory, started = "", 0.0
        with contextlib.suppress(OSError, ValueError):
            directory = str(Path(f"/proc/{unit['MainPID']}/cwd").readlink())
            text = unit["ExecMainStartTimestamp"].removesuffix(" UTC")
            started = datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
        found.append(Unit(unit["Id"], unit["ActiveState"], unit["Type"] == "oneshot", directory, started))
    return found


def relink(path: Path, target: str) -> None:
    """Point a symlink elsewhere in one step."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(path)


def lock(owner: str, *, instead_of: str) -> dict:
    """Take the lock, or the one of ``instead_of``; return whose it is now and since when."""
    held = {"owner": owner, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    temporary = LOCK.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(held))
    try:
        if instead_of and LOCK.exists() and json.loads(LOCK.read_text())["owner"] == instead_of:
            temporary.rename(LOCK)
            return held
        os.link(temporary, LOCK)  # fails if it is there, and is never there without its content
        return held
    except FileExistsError:
        held = json.loads(LOCK.read_text())
        seconds = int((datetime.now(UTC) - datetime.fromisoformat(held["since"])).total_seconds())
        return held | {"age": f"{seconds // 3600} h {seconds // 60 % 60} min {seconds % 60} s"}
    finally:
        temporary.unlink(missing_ok=True)


def unlock(owner: str) -> list[str]:
    """Give the lock back, if it is ours."""
    if LOCK.exists() and json.loads(LOCK.read_text())["owner"] == owner:
        LOCK.unlink()
    return []


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="image-editor-release", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("/opt/image-editor"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="what is current, previous, kept, rejected, and which services run something else")
    switch = verbs.add_parser("switch", help="make a release the current one and restart what runs another")
    switch.add_argument("release", nargs="?", default="", help="none: only restart")
    switch.add_argument("--back", action="store_true", help="the release left is no previous one to come back to")
    switch.add_argument("--check", action="store_true", help="only say what would be done")
    switch.add_argument("--only-from", default="", metavar="RELEASE", help="do nothing if another one is current")
    install = verbs.add_parser("install", help="unpack an archive after a look at its checksum")
    install.add_argument("archive", type=Path)
    install.add_argument("release")
    install.add_argument("checksum")
    reject = verbs.add_parser("reject", help="refuse a release from now on")
    reject.add_argument("release")
    reject.add_argument("why")
    verbs.add_parser("accept", help="refuse it no longer").add_argument("release")
    conclude = verbs.add_parser("conclude", help="a release has ended well: remove the oldest ones")
    conclude.add_argument("release")
    conclude.add_argument("keep", type=int)
    take = verbs.add_parser("lock", help="on the builder: take the lock that keeps two operators from releasing at once")
    take.add_argument("owner")
    take.add_argument("--instead-of", default="")
    verbs.add_parser("unlock", help="on the builder: give it back").add_argument("owner")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Do it; the last line of what changes something says `changed` or `unchanged`."""
    asked = parse(arguments)
    host = Host(asked.directory)
    try:
        match asked.verb:
            case "status":
                print(json.dumps(host.status(), indent=1))
                return 0
            case "lock":
                print(json.dumps(lock(asked.owner, instead_of=asked.instead_of)))
                return 0
            case "switch":
                done = host.switch(asked.release, back=asked.back, check=asked.check, only_from=asked.only_from)
            case "install":
                done = host.install(asked.archive, asked.release, asked.checksum)
            case "reject":
                done = host.reject(asked.release, asked.why)
            case "accept":
                done = host.reject(asked.release, "")
            case "conclude":
                done = host.conclude(asked.release, asked.keep)
            case _:
                done = unlock(asked.owner)
    except Refusal as refusal:
        print(f"image-editor-release: {refusal}", file=sys.stderr)
        return 1
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"image-editor-release: {error}", file=sys.stderr)
        return 2
    print("\n".join([*done, "changed" if done else "unchanged"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
