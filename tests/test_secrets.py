"""No file in git contains a secret."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from conftest import ROOT, each, files

TEXTS = [path for path in files() if path.suffix not in {".jpg", ".png", ".webp", ".lock"} and not path.is_symlink()]
NAME = r"""["']?[\w.]*(?:password|passphrase|passwd|secret|secret_key|signing_key|api_key|token|private_key)["']?"""
# `name: value`, `name = "value"`. In Python only a quoted value is a literal.
ASSIGNED = re.compile(rf"""^[ \t-]*{NAME}[ \t]*[:=][ \t]*["']?(?P<value>[^\s"'#,]+)""", re.IGNORECASE | re.MULTILINE)
QUOTED = re.compile(rf"""\b{NAME}[ \t]*[:=][ \t]*["'](?P<value>[^\s"']+)["']""", re.IGNORECASE)
# Values that are computed, or plainly no secret.
HARMLESS = re.compile(r"[{$|>(\[/*%&]|CHANGE_ME$|(true|false|none|null|str|secret)$", re.IGNORECASE)
# Tests may contain passwords of services that exist only during the test.
TESTS = ("app/tests/", "app/benchmarks/", "molecule/", "tests/")


def text(path: Path) -> str:
    """The contents of a text file, or of all files of an archive."""
    if path.suffix != ".gz":
        return path.read_text()
    with tarfile.open(path) as archive:
        return "\n".join(archive.extractfile(member).read().decode() for member in archive if member.isfile())


def literals(path: Path) -> list[str]:
    found = (QUOTED if path.suffix == ".py" else ASSIGNED).finditer(path.read_text())
    return [match.group().strip() for match in found if not HARMLESS.match(match["value"])]


@each("path", [path for path in TEXTS if not str(path.relative_to(ROOT)).startswith(TESTS)])
def test_no_file_contains_a_literal_secret(path):
    assert literals(path) == []


@each("path", TEXTS)
def test_no_file_contains_a_private_key(path):
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY-{5}\s+[A-Za-z0-9+/=]{40}", text(path))


def test_the_search_finds_literal_secrets(tmp_path):
    yml, py = tmp_path / "bad.yml", tmp_path / "bad.py"
    yml.write_text('postgresql_password: hunter2\nvault:\n  admin_token: "hunter2"\nmedia_password: "{{ vault }}"\n')
    py.write_text('SECRET_KEY = "hunter2"\nconnect(user="x", password="hunter2")\npassword = settings.PASSWORD\n')
    assert [len(literals(path)) for path in (yml, py)] == [2, 2]
