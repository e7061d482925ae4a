"""The page, used in Debian's Chromium, on a release with collected static files."""

import re
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pyvips
import requests
from browser import Page, ended_edit
from conftest import TOKEN, make_user
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from helpers import DAY, ended, post, problem
from pydantic import TypeAdapter
from selenium.webdriver import ActionChains, Keys
from services import free_port, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}


def drawings(folder: Path, *widths: int) -> list[Path]:
    """Images of these widths, 30 pixels high, with the width as their name."""
    paths = [folder / f"{width}.png" for width in widths]
    for path, width in zip(paths, widths, strict=True):
        pyvips.Image.black(width, 30, bands=3).copy(interpretation="srgb").write_to_file(str(path))
    return paths


def joined(paths: list[Path]) -> str:
    """Several files, as a file field takes them."""
    return "\n".join(map(str, paths))


def test_a_user_uploads_a_photo_and_downloads_the_result(page: Page, photo_path: str, start: Callable) -> None:
    page.sign_in()
    page["#picture"].send_keys(photo_path)
    assert page.natural_size("#images img") == [512, 600]
    page["#prompt"].send_keys('黑白, watermark "<img src=x>"')
    page.js("window.neverReloaded = true")
    page["#edit-form [type=submit]"].click()
    page.sees("Waiting for a free worker", "#stage")
    assert page["#stage-progress"].is_displayed()
    start("edit")
    page.sees("The edit is done", "#stage")
    assert page.natural_size("#after") == page.natural_size("#before") == [512, 600]
    assert "/results/" in page["#after"].get_attribute("src")
    assert "/uploads/" in page["#before"].get_attribute("src")
    assert requests.get(page["#download"].get_attribute("href"), timeout=5).headers["Content-Type"] == "image/jpeg"
    assert re.fullmatch(r"edit-[0-9a-f]{8}\.jpg", page["#download"].get_attribute("download"))
    assert not page["#stage-progress"].is_displayed()
    assert page.js("window.neverReloaded"), "the page was reloaded"

    divide = page["#divide"]
    half = page.colour("#frame")
    divide.send_keys(Keys.HOME)
    assert page.colour("#frame") < 2, "a part of the original is shown"
    divide.send_keys(Keys.END)
    assert page.colour("#frame") > half > 5, "the original is not shown"
    divide.send_keys(Keys.ARROW_LEFT)
    assert divide.get_property("value") == "99"
    page["[data-mode=beside]"].click()
    assert page["#before"].location["x"] + page["#before"].size["width"] <= page["#after"].location["x"]

    page.browser.refresh()
    page.sees("The edit is done", "#stage")
    page["nav [href='#/history']"].click()
    page.sees('黑白, watermark "<img src=x>"', "#edits")
    assert page.natural_size("#edits img") == [512, 600]
    assert not page.all("img[src=x]"), "the prompt was rendered as HTML"
    page["#edits a"].click()
    page.sees("The edit is done", "#stage")
    assert page.complaints() == []


def test_an_edit_shows_its_progress_and_can_be_cancelled(page: Page, files: Any, photo: bytes, start: Callable) -> None:
    start("edit")
    page.sign_in()
    page["#urls"].send_keys(files.serve_held("/slow.jpg", photo))
    page["#prompt"].send_keys("sepia")
    page["#edit-form [type=submit]"].click()
    page.sees("The image is being fetched", "#stage")
    page["#cancel-edit"].click()
    page.sees("The edit was cancelled", "#stage")
    assert page.complaints() == []


def test_an_error_is_shown_beside_its_field(page: Page) -> None:
    page.sign_in("alice", "x" * 43)
    page.sees("do not belong together")
    assert page["#username"].get_property("value") == "alice"
    page["#password"].send_keys(TOKEN + Keys.ENTER)
    submit = page["#edit-form [type=submit]"]
    submit.click()
    page.sees("Choose photos", "#picture-error")
    page.sees("give the address of an image. Say what should be done", "#live")  # both errors are announced
    page["#urls"].send_keys("http://127.0.0.1/")
    page["#prompt"].send_keys("make her smile")
    submit.click()
    page.sees("make her smile", "#prompt-error")
    assert page.js("getSelection().toString()") == "make her smile", "the part that is not understood is not marked"
    assert page["#prompt"].get_attribute("aria-invalid") == "true"
    page["#prompt"].clear()
    page["#prompt"].send_keys("sepia")
    submit.click()
    page.sees("The host of the URL has no public address. Give a public address", "#urls-error")
    assert page.js("document.activeElement.id") == "urls", "the URL field does not have the focus"


