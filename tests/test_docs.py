"""Every link, heading and file that a document names exists, and every command names its environment."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from conftest import ROOT, each, files, load

sys.path.insert(0, str(ROOT / "scripts"))
import figures

DOCUMENTS = [path for path in files() if path.suffix == ".md"]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
# Names of files of this repository, wherever a sentence or a command has them.
FOLDERS = "app|clients|docs|inventories|molecule|playbooks|plugins|roles|scripts|templates|tests|tools"
NAMED = re.compile(rf"(?<![\w./<-])((?:{FOLDERS})/[\w./-]*+)(?![<*{{…])")


def prose(text: str) -> str:
    """The document without its code blocks: a `#` there is a comment, not a heading."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(document.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)) for title in titles)
    return {title.strip().lower().replace(" ", "-") for title in plain}


def broken_links(document: Path) -> list[str]:
    """The links of a document to a file or heading that does not exist. Other sites are not asked."""
    broken = []
    for target in (a or b for a, b in LINK.findall(prose(document.read_text()))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    return broken


def test_broken_links_are_found(tmp_path):
    (tmp_path / "b.md").write_text("# Some `code`\n")
    (tmp_path / "a.md").write_text("[x](b.md#some-code) [x](b.md#other) ![x](c.png) [x](https://example.org) [x](#none)\n")
    assert broken_links(tmp_path / "a.md") == ["b.md#other", "c.png", "#none"]


def test_every_link_leads_to_an_existing_file_and_heading():
    broken = [f"{document.relative_to(ROOT)}: {target}" for document in DOCUMENTS for target in broken_links(document)]
    assert figures.record("docs_links_broken", len(broken), "links", "<=0")["ok"], broken


@each("document", DOCUMENTS)
def test_files_that_a_document_names_exist(document):
    """Relative to the repository or to the document; folders, wildcards and `<yours>` are left out."""
    named = {name.rstrip("./-") for name in NAMED.findall(document.read_text())}
    named = {name for name in named if Path(name).suffix}
    assert sorted(name for name in named if not (ROOT / name).exists() and not (document.parent / name).exists()) == []


def test_the_limits_of_the_edge_are_those_of_its_role():
    """The application's tests compare the other rows of the table."""
    defaults = load(ROOT / "roles/nginx/defaults/main.yml")
    rows = [line.split(" | ") for line in (ROOT / "docs/api/limits.md").read_text().splitlines() if "`nginx_" in line]
    assert len(rows) == 2
    for _, limit, settings, _ in rows:
        named = [str(defaults[name]) for name in re.findall(r"`(\w+)`", settings)]
        assert re.findall(r"\d+", limit) == [value.removesuffix("r/s") for value in named]


def test_every_command_names_its_environment():
    """Also commands in comments and messages, because operators copy them."""
    found = [
        f"{path.relative_to(ROOT)}: {command}"
        for path in files()
        if path.suffix in {".md", ".yml", ".j2", ".py", ""}
        for command in re.findall(r"ansible-playbook [^`\n]*playbooks/\S+", path.read_text(errors="ignore"))
    ]
    assert len(found) > 40
    assert [command for command in found if " -i " not in command] == []


def test_every_document_is_in_the_index():
    """docs/README.md leads to every document of docs/, so that nobody has to guess what there is."""
    index = (ROOT / "docs/README.md").read_text()
    assert [
        path.name
        for path in sorted((ROOT / "docs").glob("*.md"))
        if path.name not in ("README.md",) and f"({path.name})" not in index
    ] == []
