"""The page, used in Debian's Chromium, on a release with collected static files."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvips
import requests
from conftest import APP, TOKEN, gunicorn, make_user
from django.test import Client
from helpers import post, problem
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from services import Services, free_port, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
BODY = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}


class Page:
    """A browser, and what a person does with it."""

    def __init__(self, browser: Chrome, base: str) -> None:
        self.browser, self.base = browser, base

    def open(self, path: str = "/") -> None:
        self.browser.get(self.base + path)

    def __getitem__(self, css: str) -> Any:
        return wait_for(lambda: self.all(css), what=css)[0]

    def all(self, css: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def js(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")

    def sees(self, text: str, css: str = "main") -> None:
        seen = f"document.querySelector({css!r})?.innerText"
        try:
            wait_for(lambda: text in (self.js(seen) or ""))
        except AssertionError:
            raise AssertionError(f"{text!r} is not in {css}: {self.js(seen)!r}") from None

    def colour(self, css: str) -> float:
        """How far the image on the screen is from grey, 0 to 255."""
        picture = pyvips.Image.new_from_buffer(self[css].screenshot_as_png, "")
        return (picture[0] - picture[2]).abs().avg()

    def sign_in(self, name: str = "alice", token: str = TOKEN) -> None:
        self.open()
        self["#username"].send_keys(name)
        self["#password"].send_keys(token + Keys.ENTER)

    def natural_size(self, css: str) -> list[int]:
        """Width and height of an image once it has been loaded."""
        image = f"document.querySelector('{css}')"
        wait_for(lambda: self.js(f"{image}.complete && {image}.naturalWidth"), what=f"{css} is loaded")
        return self.js(f"[{image}.naturalWidth, {image}.naturalHeight]")

    def width(self, pixels: int) -> None:
        metrics = {"width": pixels, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def complaints(self) -> list[str]:
        """New messages of the browser's console: violations of the content security policy, and script errors."""
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, services: Services) -> Iterator[str]:
    """Serve the application as the builder leaves it, with static files that are named after their content."""
    copy = tmp_path_factory.mktemp("release") / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))
    subprocess.run([sys.executable, "manage.py", "collectstatic", "--noinput", "-v0"], cwd=copy, env={}, check=True)
    process, base = gunicorn(copy.parent / "web.log", copy)
    yield base
    process.kill()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    # Chromium's sandbox needs namespaces, which containers may not create. Here it opens our own pages only.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, ChromeService("/usr/bin/chromedriver"))
    yield browser
    browser.quit()


@pytest.fixture
def page(chromium: Chrome, site: str, user: Any) -> Iterator[Page]:
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page = Page(chromium, site)
    page.complaints()
    yield page
    chromium.get("about:blank")  # the page must not send requests after the server has stopped


@pytest.fixture
def photo_path(tmp_path: Path, photo: bytes) -> str:
    path = tmp_path / f"{'grace_hopper_' * 9}.jpg"
    path.write_bytes(photo)
    return str(path)


def ended_edit(user: Any, photo: bytes, prompt: str, image_url: str) -> Any:
    """An edit that has succeeded, with its result."""
    from django.utils import timezone

    from image_editor import storage
    from image_editor.models import Edit

    storage.put("results/1.jpg", photo, "image/jpeg")
    result = {"name": "results/1.jpg", "type": "image/jpeg", "width": 512, "height": 600, "bytes": len(photo)}
    return Edit.objects.create(
        user=user,
        prompt=prompt,
        image_url=image_url,
        status="succeeded",
        accepted_at=timezone.now(),
        **{f"result_{name}": value for name, value in result.items()},
    )


def test_a_user_uploads_a_photo_and_downloads_the_result(page: Page, photo_path: str, start: Callable) -> None:
    page.sign_in()
    page["#picture"].send_keys(photo_path)
    assert page.natural_size("#preview") == [512, 600]
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
    page["#url"].send_keys(files.serve_held("/slow.jpg", photo))
    for chip in page.all("#edit-form .chips button")[:2]:
        chip.click()
    assert page["#prompt"].get_property("value") == "greyscale, sepia"
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
    page.sees("Choose a photo", "#picture-error")
    page["#url"].send_keys("http://127.0.0.1/")
    page["#prompt"].send_keys("make her smile")
    submit.click()
    page.sees("make her smile", "#prompt-error")
    assert page["#prompt"].get_attribute("aria-invalid") == "true"
    page["#prompt"].clear()
    page["#prompt"].send_keys("sepia")
    submit.click()
    page.sees("The host of the URL has no public address", "#url-error")
    assert page.js("document.activeElement.id") == "url", "the URL field does not have the focus"


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