def test_an_original_on_another_server_is_loaded_on_request_only(page: Page, user: Any, photo: bytes) -> None:
    url = f"https://127.0.0.1:{free_port()}/cat.jpg"
    edit = ended_edit(user, photo, "sepia", image_url=url)
    page.sign_in()
    page.sees("alice", "header")
    page.open(f"/#/edits/{edit.pk}")
    assert page.natural_size("#after") == [512, 600]
    assert not page["#before"].get_attribute("src")
    assert page.complaints() == []
    page["#load-original"].click()
    page.sees("The original is no longer available", "#stage-error")
    (complaint,) = page.complaints()
    assert f"{url} - Failed to load resource: net::ERR_CONNECTION_REFUSED" in complaint, "the original was blocked"


def test_an_edit_that_is_gone_shows_nothing_of_another(page: Page, user: Any, photo: bytes) -> None:
    edit = ended_edit(user, photo, "sepia", image_url="media:results/1.jpg")
    page.sign_in()
    page.sees("alice", "header")
    page.open(f"/#/edits/{edit.pk}")
    assert page.natural_size("#after") == [512, 600]
    page.open(f"/#/edits/{uuid4()}")
    page.sees("It may have been deleted", "#stage-error")
    assert "sepia" not in page["#stage"].text
    assert not page["#after"].is_displayed()
    assert not page["#download"].is_displayed()


def test_the_page_can_be_used_with_the_keyboard_alone(page: Page, files: Any, photo: bytes, start: Callable) -> None:
    start("edit")

    def tab_to(css: str) -> Any:
        for _ in range(60):
            if page.js(f"document.activeElement.matches({css!r})"):
                return page.browser.switch_to.active_element
            ActionChains(page.browser).send_keys(Keys.TAB).perform()
        raise AssertionError(f"{css} cannot be reached")

    page.sign_in()
    page["#sign-out"]  # the sign-in page has such a link, too
    tab_to(".skip").send_keys(Keys.ENTER)
    assert page.js("[document.activeElement.id, location.hash]") == ["main", ""]
    tab_to("#picture")  # the space key would open the browser's file dialogue
    tab_to("#urls").send_keys(files.serve("/photo.jpg", photo))
    tab_to("#prompt").send_keys("flip vertical")
    tab_to("#edit-form [type=submit]").send_keys(Keys.ENTER)
    page.sees("The edit is done", "#stage")
    tab_to("#download")
    page.js("document.activeElement.blur()")
    tab_to("nav [href='#/history']").send_keys(Keys.ENTER)
    page.sees("flip vertical", "#edits")
    tab_to("#edits a").send_keys(Keys.ENTER)
    page.sees("The edit is done", "#stage")


def test_a_user_submits_a_batch_and_sees_its_errors_and_results(
    page: Page, files: Any, photo: bytes, start: Callable
) -> None:
    from image_editor.models import Batch

    page.sign_in()
    page["nav [href='#/batches']"].click()
    page.sees("Nothing yet", "#batches-empty")
    page["#batches-empty a"].click()
    lines = [files.serve("/1.jpg", photo), "http://10.0.0.1/2.jpg", files.url("/missing.jpg")]
    page["#urls"].send_keys("\n".join(lines))
    page["#prompt"].send_keys("resize to 80x60")
    page["#edit-form [type=submit]"].click()
    page.sees("http://10.0.0.1/2.jpg: ", "#urls-error")
    page["#urls"].clear()
    page["#urls"].send_keys("\n".join([lines[0], lines[2]]))
    page["#edit-form [type=submit]"].click()
    page.sees("0 of 2 ended", "#batch-status")
    start("batch")
    page.sees("2 of 2 ended, 1 failed", "#batch-status")
    page.sees("Check that everybody can open the address", "#items")
    assert page.natural_size("#items img") == [80, 60]
    page["nav [href='#/batches']"].click()
    page.sees("2 of 2", "#batches")
    assert page["#batches .badge"].text == "Finished"
    page["#batches a"].click()
    page.sees("2 of 2 ended", "#batch-status")  # the button has moved to its place
    page["#delete-batch"].click()
    page.browser.switch_to.alert.accept()
    page.sees("Nothing yet", "#batches-empty")
    assert not Batch.objects.exists()


