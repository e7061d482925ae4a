"""Find the sections of the Chinese documents that are older than their English source.

translations.py                  list every section that is behind its source; exit 1 if one is behind by more than one version
translations.py --update FILE    note in FILE that each section is now the translation of the present source

The first line of a Chinese document names its source: `<!-- translation of ../failover.md -->`. In an `excerpt of` the source,
sections may be missing. Under each heading, `<!-- Title @1a2b3c4d -->` names the section of the source that was translated, and
the hash of its text at that time.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = re.compile(r"<!-- (translation|excerpt) of (\S+) -->")
MARK = re.compile(r"<!-- (.+) @([0-9a-f]{8}) -->")


def sections(text: str) -> dict[str, str]:
    """The sections of a document by title, down to headings of level 3. A `#` in a code block begins no section."""
    found: dict[str, str] = {}
    title, code = None, False
    for line in text.splitlines():
        code ^= line.lstrip().startswith("```")
        heading = None if code else re.match(r"#{1,3} (.+)", line)
        if heading:
            title = heading[1]
            found[title] = ""
        elif title:
            found[title] += f"{line}\n"
    return found


def version(text: str, title: str) -> str | None:
    """The hash of a section, or None if the document has no such section. Another line width is no other version."""
    section = sections(text).get(title)
    if section is None:
        return None
    if title == "Measured":  # scripts/failures.py fills the cells
        section = re.sub(r"(?<=\| )[\d.]+( s)?(?= \|)", "–", section)
    # scripts/promises.py writes this table, in both languages.
    section = re.sub(r"(?m)^\| event \| clients notice .*\n(\|.*\n)*", "", section)
    return hashlib.sha256(" ".join(section.split()).encode()).hexdigest()[:8]


def git(root: Path, *arguments: str) -> str:
    """What git prints; nothing if it fails, as for a file that a commit does not have."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout


def versions(source: Path, title: str, root: Path) -> Iterator[str | None]:
    """The versions of a section, newest first: of the file as it is, then of each commit that changed the file."""
    yield version(source.read_text(), title)
    name = source.relative_to(root).as_posix()
    for commit in git(root, "log", "--format=%H", "--", name).split():
        yield version(git(root, "show", f"{commit}:{name}"), title)
    yield None  # before the first commit


@dataclass(frozen=True)
class Section:
    """A section of a source, and its translation if there is one."""

    document: Path
    source: Path
    title: str
    translated: str | None  # the version that was translated
    text: str
    root: Path

    @property
    def behind(self) -> int:
        """How many versions the translation is behind its source: 0, 1, or 2 for more."""
        newest = (found for found, _ in groupby(versions(self.source, self.title, self.root)))
        return next((number for number, found in enumerate(islice(newest, 2)) if found == self.translated), 2)

    def __str__(self) -> str:
        return f"{self.document.relative_to(self.root)}: {self.title}"


def documents(root: Path = ROOT) -> list[Path]:
    """The Chinese documents that name a source."""
    found = [root / "README.zh-CN.md", *sorted((root / "docs/zh-CN").glob("*.md"))]
    return [path for path in found if path.exists() and SOURCE.match(path.read_text())]


def translation(document: Path, root: Path = ROOT) -> list[Section]:
    """The sections of a Chinese document, then those of its source that it lacks."""
    kind, name = SOURCE.match(document.read_text()).groups()
    source = (document.parent / name).resolve()
    found = []
    for heading, text in sections(document.read_text()).items():
        mark = MARK.search(text)
        if not mark:
            raise ValueError(f"{document}: under the heading {heading!r}, no line names the section of {name}")
        found.append(Section(document, source, mark[1], mark[2], MARK.sub("", text), root))
    if kind == "translation":
        there = {section.title for section in found}
        lacking = [title for title in sections(source.read_text()) if title not in there]
        found += [Section(document, source, title, None, "", root) for title in lacking]
    return found


def update(document: Path) -> None:
    """Write the present version of the source into each mark."""
    text = document.read_text()
    source = (document.parent / SOURCE.match(text)[2]).resolve().read_text()
    document.write_text(MARK.sub(lambda mark: f"<!-- {mark[1]} @{version(source, mark[1]) or mark[2]} -->", text))


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    if arguments[:1] == ["--update"]:
        for name in arguments[1:]:
            update(Path(name).resolve())
        return 0
    late = [section for document in documents() for section in translation(document) if section.behind]
    for section in late:
        print(f"{section}: {'one version' if section.behind == 1 else 'more than one version'} behind {section.source.name}")
    stale = sum(section.behind > 1 for section in late)
    print(f"translations: {stale} stale")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
