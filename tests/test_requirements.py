"""requirements.yml has the versions of the pinned `ansible` package: a controller with ansible-core alone gets the same."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, files, load

INSTALLED = Path(find_spec("ansible_collections").submodule_search_locations[0])
REQUIRED = {entry["name"]: entry["version"] for entry in load(ROOT / "requirements.yml")["collections"]}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_collection_has_the_installed_version(name):
    manifest = json.loads((INSTALLED / name.replace(".", "/") / "MANIFEST.json").read_text())
    assert REQUIRED[name] == manifest["collection_info"]["version"]


def test_every_collection_that_is_used_is_required():
    text = "\n".join(path.read_text() for path in files() if path.suffix == ".yml" and ROOT / "app" not in path.parents)
    available = {f"{path.parent.parent.name}.{path.parent.name}" for path in INSTALLED.glob("*/*/MANIFEST.json")}
    used = {name for name in available if re.search(rf"\b{re.escape(name)}\.\w+:", text)}
    assert used
    assert used <= set(REQUIRED)
