"""Every view of the page: accessible, of any width, in both languages, in light and in dark."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_selenium_python import Axe
from browser import Page, ended_edit
from conftest import TOKEN
from django.utils import timezone
from helpers import ended

pytestmark = pytest.mark.django_db(transaction=True)
LIGHT, DARK = "rgb(246, 245, 242)", "rgb(19, 20, 22)"  # the ground of the page
LANGUAGES = ("en", "zh-hans")
LONG = "w" * 300


@pytest.fixture
def addresses(user: Any, photo: bytes) -> dict[str, str]:
    """The address of each view for users, with what it shows once it is complete."""
    from image_editor.models import Batch, Callback, Edit

    now = timezone.now()
    edit = ended_edit(user, photo, LONG, image_url="media:results/1.jpg")
    batch = Batch.objects.create(user=user, total=2, unfinished=1, accepted_at=now)
    ended(user, batch=batch, batch_index=0, status="failed", error_code="gave_up", error_detail=LONG)
    waiting = {"prompt": LONG, "image_url": f"https://{LONG}/", "accepted_at": now}
    Edit.objects.create(user=user, batch=batch, batch_index=1, **waiting)
    attempt = {"at": now.isoformat(), "milliseconds": 10, "status": 500, "error": "the receiver answered 500"}
    delivery = {"url": f"https://{LONG}/", "state": "dead", "next_try_at": now, "created_at": now}
    Callback.objects.create(user=user, edit=edit, attempts=[attempt], **delivery)
    return {
        "/#/": "#chips button",
        f"/#/edits/{edit.pk}": "#after[src]",
        "/#/history": "#edits li:nth-child(3)",
        "/#/batches": "#batches li",
        f"/#/batches/{batch.pk}": "#items li",
        "/#/webhooks": "#deliveries li",
        "/#/tokens": "#tokens li",
        "/#/usage": "#usage li",
    }


def visit(page: Page, addresses: dict[str, str], photo_path: str) -> Iterator[str]:
    """Open each view and fill it in. Yields its address when it is complete."""
    page.open("/nothing")
    yield "/nothing"
    for address, complete in addresses.items():
        page.open(address)
        page[complete]
        if address == "/#/":
            page["#picture"].send_keys(f"{photo_path}\n{photo_path}")
            page["#edit-form [type=submit]"].click()
            page["#prompt-error:not([hidden])"]
            for op in ("greyscale", "crop", "flip", "watermark"):
                page[f"#chips [data-op={op}]"].click()
            page["#understood:not([hidden], :empty)"]
        if "/edits/" in address:
            assert page.natural_size("#after") == page.natural_size("#before")
            page["#frame[data-mode=slider]"]
        if "/tokens" in address:
            page["#token-form [type=submit]"].click()
            page["#token-name-error:not([hidden])"]
        yield address


def use(page: Page, language: str) -> None:
    """The language of what is opened from now on."""
    page.browser.add_cookie({"name": "django_language", "value": language})


def test_no_view_has_a_violation_that_axe_finds(
    page: Page, addresses: dict[str, str], photo_path: str, figure: Any
) -> None:
    found, views = [], 0

    def check(view: str) -> None:
        nonlocal views
        axe = Axe(page.browser)
        axe.inject()
        results = axe.run()
        where = f"{view} {language} {scheme}"
        assert page.js("document.documentElement.lang") == language
        assert len(results["passes"]) > 5, f"axe has not seen {where}"
        found.extend(
            (where, rule["id"], node["html"][:200]) for rule in results["violations"] for node in rule["nodes"]
        )
        views += 1

    page.open()
    every = [(language, scheme) for language in LANGUAGES for scheme in ("light", "dark")]
    for language, scheme in every:
        page.prefers(scheme)
        use(page, language)
        page.sign_in("alice", "x" * 43)
        page["#sign-in-error"]
        check("sign-in")
    page.sign_in()
    page["#sign-out"]
    for language, scheme in every:
        page.prefers(scheme)
        use(page, language)
        for address in visit(page, addresses, photo_path):
            check(address)
    print(*found, sep="\n")
    assert views == len(every) * (len(addresses) + 2)
    figure("axe_violations", len(found), "violations", limit=0)


@pytest.mark.parametrize("width", [320, 3840])
def test_every_view_fits_the_screen(page: Page, addresses: dict[str, str], photo_path: str, width: int) -> None:
    def fits(view: str) -> None:
        assert page.js("document.documentElement.scrollWidth") <= width, f"{view} {language}"

    page.width(width)
    page.open()
    for language in LANGUAGES:
        use(page, language)
        page.open()
        fits("sign-in")
    page.sign_in()
    page["#sign-out"]
    for language in LANGUAGES:
        use(page, language)
        for address in visit(page, addresses, photo_path):
            fits(address)


def test_a_user_chooses_chinese_and_works_in_it(page: Page, user: Any, photo: bytes) -> None:
    ended_edit(user, photo, "黑白", image_url="https://example.org/a.jpg")
    page.open()
    page[".language button"].click()
    page.sees("登录")
    page["#username"].send_keys("alice")
    page["#password"].send_keys(TOKEN)
    page["main [type=submit]"].click()
    page["#edit-form [type=submit]"].click()
    page.sees("请选择照片，或给出图片的地址。", "#picture-error")
    chips = page.texts("#chips button")
    assert len(chips) > 10
    assert [chip for chip in chips if re.search("[A-Za-z]", chip)] == []
    page["#chips [data-op=rotate]"].click()
    page.sees("理解为：旋转 90°。", "#understood")
    page["#steps [data-move=away]"].click()
    page["#urls"].send_keys("http://127.0.0.1/")
    page["#prompt"].send_keys("黑白")
    page["#edit-form [type=submit]"].click()
    page.sees("URL 的主机没有公网地址。请给出公网地址，或选择文件。", "#urls-error")
    page["nav [href='#/history']"].click()
    page.sees("完成", "#edits")
    page.sees("年", "#edits")  # the date
    assert [complaint for complaint in page.complaints() if "status of 422" not in complaint] == []

    page[".language button"].click()  # back to English, and to the same view
    page.sees("Done", "#edits")
    assert page.js("[location.hash, document.title]") == ["#/history", "History – Image Editor"]
    (cookie,) = [one for one in page.browser.get_cookies() if one["name"] == "django_language"]
    assert (cookie["value"], cookie["expiry"] > timezone.now().timestamp() + 300 * 86400) == ("en", True)


def test_a_browser_that_prefers_chinese_gets_it(page: Page) -> None:
    page.browser.execute_cdp_cmd("Network.enable", {})
    page.browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Accept-Language": "zh-CN,en;q=0.5"}})
    try:
        page.open()
        page.sees("登录")
    finally:
        page.browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {}})


def test_the_page_is_dark_where_the_browser_or_the_reader_wants_it(page: Page) -> None:
    def ground() -> str:
        return page.js("getComputedStyle(document.body).backgroundColor")

    page.prefers("light")
    page.open()
    page["#username"]
    assert ground() == LIGHT
    page.prefers("dark")
    assert ground() == DARK
    page.choose("#theme", "light")
    assert ground() == LIGHT
    page.sign_in()
    page["#sign-out"]
    assert (ground(), page["#theme"].get_property("value")) == (LIGHT, "light"), "the choice is forgotten"
    page.prefers("light")
    page.choose("#theme", "dark")
    assert ground() == DARK
    page.browser.refresh()
    assert ground() == DARK
    page.choose("#theme", "auto")
    assert ground() == LIGHT
    assert page.complaints() == []


def test_nothing_moves_for_those_who_want_it_so(page: Page) -> None:
    moves = "getComputedStyle(document.querySelector('#stage-progress')).animationName"
    page.sign_in()
    page["#stage-progress"]
    page.js("document.querySelectorAll('#stage-edit, #stage-progress').forEach((one) => (one.hidden = false))")
    assert page.js(moves) == "waiting"
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    assert page.js(moves) == "none"