def test_the_page_can_be_used_with_the_keyboard_alone(page: Page, files: Any, photo: bytes, start: Callable) -> None:
    start("edit")

    def tab_to(css: str) -> Any:
        for _ in range(30):
            if page.js(f"document.activeElement.matches({css!r})"):
                return page.browser.switch_to.active_element
            ActionChains(page.browser).send_keys(Keys.TAB).perform()
        raise AssertionError(f"{css} cannot be reached")

    page.sign_in()
    tab_to("#picture")  # the space key would open the browser's file dialogue
    tab_to("#url").send_keys(files.serve("/photo.jpg", photo))
    tab_to("#prompt").send_keys("flip vertical")
    tab_to("[type=submit]").send_keys(Keys.ENTER)
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
    page.sign_in()
    page["nav [href='#/batches']"].click()
    page.sees("Nothing yet", "#batches-empty")
    lines = [files.serve("/1.jpg", photo), "http://10.0.0.1/2.jpg", files.url("/missing.jpg")]
    page["#urls"].send_keys("\n".join(lines))
    page["#batch-prompt"].send_keys("resize to 80x60")
    page["#batch-form [type=submit]"].click()
    page.sees("http://10.0.0.1/2.jpg: ", "#urls-error")
    page["#urls"].clear()
    page["#urls"].send_keys("\n".join([lines[0], lines[2]]))
    page["#batch-form [type=submit]"].click()
    page.sees("0 of 2 ended", "#batch-status")
    start("batch")
    page.sees("2 of 2 ended, 1 failed", "#batch-status")
    assert page.natural_size("#items img") == [80, 60]
    page["nav [href='#/batches']"].click()
    page.sees("2 of 2", "#batches")
    assert page["#batches .badge"].text == "Finished"


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
    page.browser.refresh()
    page.sees("you have signed in with it", "#tokens")
    assert page.complaints() == []


def test_a_user_chooses_chinese_and_works_in_it(page: Page, user: Any, photo: bytes) -> None:
    ended_edit(user, photo, "黑白", image_url="https://example.org/a.jpg")
    page.open()
    page[".language button"].click()
    page.sees("登录")
    page["#username"].send_keys("alice")
    page["#password"].send_keys(TOKEN + Keys.ENTER)
    page["#edit-form [type=submit]"].click()
    page.sees("请选择照片，或给出照片的地址。", "#picture-error")
    page["#url"].send_keys("http://127.0.0.1/")
    page["#prompt"].send_keys("黑白")
    page["#edit-form [type=submit]"].click()
    page.sees("URL 的主机没有公网地址。", "#url-error")
    page["nav [href='#/history']"].click()
    page.sees("完成", "#edits")
    page.sees("年", "#edits")  # the date
    assert [complaint for complaint in page.complaints() if "status of 422" not in complaint] == []


def test_every_view_fits_a_phone(page: Page, user: Any, photo: bytes, photo_path: str) -> None:
    edit = ended_edit(user, photo, "w" * 300, image_url="media:results/1.jpg")
    page.width(360)

    def fits(view: str) -> None:
        assert page.js("document.documentElement.scrollWidth") <= 360, view

    page.open()
    assert page["#username"].is_displayed()
    fits("sign-in")
    page.sign_in()
    page["#picture"].send_keys(photo_path)
    fits("form")
    page.js(f"location.hash = '#/edits/{edit.pk}'")
    assert page.natural_size("#after") == [512, 600]
    fits("edit")
    page.js("location.hash = '#/history'")
    page.sees("www", "#edits")
    fits("history")
    page.js("location.hash = '#/batches'")
    page.sees("Nothing yet", "#batches-empty")
    fits("batches")
    page.js("location.hash = '#/webhooks'")
    page.sees("Nothing yet", "#deliveries-empty")
    fits("webhooks")
    page.js("location.hash = '#/tokens'")
    page.sees("you have signed in with it", "#tokens")
    fits("tokens")


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
