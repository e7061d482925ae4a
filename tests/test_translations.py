"""The Chinese documents follow their English sources: no section is more than one version behind, and commands are the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, each

sys.path.insert(0, str(ROOT / "scripts"))
import figures
import translations

DOCUMENTS = translations.documents()
FIRST = ("promises", "deploy", "commands", "troubleshooting", "production", "failures", "failover", "postgresql")
NAMES = (*FIRST, "rollback", "restore", "alerts", "quickstart", "api")


def code(text: str) -> tuple[list[str], set[str]]:
    """The lines of a section's code blocks without comments, which are translated, and what its sentences have in backticks."""
    lines, prose, inside = [], [], False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        inside ^= fence
        if inside or line.startswith("    "):
            lines.append(re.sub(r"(^|\s+)# .*", "", line.strip()))
        elif not fence:
            prose.append(line)
    return [line for line in lines if line and not line.startswith("```")], set(re.findall(r"`([^`]+)`", " ".join(prose)))


def test_the_documents_that_users_and_operators_read_first_are_translated():
    assert {ROOT / "README.zh-CN.md", *(ROOT / f"docs/zh-CN/{name}.md" for name in NAMES)} <= set(DOCUMENTS)


def test_no_section_is_more_than_one_version_behind_its_source():
    stale = [str(section) for path in DOCUMENTS for section in translations.translation(path) if section.behind > 1]
    entry = figures.record("translations_stale", len(stale), "sections", "<=0")
    assert entry["ok"], stale


@each("document", DOCUMENTS)
def test_commands_names_and_outputs_are_those_of_the_source(document):
    """In the sections that are at the newest version of their source. An excerpt has some of them."""
    if "excerpt" in document.read_text().partition("\n")[0]:
        pytest.skip("an excerpt has sentences of its own")
    different = {}
    for section in translations.translation(document):
        source = translations.sections(section.source.read_text()).get(section.title, "")
        if section.translated == translations.version(section.source.read_text(), section.title):
            (lines, words), (wanted, names) = code(section.text), code(source)
            if lines != wanted or words != names:
                different[section.title] = [line for line in lines if line not in wanted] + sorted(words ^ names)
    assert different == {}


@pytest.fixture
def book(tmp_path) -> Path:
    """A repository with a document and its translation."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "docs/zh-CN").mkdir(parents=True)
    write(tmp_path, "one", "two")
    (tmp_path / "docs/zh-CN/a.md").write_text(
        "<!-- translation of ../a.md -->\n# 甲\n\n<!-- A @00000000 -->\n\n一\n\n## 乙\n\n<!-- B @00000000 -->\n\n二\n"
    )
    translations.update(tmp_path / "docs/zh-CN/a.md")
    return tmp_path


def write(root: Path, *texts: str) -> None:
    """Commit a document with these sections: A, B, C."""
    titles = ("# A", "## B", "## C")
    (root / "docs/a.md").write_text("\n\n".join(f"{title}\n\n{text}" for title, text in zip(titles, texts, strict=False)))
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "add", "docs/a.md"], cwd=root, check=True)
    subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "-m", "a"], cwd=root, check=True)


def behind(root: Path) -> dict[str, int]:
    (document,) = translations.documents(root)
    return {section.title: section.behind for section in translations.translation(document, root)}


def test_a_section_is_behind_by_the_versions_of_its_own_text(book):
    assert behind(book) == {"A": 0, "B": 0}
    write(book, "one", "two, changed")
    assert behind(book) == {"A": 0, "B": 1}
    write(book, "one\n\n```sh\n# B\n```\n", "two, changed")
    assert behind(book) == {"A": 1, "B": 1}
    write(book, "one\n\n```sh\n# B\n```\n", "two, changed again")
    assert behind(book) == {"A": 1, "B": 2}
    translations.update(book / "docs/zh-CN/a.md")
    assert behind(book) == {"A": 0, "B": 0}


def test_a_change_that_is_not_committed_counts(book):
    (book / "docs/a.md").write_text((book / "docs/a.md").read_text().replace("two", "three"))
    assert behind(book) == {"A": 0, "B": 1}


def test_another_line_width_is_no_other_version(book):
    write(book, "one", "two\n")
    write(book, "one\n", "\n  two")
    assert behind(book) == {"A": 0, "B": 0}


def test_a_measured_figure_is_no_other_version():
    table = "## Measured\n\n| lost | killed |\n| --- | --- |\n| an edge | {} |\n"
    first, measured, changed = (translations.version(table.format(figure), "Measured") for figure in ("–", "1.25 s", "nothing"))
    assert first == measured != changed


def test_a_new_proof_is_no_other_version():
    """scripts/promises.py writes the table of promises in both languages."""
    page = "## What it survives\n\n{}\n\n| event | clients notice | proven |\n| --- | --- | --- |\n| an edge | nothing | {} |\n"
    first, proven, changed = (
        translations.version(page.format(*words), "What it survives") for words in (("All", "no"), ("All", "yes"), ("Much", "no"))
    )
    assert first == proven != changed


def test_a_new_section_is_late_when_it_changes_again(book):
    write(book, "one", "two", "three")
    assert behind(book) == {"A": 0, "B": 0, "C": 1}
    write(book, "one", "two", "four")
    assert behind(book) == {"A": 0, "B": 0, "C": 2}


def test_a_removed_section_is_behind_too(book):
    write(book, "one")
    assert behind(book) == {"A": 0, "B": 1}


def test_a_section_that_names_no_source_is_refused(book):
    document = book / "docs/zh-CN/a.md"
    document.write_text(document.read_text() + "\n## 丙\n\n三\n")
    with pytest.raises(ValueError, match="丙"):
        behind(book)