def test_several_photos_are_edited_in_the_chosen_order(page: Page, files: Any, tmp_path: Path, start: Callable) -> None:
    from image_editor.models import Batch, Upload

    def chosen() -> list[str]:
        return page.texts("#images .name")

    def widths() -> list[int]:
        """Of the images of the newest batch, before they were turned."""
        items = Batch.objects.latest("accepted_at").items.order_by("batch_index")
        return list(items.values_list("result_height", flat=True))

    start("batch")
    page.sign_in()
    paths = drawings(tmp_path, 40, 50, 60, 70)
    page["#picture"].send_keys(joined(paths[:2]))
    page["#picture"].send_keys(joined(paths[2:]))
    wait_for(lambda: chosen() == ["40.png", "50.png", "60.png", "70.png"], what="four photos")
    page["#images li:nth-child(4) [data-move=up]"].send_keys(Keys.ENTER)
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)  # the focus has moved with it
    page.sees("70.png is now number 2 of 4", "#live")
    page["#images li:nth-child(2) [data-move=away]"].click()
    assert chosen() == ["40.png", "50.png", "60.png"]
    grip, last = page["#images li:first-child .grip"], page["#images li:last-child"]
    ActionChains(page.browser).click_and_hold(grip).move_to_element_with_offset(last, 0, 15).release().perform()
    assert chosen() == ["50.png", "60.png", "40.png"]
    page["#chips [data-op=rotate]"].click()
    page["#edit-form [type=submit]"].click()
    page.sees("3 of 3 ended", "#batch-status")
    assert widths() == [50, 60, 40]
    assert not Upload.objects.exists(), "the photos were not sent together"

    # More than one request may carry, with an address: each photo is uploaded first.
    page["nav [href='#/']"].click()
    page.js(f"document.querySelector('#edit-form').dataset.maxBytes = {max(path.stat().st_size for path in paths)}")
    page["#urls"].send_keys(files.serve("/70.png", paths[3].read_bytes()))
    page["#edit-form [type=submit]"].click()
    page.sees("4 of 4 ended", "#batch-status")
    assert widths() == [50, 60, 40, 70]
    assert Upload.objects.count() == 3
    assert page.complaints() == []


def test_photos_can_be_dropped_and_pasted(page: Page) -> None:
    page.sign_in()
    page["nav [href='#/usage']"].click()
    page.sees("of 50,000 used", "#usage")  # the drop must not come before the page has followed the link
    transfer = "const given = new DataTransfer(); given.items.add(new File(['x'], '{}', {{type: '{}'}}));"
    drop = "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: given, bubbles: true, cancelable: true}));"
    paste = "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: given, bubbles: true}));"
    for how, name, kind in (
        (drop, "a.png", "image/png"),
        (drop, "b.txt", "text/plain"),
        (paste, "c.webp", "image/webp"),
    ):
        page.browser.execute_script(transfer.format(name, kind) + how)
        wait_for(lambda: page["#edit-form"].is_displayed(), what="the form is shown")
    assert page.texts("#images .name") == ["a.png", "c.webp"]
    link = "given.setData('text', 'https://example.org/d.jpg');"
    page.browser.execute_script("const given = new DataTransfer();" + link + paste)
    assert page["#urls"].get_property("value") == "https://example.org/d.jpg"


def test_the_chips_make_the_operations_of_the_api(page: Page) -> None:
    from image_editor.imaging.operations import Operation
    from image_editor.models import Edit

    page.sign_in()
    page["#urls"].send_keys("https://example.org/a.jpg")
    known = TypeAdapter(Operation).json_schema()["discriminator"]["mapping"]
    assert sorted(chip.get_attribute("data-op") for chip in page.all("#chips button")) == sorted(known)
    for chip in page.all("#chips button"):
        chip.click()
    page.sees("Watermark “Sample” → Convert jpeg.", "#understood")
    page["#edit-form [type=submit]"].click()
    page.sees("Waiting for a free worker", "#stage")
    assert Edit.objects.get().prompt == (
        "greyscale, sepia, invert, rotate 90, flip horizontal, resize to 800, fit 800x800, resize 50%, crop 400x400, "
        "crop square, blur 2, sharpen 1, brightness +20, contrast +20, saturation +20, "
        'watermark "Sample", convert to jpeg'
    )


