"""The catalogue of error codes has each code that a client can see, and no other; docs/api/errors.md has the same."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from conftest import ROOT, load

sys.path.insert(0, str(ROOT / "scripts"))
import api_errors
import figures
from api_errors import CODES
from image_editor.codes import OF_STATUS

# Calls that name a code, and the position of the code among their arguments. `_failed` ends an edit.
CALLS = {"Problem": 1, "problems.response": 1, "EditError": 0, "Unacceptable": 0, "self._failed": 0}
OF_EDITS = ("EditError", "Unacceptable", "self._failed")
# What nginx on the edge and on media hosts answers by itself.
NGINX = load(ROOT / "roles/nginx/vars/main.yml")["__nginx_problems"], load(ROOT / "roles/media/vars/main.yml")["__media_problems"]


class Use(NamedTuple):
    """A place that uses a code. ``status`` is None if the place does not name it."""

    code: str
    status: int | None
    of_edit: bool


def literal(node: ast.expr) -> object:
    """The value of a constant; None for any other expression."""
    return node.value if isinstance(node, ast.Constant) else None


def uses(source: str) -> Iterator[Use]:
    """The codes in a module of the application."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "error_code" and literal(node.value):
            yield Use(literal(node.value), None, True)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        known = name.removeprefix("engines.").removeprefix("inspection.")
        position = CALLS.get(known)
        if position is not None and len(node.args) > position and isinstance(code := literal(node.args[position]), str):
            yield Use(code, literal(node.args[0]) if position else None, known in OF_EDITS)
        if name.endswith("check_url") and len(node.args) == 2 and isinstance(field := literal(node.args[1]), str):
            yield Use(f"{field}_refused", 422, False)


def all_uses() -> list[Use]:
    """The codes that a client can see, wherever they come from."""
    modules = sorted((ROOT / "app/image_editor").rglob("*.py"))
    found = [use for path in modules for use in uses(path.read_text())]
    found += [Use(code, status, False) for status, code in OF_STATUS.items()]
    return found + [Use(problem["code"], status, False) for problems in NGINX for status, problem in problems.items()]


USES = all_uses()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise Problem(409, "a", "detail")', [("a", 409, False)]),
        ('problems.response(413, "b", f"{x}")', [("b", 413, False)]),
        ('raise engines.EditError("c", "detail")', [("c", None, True)]),
        ('transitions.fail(x, error_code="d")', [("d", None, True)]),
        ('validation.check_url(body.url, "e")', [("e_refused", 422, False)]),
        ("raise Problem(422, error.code, str(error))", []),
    ],
)
def test_codes_are_recognised_in_source(source, found):
    assert list(uses(source)) == found


def test_the_catalogue_has_every_code_that_is_used_and_no_other():
    used = {use.code for use in USES}
    assert len(used) > 40
    assert sorted(used - CODES.keys()) == [], "add these codes to app/image_editor/codes.py"
    assert sorted(CODES.keys() - used) == [], "nothing uses these codes: remove them from app/image_editor/codes.py"


def test_every_status_is_the_one_of_the_catalogue():
    assert [use for use in USES if use.status and CODES[use.code].status != use.status] == []


def test_the_catalogue_says_which_codes_an_edit_can_fail_with():
    assert sorted({use.code for use in USES if use.of_edit}) == sorted(name for name, code in CODES.items() if code.of_edit)


def test_nginx_gives_the_titles_of_the_catalogue():
    pairs = [(problem["code"], problem["title"]) for problems in NGINX for problem in problems.values()]
    assert [(code, title) for code, title in pairs if CODES[code].title != title] == []


def test_nginx_says_in_both_languages_what_to_do():
    details = [(problem["detail"], problem["detail_zh"]) for problems in NGINX for problem in problems.values()]
    assert len(details) > 8
    chinese = re.compile("[一-鿿]{3}")
    assert [pair for pair in details if [bool(chinese.search(text)) for text in pair] != [False, True]] == []
    written = [re.sub("{{.*?}}", "", text) for pair in details for text in pair]
    assert [text for text in written if set(text) & set("'\"$\\")] == [], "nginx or JSON would read these characters"


@pytest.mark.parametrize("name", CODES)
def test_a_code_says_what_to_do(name):
    code = CODES[name]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    assert not code.title.endswith(".")
    assert all(text.endswith(".") and len(text) > 10 for text in (code.cause, code.remedy))
    assert code.status or code.of_edit, "no client can see this code"


def test_the_page_documents_each_known_code_and_no_other():
    page = api_errors.PAGE.read_text()
    documented = set(re.findall(r"^### (\w+)\n\n\*\*.+\*\* \(.+\)\n\n- Cause: .+\n- Remedy: .+$", page, re.MULTILINE))
    known = {use.code for use in USES}
    figures.record("api_errors_known", len(known), "codes")
    assert figures.record("api_errors_documented", len(documented), "codes", f">={len(known)}")["ok"]
    assert documented == known
    assert page == api_errors.generate(), "run .venv/bin/python scripts/api_errors.py"
