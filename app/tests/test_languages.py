"""The page, the admin and the errors of the API speak the language of the reader: English or Chinese."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import APP, TOKEN
from django.test import Client
from django.utils import translation
from helpers import EDITS, ended, post, problem

from image_editor.details import KEPT, TEMPLATES, translated

pytestmark = pytest.mark.django_db(transaction=True)
CHINESE = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}
CATALOGUES = ("django", "djangojs")
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}

# Where the code names a detail: calls, with the position of the argument, and variables.
CALLS = {"Problem": 2, "response": 2, "EditError": 1, "Unacceptable": 1, "_failed": 1} | dict.fromkeys(
    ("Refused", "FetchFailed", "TooLarge", "TooSlow", "_unusable", "__init__"), 0
)
VARIABLES = {"detail", "DETAIL", "DETAILS", "SPENT", "OLD"}


@pytest.fixture(autouse=True)
def english_again() -> Iterator[None]:
    """A request leaves its language to the thread. The next request sets its own."""
    yield
    translation.deactivate()


@pytest.fixture
def chinese(user: Any) -> Client:
    """A client with alice's token that reads Chinese."""
    return Client(headers={"Authorization": f"Bearer {TOKEN}"} | CHINESE)


def texts(node: ast.expr) -> list[str]:
    """The texts that are written in an expression, with {} for each value."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)]
        case ast.Dict(values=values):
            return [text for value in values for text in texts(value)]
    return []


def details() -> set[str]:
    """Every detail that is written in the code."""
    found: list[str] = []
    for path in APP.glob("image_editor/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                place = CALLS.get(getattr(node.func, "attr", getattr(node.func, "id", "")))
                if place is not None and len(node.args) > place:
                    found += texts(node.args[place])
            elif isinstance(node, ast.Assign) and VARIABLES & {getattr(target, "id", "") for target in node.targets}:
                found += texts(node.value)
    return {text for text in found if re.search("[a-z]", text)}


def test_every_detail_is_translated() -> None:
    found = details()
    assert len(found) > 70
    with translation.override("zh-hans"):
        samples = {text: text.replace("{}", "7") for text in found}
        assert [text for text, sample in samples.items() if translated(sample) == sample] == [], "see details.py"


def test_every_marked_text_is_translated(tmp_path: Path) -> None:
    """makemessages, as a developer runs it, finds nothing to add, to look at again or to remove."""
    copy = tmp_path / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns(".*", "tests", "static_collected", "__pycache__"))
    for domain in CATALOGUES:
        command = [sys.executable, "manage.py", "makemessages", "-l", "zh_Hans", "-d", domain, "-v0"]
        subprocess.run(command, cwd=copy, env=os.environ, check=True)
        catalogue = copy / f"image_editor/locale/zh_Hans/LC_MESSAGES/{domain}.po"
        for state in ("--untranslated", "--only-fuzzy", "--only-obsolete"):
            left = subprocess.check_output(["msgattrib", "--no-wrap", state, catalogue], text=True)
            assert re.findall('^(?:#~ )?msgid "(.+)"', left, re.MULTILINE) == [], f"{domain} {state}"


def test_an_error_is_in_the_language_of_the_client(api: Client, chinese: Client) -> None:
    for body, code, words in (
        (BODY | {"prompt": "make her smile"}, "prompt_unknown", "无法理解：“make her smile”"),
        (BODY | {"prompt": "blur 500"}, "prompt_out_of_range", "模糊的 sigma 应小于或等于 100，不能是 500"),
        (BODY | {"image_url": "http://10.0.0.1/"}, "image_url_refused", "URL 的主机没有公网地址"),
        ({"prompt": "sepia"}, "invalid", "请发送 'image_url' 或 'upload_id'，二者选一"),
        (BODY | {"prompt": 7, "color": 1}, "invalid", "不允许多余的字段"),
    ):
        english, document = problem(post(api, body), 422, code), problem(post(chinese, body), 422, code)
        assert words in document["detail"]
        assert not re.search("[一-鿿]{3}", english["detail"].partition("The prompt may use")[0])
    answer = chinese.get(f"{EDITS}?limit=0")
    assert "应大于或等于 1" in problem(answer, 422, "invalid")["detail"]
    assert answer["Content-Language"] == "zh-hans"
    assert problem(Client(headers=CHINESE).get(EDITS), 401)["detail"].startswith("请发送请求头")
    assert chinese.get("/nothing").json()["detail"] == "此地址不存在"
    items = problem(post(chinese, {"items": [BODY | {"prompt": " "}]}, "/api/v1/batches"), 422, "items_invalid")
    assert items["errors"][0]["message"] == "请在 'prompt' 或 'operations' 中说明如何处理图片"


def test_a_limit_is_named_in_the_language_of_the_client(chinese: Client, settings: Any) -> None:
    settings.RATE_PER_MINUTE = settings.DRY_RUNS_PER_MINUTE = settings.TOKENS_PER_MINUTE = 1
    counted = {"编辑": (EDITS, BODY), "试运行": (f"{EDITS}/dry_run", {"prompt": "sepia"})}
    counted |= {"创建令牌": ("/api/v1/tokens", {"name": "shop"})}
    for what, (path, body) in counted.items():
        post(chinese, body, path)
        detail = problem(post(chinese, body, path), 429, "too_many")["detail"]
        assert re.fullmatch(rf"每分钟{what}上限为 1：请在 \d+ 秒后重试", detail)


def test_a_stored_error_is_in_the_language_of_whoever_reads_it(user: Any, api: Client, chinese: Client) -> None:
    edit = ended(user, status="failed", error_code="image_url_failed", error_detail="the server answered 404")
    for client, detail in ((chinese, "服务器应答了 404"), (api, "the server answered 404")):  # once from the cache
        assert client.get(f"{EDITS}/{edit.pk}").json()["error"] == {"code": "image_url_failed", "detail": detail}
    edit.refresh_from_db()
    assert edit.error_detail == "the server answered 404"


def test_a_text_from_a_client_is_not_translated(chinese: Client) -> None:
    for prompt in ("paint {0} {} %s", "scale", "change of colours", "the server answered 404"):
        document = problem(post(chinese, BODY | {"prompt": prompt}), 422, "prompt_unknown")
        assert document["detail"].startswith(f"无法理解：“{prompt}”")
    for field in ("fit", "the server answered fit"):
        detail = problem(post(chinese, BODY | {field: 1}), 422, "invalid")["detail"]
        assert detail == f"请修改这些字段：{field}: 不允许多余的字段"
    typed = {"image_url": BODY["image_url"], "operations": [{"op": "minute"}]}
    assert "的值 'minute' 不在" in problem(post(chinese, typed), 422, "invalid")["detail"]
    typed["operations"] = [{"op": "watermark", "text": "\"”」'’"}]
    assert problem(post(chinese, typed), 422, "operation_invalid")["detail"].startswith("operations.0.watermark：")


@pytest.mark.parametrize("start", ["x b should be c, not ", "url: ", "Value error, "])
def test_a_text_that_looks_like_templates_in_each_other_costs_little(chinese: Client, start: str) -> None:
    """A client may send 2 MiB. Each level would keep a copy of the rest."""
    for count in (40, 600, 90_000):
        body = {"image_url": BODY["image_url"], "operations": [{"op": start * count}]}
        began = time.monotonic()
        document = problem(post(chinese, body), 422, "invalid")
        assert time.monotonic() - began < 2
        assert len(json.dumps(document)) < 10_000
    with translation.override("zh-hans"):
        assert translated(start * 90_000).endswith(start)


def test_every_template_with_a_text_of_a_client_exists() -> None:
    assert KEPT.keys() <= set(TEMPLATES)


def words(html: str) -> set[str]:
    """The English words that a reader of a page sees."""
    seen = re.sub(r"<(script|style|noscript)\b.*?</\1>|<!--.*?-->", "", html, flags=re.DOTALL)
    seen = re.sub(r'<button[^>]* lang="en".*?</button>', "", seen, flags=re.DOTALL)
    shown = re.findall(r'(?:alt|aria-label|title)="([^"]*)"', seen)
    return set(re.findall("[A-Za-z]{4,}", " ".join([re.sub("<[^>]*>", " ", seen), *shown])))


def test_every_page_is_chinese(user: Any, plain_static: None) -> None:
    known = {"Image", "Editor", "JPEG", "WebP", "Webhook", "alice", "Cookie"}
    person = Client(headers=CHINESE | {"Accept": "text/html"}, raise_request_exception=False)
    for path in ("/", "/nothing"):
        page = person.get(path).content.decode()
        assert '<html lang="zh-hans">' in page
        assert words(page) <= known, path
    person.force_login(user, "image_editor.auth.TokenBackend")
    page = person.get("/").content.decode()
    assert "编辑图片" in page
    assert words(page) <= known
    script = person.get("/messages.js").content.decode()
    assert json.dumps("正在等待空闲的 worker。") in script


def test_a_reader_chooses_a_language(user: Any, plain_static: None) -> None:
    person = Client(headers={"Accept-Language": "en"})
    assert '<html lang="en">' in person.get("/").content.decode()
    assert person.post("/language/", {"language": "zh-hans"}).status_code == 302
    assert "登录" in person.get("/").content.decode()
    assert person.cookies["django_language"]["httponly"]
    assert person.post("/language/", {"language": "en"}).status_code == 302
    assert "Sign in" in person.get("/").content.decode()


@pytest.mark.parametrize("wanted", ["zh", "zh-CN", "zh-Hans-CN", "zh-TW", "zh-HK"])
def test_every_kind_of_chinese_gets_chinese(wanted: str, plain_static: None) -> None:
    assert '<html lang="zh-hans">' in Client(headers={"Accept-Language": wanted}).get("/").content.decode()


@pytest.mark.parametrize("wanted", ["", "de", "fr-FR,fr;q=0.9", "*", "x" * 5000])
def test_everybody_else_gets_english(wanted: str, plain_static: None) -> None:
    assert '<html lang="en">' in Client(headers={"Accept-Language": wanted}).get("/").content.decode()


def test_the_admin_is_chinese(user: Any, plain_static: None) -> None:
    user.is_staff = user.is_superuser = True
    user.save()
    edit = ended(user, status="failed", error_code="gave_up", error_detail="x")
    operator = Client(headers=CHINESE)
    operator.force_login(user, "django.contrib.auth.backends.ModelBackend")
    assert "运维" in operator.get("/admin/").content.decode()
    page = operator.get("/admin/image_editor/edit/").content.decode()
    for text in ("受理时间", "提示词", "失败", "取消未结束的编辑", "ID 或用户名"):
        assert text in page, text
    data = {"action": "requeue", "_selected_action": str(edit.pk)}
    page = operator.post("/admin/image_editor/edit/", data, follow=True).content.decode()
    assert "1 个编辑中有 1 个已重新排队" in page


def test_every_column_of_the_admin_has_a_name_in_chinese() -> None:
    from django.apps import apps
    from django.contrib import admin

    models = [model for model in apps.get_app_config("image_editor").get_models() if admin.site.is_registered(model)]
    assert models
    with translation.override("zh-hans"):
        names = {str(model._meta): str(model._meta.verbose_name) for model in models}
        names |= {str(field): str(field.verbose_name) for model in models for field in model._meta.fields}
    assert [name for name, shown in names.items() if not re.search("[一-鿿]|^ID$|^URL$", shown)] == []