def test_a_text_and_steps_become_one_prompt_in_the_chosen_order(page: Page) -> None:
    from image_editor.models import Edit

    page.sign_in()
    page["#urls"].send_keys("https://example.org/a.jpg")
    page["#prompt"].send_keys("黑白，")
    for op in ("flip", "rotate", "watermark"):
        page[f"#chips [data-op={op}]"].click()
    page.choose("#steps [data-op=flip] select", "vertical")
    degrees = page["#steps [data-op=rotate] input"]
    degrees.clear()
    degrees.send_keys("4", Keys.BACKSPACE)
    page.sees("Rotate: Field required.", "#understood")
    page["#edit-form [type=submit]"].click()
    page.sees("Rotate: Field required.", "#prompt-error")
    degrees.send_keys("45")
    page["#steps [data-op=rotate] [data-move=up]"].send_keys(Keys.ENTER)
    page["#steps [data-op=watermark] [data-move=away]"].click()
    page.sees("Understood as: Greyscale → Rotate 45° → Flip top and bottom.", "#understood")
    page["#edit-form [type=submit]"].click()
    page.sees("Waiting for a free worker", "#stage")
    assert Edit.objects.get().prompt == "黑白, rotate 45, flip vertical"


def test_the_preview_tells_what_an_edit_costs(page: Page, user: Any, photo_path: str) -> None:
    from image_editor.api import rate_limits

    def use_up() -> None:
        if time.time() % 60 > 50:
            time.sleep(60 - time.time() % 60)  # the minute must not end before the page asks
        while True:
            rate_limits.count(user.pk, rules=rate_limits.DRY_RUNS)

    page.sign_in()
    page["#prompt"].send_keys("turn left")
    page.sees("Understood as: Rotate -90°.\nCounts as 1 edit.", "#understood")
    page["#prompt"].send_keys(" ")
    assert page.texts("#understood") == ["Checking…"], "it may be about the former text"
    page["#picture"].send_keys(photo_path)
    page.sees("Result: 600 × 512 pixels, JPEG.", "#understood")
    assert page.js("document.querySelector('#chosen').naturalWidth") == 512, "the chosen photo is not shown"
    page.sees("s of computing", "#understood")
    page["#picture"].send_keys(photo_path)
    page.sees("Counts as 2 edits.", "#understood")
    with pytest.raises(rate_limits.Exceeded):
        use_up()
    page["#prompt"].send_keys(", sepia")
    page.sees("The preview pauses for a moment.", "#understood")
    assert not page["#prompt-error"].is_displayed()
    assert page["#live"].get_property("textContent") == "", "it was announced as an error"


