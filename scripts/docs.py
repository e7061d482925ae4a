"""Build the site of all documents, in both languages, in build/site; and build/site.tar.gz, which the role operators installs.

The documents are written for GitHub. This program copies them to build/docs in the dialect of Zensical, which builds the site.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SITE = ROOT / "build/docs", ROOT / "build/site"
PAGES = (":(glob)*.md", "docs", "app/README.md", ":(glob)clients/*/README.md", ":(glob)roles/*/README.md")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
# A line of a paragraph with a list right after it. Python-Markdown wants an empty line between the two.
BEFORE_LIST = re.compile(r"^(?!- |\d+\. |\s).+\n(?=- |\d+\. )", re.MULTILINE)


def listed(root: Path, *patterns: str) -> list[str]:
    """The files of the repository that match a pattern of git, if git does not ignore them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.check_output(command, cwd=root, text=True).split("\0")
    return sorted({name for name in names if name and (root / name).is_file()})


def index(name: str) -> str:
    """The name of a page on the site: README.md is the page of its folder."""
    return re.sub(r"(^|/)README\.md$", r"\1index.md", name)


def convert(text: str, name: str, pages: set[str]) -> str:
    """A document in the dialect of Python-Markdown. A link to a file that the site does not have becomes plain text."""

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.groups(default="")
        if re.match(r"[a-z]+:", target):
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        return f"[{words}]({index(target)}{anchor})" if there in pages else words

    parts = FENCE.split(text)
    parts[::2] = [BEFORE_LIST.sub(r"\g<0>\n", LINK.sub(link, prose)) for prose in parts[::2]]
    parts[1::2] = [re.sub(r"^( *```\w+) .*", r"\1", code) for code in parts[1::2]]  # one word says which language
    return re.sub(r"^ {3}(?=\S)", "    ", "".join(parts), flags=re.MULTILINE)  # four spaces before the contents of a list's item


def collect(root: Path, target: Path) -> list[str]:
    """Copy the documents and their images to the target, and return the names of the pages."""
    if target.exists():
        shutil.rmtree(target)
    names = listed(root, *PAGES)
    pages = {name for name in names if name.endswith(".md")}
    for name in names:
        there = target / index(name)
        there.parent.mkdir(parents=True, exist_ok=True)
        if name in pages:
            there.write_text(convert((root / name).read_text(), name, pages))
        elif Path(name).suffix in {".png", ".svg"}:
            shutil.copyfile(root / name, there)
    return sorted(pages)


def pack(site: Path, archive: Path, seconds: int) -> None:
    """Write the site into an archive, with `seconds` as the time of every file. The same commit gives the same files again."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.mtime = seconds
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(site.rglob("*")):
            packed.add(path, path.relative_to(site).as_posix(), recursive=False, filter=plain)


def main() -> int:
    """See the module's docstring."""
    pages = collect(ROOT, SOURCE)
    if SITE.exists():
        shutil.rmtree(SITE)
    built = subprocess.run(["zensical", "build", "--clean"], cwd=ROOT, check=False)
    if built.returncode or not (SITE / "index.html").is_file():
        print("docs: zensical did not build the site: see the lines above", file=sys.stderr)
        return 1
    commit = subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True)
    pack(SITE, SITE.with_suffix(".tar.gz"), int(commit))
    print(f"docs: {len(pages)} pages in build/site. To read them: python3 -m http.server --directory build/site")
    return 0


if __name__ == "__main__":
    sys.exit(main())
