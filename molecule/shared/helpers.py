"""pytest helpers for all scenarios; a plugin (``-p helpers``), see .config/molecule/config.yml."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[2]


def secret(name: str) -> str:
    """Return the scenario's secret ``name``, as made by inventories/lab/group_vars/all/secrets.yml."""
    return (ROOT / "secrets" / os.environ["LAB_NAME"] / name).read_text().strip()


@pytest.fixture(scope="session")
def on():
    """Return a function: ``on("db1")`` is the testinfra host of that name in this scenario."""
    prefix = os.environ["LAB_NAME"]
    return lambda name: testinfra.get_host(f"docker://{prefix}-{name}")