def test_an_event_changes_the_page_without_polling(page: Page, files: Any, photo: bytes, start: Callable) -> None:
    from image_editor.models import Edit

    start("edit")
    page.sign_in()
    page["#urls"].send_keys(files.serve_held("/slow.jpg", photo))
    page["#prompt"].send_keys("sepia")
    page["#edit-form [type=submit]"].click()
    page.sees("The image is being fetched", "#stage")
    files.release.set()
    page.sees("The edit is done", "#stage")
    asked = page.js("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert f"{page.base}/api/v1/edits" in asked
    assert f"{page.base}/api/v1/edits/{Edit.objects.get().pk}" not in asked, "the page has polled"


def test_without_events_the_page_polls(page: Page, files: Any, photo: bytes, start: Callable) -> None:
    start("edit")
    page.sign_in()
    page.browser.execute_cdp_cmd("Network.enable", {})
    page.browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/events"]})
    try:
        page["#urls"].send_keys(files.serve("/photo.jpg", photo))
        page["#prompt"].send_keys("sepia")
        page["#edit-form [type=submit]"].click()
        page.sees("The edit is done", "#stage")
    finally:
        page.browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_while_the_state_cannot_be_read_the_page_does_not_say_what_it_was(page: Page, files: Any, photo: bytes) -> None:
    page.sign_in()
    page["#urls"].send_keys(files.serve("/photo.jpg", photo))
    page["#prompt"].send_keys("sepia")
    page["#edit-form [type=submit]"].click()
    page.sees("Waiting for a free worker", "#stage")
    page.browser.execute_cdp_cmd("Network.enable", {})
    page.browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/api/*"]})
    try:
        page.js("document.dispatchEvent(new Event('visibilitychange'))")  # the stream is opened anew
        page.sees("The server cannot be reached", "#stage-error")
        assert page.texts("#stage-status") == [""]
        assert not page["#stage-progress"].is_displayed()
    finally:
        page.browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    page.sees("Waiting for a free worker", "#stage")


def test_a_user_filters_and_deletes_edits(page: Page, user: Any) -> None:
    from image_editor.models import Edit

    ended(user, timedelta(0), files=True, prompt="invert", reference="shop-1", metadata={"reference": "shop-1"})
    ended(user, 2 * DAY, prompt="blur", status="failed", error_code="gave_up", error_detail="x")
    page.sign_in()
    page["nav [href='#/history']"].click()

    def shown() -> list[str]:
        return page.texts("#edits .prompt")

    def shows(*prompts: str) -> None:
        wait_for(lambda: shown() == list(prompts), what=f"{prompts} are shown")

    shows("invert", "blur")
    page.choose("#filter-status", "failed")
    page["#filters [type=submit]"].click()
    shows("blur")
    page["#filters [type=reset]"].click()
    shows("invert", "blur")
    page.js(f"document.querySelector('#filter-until').value = '{date.today() - DAY}'")
    page["#filters [type=submit]"].click()
    shows("blur")
    page["#filters [type=reset]"].click()
    page["#filter-reference"].send_keys("shop-1" + Keys.ENTER)
    shows("invert")
    page["#filters [type=reset]"].click()
    shows("invert", "blur")
    page["#edits li:first-child [data-act=again]"].click()
    page.sees("Understood as: Invert.", "#understood")
    assert page.js("document.activeElement.id") == "prompt"
    page["nav [href='#/history']"].click()
    shows("invert", "blur")
    page["#edits li:first-child [data-act=delete]"].click()
    page.browser.switch_to.alert.accept()
    shows("blur")
    assert list(Edit.objects.values_list("prompt", flat=True)) == ["blur"]
    assert page.js("document.activeElement.matches('#edits a')"), "the focus is lost"


def test_a_user_sees_how_much_of_the_limits_is_used(page: Page, api: Any) -> None:
    post(api, BODY)
    page.sign_in()
    page["nav [href='#/usage']"].click()
    page.sees("of 50,000 used", "#usage")
    page.sees("Edits today", "#usage")
    assert page["#usage li:nth-child(2) progress"].get_property("value") == 1
    assert page.complaints() == []


def test_a_user_tests_a_receiver_and_has_an_event_delivered_again(page: Page, files: Any, start: Callable) -> None:
    start("callback,maintenance")
    start(beat=True)
    page.sign_in()
    page["nav [href='#/webhooks']"].click()
    page.sees("Nothing yet", "#deliveries-empty")
    page["#receiver"].send_keys("http://10.0.0.1/hook")
    page["#test-form [type=submit]"].click()
    page.sees("no public address", "#receiver-error")
    page["#receiver"].clear()
    page["#receiver"].send_keys(files.serve("/hook", b""))
    page["#test-form [type=submit]"].click()
    page.sees("1 try · answered 200", "#deliveries")
    assert page["#deliveries .badge"].text == "Delivered"
    page["#deliveries button"].click()
    page.sees("2 tries · answered 200", "#deliveries")
    assert len({headers["webhook-id"] for path, headers, _ in files.seen if path == "/hook"}) == 1
    page["#show-secret"].click()
    page.sees("whsec_", "#secret")
    assert [complaint for complaint in page.complaints() if "status of 422" not in complaint] == []


def test_a_user_makes_replaces_and_revokes_a_token(page: Page) -> None:
    page.sign_in()
    page["nav [href='#/tokens']"].click()
    page.sees("you have signed in with it", "#tokens")
    page["#token-form [type=submit]"].click()
    page.sees("Say what the token is for", "#token-name-error")
    page["#token-name"].send_keys("shop <b>")
    page["#token-form [type=submit]"].click()
    page.sees("shop <b>", "#tokens")
    page.sees("expires", "#tokens")
    edits = f"{page.base}/api/v1/edits"

    def works(token: str) -> bool:
        return requests.get(edits, headers={"Authorization": f"Bearer {token}"}, timeout=10).status_code == 200

    def press(act: str) -> None:
        page[f"#tokens li:first-child [data-act={act}]"].click()
        page.browser.switch_to.alert.accept()

    first = page["#token"].text
    assert works(first)
    press("rotate")
    second = wait_for(lambda: page["#token"].text.replace(first, ""), what="the new token")
    assert works(first)
    assert works(second)
    page["nav [href='#/history']"].click()
    page["nav [href='#/tokens']"].click()
    wait_for(lambda: len(page.all("#tokens li")) == 3, what="three tokens")
    assert page["#token"].text == "", "a token is shown twice"
    press("revoke")
    wait_for(lambda: len(page.all("#tokens li")) == 2, what="two tokens")
    wait_for(lambda: not works(second), what="the revoked token stops working")
    assert works(first)
    page["#token-name"].send_keys("brief")
    page["#token-form [type=submit]"].click()
    page.sees("Copy the new token now", "#token-hint")
    press("revoke")
    wait_for(lambda: len(page.all("#tokens li")) == 2, what="two tokens")
    wait_for(lambda: not page["#token-hint"].is_displayed(), what="a revoked token is not offered any more")
    page.browser.refresh()
    page.sees("you have signed in with it", "#tokens")
    assert page.complaints() == []


def test_operators_and_programmers_have_their_pages(page: Page, user: Any, api: Any) -> None:
    post(api, BODY)
    user.is_staff = user.is_superuser = True
    user.save()
    page.sign_in()
    page.sees("alice", "header")
    for path, text in (
        ("/admin/", "Operations"),
        ("/admin/image_editor/edit/", "sepia"),
        ("/api/v1/docs", "Submit an edit"),
        ("/nothing", "Page not found"),
    ):
        page.open(path)
        page.sees(text, "body")
        assert [c for c in page.complaints() if "/nothing - Failed to load resource" not in c] == [], path


def test_a_session_needs_a_csrf_token_and_an_api_token_does_not(user: Any, plain_static: None) -> None:
    person = Client(enforce_csrf_checks=True)
    person.force_login(user, "image_editor.auth.TokenBackend")
    csrf = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', person.get("/").content.decode()).group(1)
    assert person.get("/api/v1/edits").json()["items"] == []
    problem(post(person, BODY), 403, "csrf_failed")
    problem(post(person, BODY, X_CSRFToken="x" * 64), 403, "csrf_failed")
    edit = post(person, BODY, X_CSRFToken=csrf)
    assert edit.status_code == 202, edit.content
    problem(person.post(edit.json()["status_url"] + "/cancel"), 403, "csrf_failed")
    assert person.post(edit.json()["status_url"] + "/cancel", headers={"X-CSRFToken": csrf}).status_code == 200
    problem(post(person, BODY, Authorization="Bearer wrong", X_CSRFToken=csrf), 401)
    assert post(person, BODY, Authorization=f"Bearer {TOKEN}").status_code == 202
    problem(post(Client(enforce_csrf_checks=True), BODY), 401, "token_missing")


def test_a_request_with_an_api_token_reads_no_session(user: Any, django_assert_num_queries: Any) -> None:
    client = Client(headers={"Authorization": f"Bearer {TOKEN}"})
    client.get("/api/v1/edits")
    client.cookies["sessionid"] = "x"
    with django_assert_num_queries(1):
        answer = client.get("/api/v1/edits")
    assert not hasattr(answer.wsgi_request, "session"), "the middleware for pages was not skipped"


def test_a_session_ends_when_its_api_token_is_revoked(user: Any) -> None:
    other = make_user("bob", "b" * 43)
    alice, bob = Client(), Client()
    assert alice.login(username="alice", password=f" {TOKEN}\n")
    assert bob.login(username="bob", password="b" * 43)
    user.api_tokens.all().delete()
    problem(alice.get("/api/v1/edits"), 401)
    assert bob.get("/api/v1/edits").status_code == 200
    other.is_active = False
    other.save()
    problem(bob.get("/api/v1/edits"), 401)


def test_operators_requeue_cancel_and_revoke(user: Any, plain_static: None) -> None:
    from image_editor.models import ApiToken, Batch, Callback, Edit

    client = Client()
    operator = make_user("operator", "o" * 43)
    operator.is_staff = operator.is_superuser = True
    operator.save()
    client.force_login(operator, "django.contrib.auth.backends.ModelBackend")
    api = Client(headers={"Authorization": f"Bearer {TOKEN}"})
    edit = Edit.objects.get(pk=post(api, BODY).json()["id"])
    batch = Batch.objects.get(pk=post(api, {"items": [BODY] * 2}, "/api/v1/batches").json()["id"])
    dead = Callback.objects.create(
        edit=edit, url="x", state="dead", tries=8, next_try_at=edit.accepted_at, created_at=edit.accepted_at
    )

    def act(model: str, action: str, row: Any) -> str:
        data = {"action": action, "_selected_action": str(row.pk)}
        return client.post(f"/admin/image_editor/{model}/", data, follow=True).content.decode()

    def status(row: Any) -> str:
        row.refresh_from_db()
        return row.status

    assert "1 of 1 edits cancelled" in act("edit", "cancel", edit)
    assert status(edit) == "cancelled"
    assert "0 of 1 edits cancelled" in act("edit", "cancel", edit)
    Callback.objects.update(attempts=[{"error": "the receiver answered 418"}])
    assert "answered 418" in client.get(f"/admin/image_editor/callback/{dead.pk}/change/").content.decode()
    assert "1 of 1 callbacks requeued" in act("callback", "requeue", dead)
    assert "1 of 1 edits requeued" in act("edit", "requeue", edit)
    assert status(edit) == "accepted"
    assert "2 of 2 unfinished edits cancelled" in act("batch", "cancel", batch)
    batch.refresh_from_db()
    assert batch.unfinished == 0

    found = client.get("/admin/image_editor/edit/", {"q": str(edit.pk)}).content.decode()
    assert "1 edit" in found
    assert "3 edits" in client.get("/admin/image_editor/edit/", {"q": "alice"}).content.decode()
    assert "0 edits" in client.get("/admin/image_editor/edit/", {"q": "bob"}).content.decode()
    assert "2 edits" in client.get("/admin/image_editor/edit/", {"batch__id__exact": batch.pk}).content.decode()
    token = ApiToken.objects.get(user=user)
    for address in ("", f"{token.pk}/change/"):
        assert token.digest not in client.get(f"/admin/image_editor/apitoken/{address}").content.decode()
    assert client.post(f"/admin/image_editor/edit/{edit.pk}/change/", {"status": "failed"}).status_code == 403
    assert client.post(f"/admin/image_editor/apitoken/{token.pk}/change/", {"name": "x"}).status_code == 403

    form = {"user": user.pk, "name": "shop", "scope": "read", "expires_at_0": "", "expires_at_1": ""}
    answer = client.post("/admin/image_editor/apitoken/add/", form)
    made = re.search(r'<code id="token">(.+)</code>', answer.content.decode()).group(1)
    assert Client(headers={"Authorization": f"Bearer {made}"}).get("/api/v1/edits").status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert made not in client.get("/admin/image_editor/apitoken/").content.decode()
    row = ApiToken.objects.get(name="shop")
    client.post(f"/admin/image_editor/apitoken/{row.pk}/delete/", {"post": "yes"})
    assert list(user.api_tokens.all()) == [token]

    operator.is_superuser = False
    operator.save()
    assert act("edit", "cancel", edit).find("cancelled") < 0
    assert status(edit) == "accepted", "a user without the permission cancelled the edit"

    assert client.post("/admin/image_editor/apitoken/add/", form).status_code == 403
    kind = ContentType.objects.get_for_model(ApiToken)
    operator.user_permissions.add(Permission.objects.create(codename="add_apitoken", name="x", content_type=kind))
    assert 'name="user"' not in client.get("/admin/image_editor/apitoken/add/").content.decode()
    answer = client.post("/admin/image_editor/apitoken/add/", form)
    assert "The new token of operator" in answer.content.decode()
    assert list(user.api_tokens.all()) == [token], "an operator has made a token for somebody else"
