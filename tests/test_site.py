"""`make docs` builds a site of all documents that needs no network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs

PAGES = {"README.md", "docs/README.md", "docs/alerts.md"}


def convert(text: str, name: str = "docs/a.md") -> str:
    return docs.convert(text, name, PAGES).rstrip("\n")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("[all](alerts.md#apidown), [home](../README.md)", "[all](alerts.md#apidown), [home](../index.md)"),
        ("[here](README.md#map)", "[here](index.md#map)"),
        ("[the play](../playbooks/site.yml), [roles](../roles)", "the play, roles"),
        ("[beyond](../../elsewhere.md)", "beyond"),
        ("[RFC](https://example.org/README.md), [below](#below)", "[RFC](https://example.org/README.md), [below](#below)"),
        ("![page](images/page.png)", "![page](images/page.png)"),
        ("```sh server\n[a](gone.md)\n```", "```sh\n[a](gone.md)\n```"),
        ("see [the\nAPI](README.md)", "see [the\nAPI](index.md)"),
        ("1. One:\n\n   ```sh\n   make\n   ```\n\n   [a](gone.md)", "1. One:\n\n    ```sh\n    make\n    ```\n\n    a"),
        ("Both:\n- one\n- two", "Both:\n\n- one\n- two"),
        ("- one\n  goes on\n- two", "- one\n  goes on\n- two"),
    ],
)
def test_a_document_is_converted(written, wanted):
    assert convert(written) == wanted


def test_every_document_and_image_is_collected(tmp_path):
    pages = docs.collect(ROOT, tmp_path / "site")
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert written | {"README.md", "README.zh-CN.md", "app/README.md", "roles/redis/README.md"} <= set(pages)
    for page in pages:
        text = re.sub(r"^ *```.*?^ *```", "", (tmp_path / "site" / docs.index(page)).read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)", text):
            here = (tmp_path / "site" / page).parent
            assert re.match(r"[a-z]+:", target) or (here / target).exists(), f"{page}: {target}"


def test_the_archive_depends_on_the_pages_and_the_commit_alone(tmp_path):
    (tmp_path / "site/sub").mkdir(parents=True, mode=0o700)
    (tmp_path / "site/sub/index.html").write_text("page")
    docs.pack(tmp_path / "site", tmp_path / "site.tar.gz", 1234567890)
    with tarfile.open(tmp_path / "site.tar.gz") as archive:
        found = [(entry.name, entry.mode, entry.uid, entry.uname, entry.mtime) for entry in archive]
    assert found == [("sub", 0o755, 0, "root", 1234567890), ("sub/index.html", 0o644, 0, "root", 1234567890)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built beside the checkout."""
    root = tmp_path_factory.mktemp("docs")
    docs.collect(ROOT, root / "build/docs")
    shutil.copy(ROOT / "zensical.toml", root)
    subprocess.run(["zensical", "build", "--clean"], cwd=root, check=True)
    return root / "build/site"


def test_the_site_has_both_languages_and_finds_chinese_words(site):
    assert "image-editor-redis status" in (site / "docs/failover.html").read_text()
    assert "计划内切换与故障切换" in (site / "docs/zh-CN/failover.html").read_text()
    assert re.search(r'href="[./]*docs/zh-CN/index\.html"', (site / "index.html").read_text()), "there is no choice of languages"
    searched = "".join(path.read_text() for path in site.rglob("search*.js*"))
    assert "脑裂" in searched


def test_the_site_has_the_anchors_of_github(site):
    assert 'id="出现两个主节点脑裂"' in (site / "docs/zh-CN/failover.html").read_text()
    assert 'id="the-store-does-not-answer"' in (site / "docs/restore.html").read_text()


def test_the_site_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    loads = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?https?:[^>]*>|<link\b[^>]*\bhref=["']?https?:[^>]*>""")
    found = {page.name: loads.findall(page.read_text()) for page in pages}
    assert {name: links for name, links in found.items() if links} == {}


def test_the_site_has_a_dark_mode(site):
    page = (site / "index.html").read_text()
    assert 'data-md-color-scheme="slate"' in page
    assert "prefers-color-scheme: dark" in page
