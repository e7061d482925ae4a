"""The screenshots of the README show the pages as they are."""

from __future__ import annotations

import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import screenshots


@pytest.mark.parametrize("name", screenshots.PAGES)
def test_a_screenshot_is_not_older_than_its_page(name):
    assert json.loads(screenshots.RECORD.read_text())[name] == screenshots.shown(name), "run: make up screenshots"


def test_a_change_of_a_page_is_noticed(tmp_path):
    folder = tmp_path / screenshots.PAGES["operators.png"][0]
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"operators\.png"):
        screenshots.shown("operators.png", tmp_path)
    (folder / "page.css").write_text("body { color: red }")
    before = screenshots.shown("operators.png", tmp_path)
    (folder / "page.css").write_text("body { color: blue }")
    assert screenshots.shown("operators.png", tmp_path) != before
