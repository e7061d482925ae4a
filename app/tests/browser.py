"""Debian's Chromium, and the application as a release serves it. The tests of the page use both."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvips
from conftest import APP, TOKEN, gunicorn
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from services import Services, wait_for


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

    def choose(self, css: str, value: str) -> None:
        Select(self[css]).select_by_value(value)

    def texts(self, css: str) -> list[str]:
        return self.js(f"[...document.querySelectorAll({css!r})].map((element) => element.innerText)")

    def sees(self, text: str, css: str = "main") -> None:
        # The innerText of an element that is not displayed is not empty.
        seen = f"[document.querySelector({css!r})].map((found) => found?.checkVisibility() && found.innerText)[0]"
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
        metrics = {"width": pixels, "height": 740, "deviceScaleFactor": 1, "mobile": pixels < 1000}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefers(self, scheme: str) -> None:
        """What the browser prefers: ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """New messages of the browser's console: violations of the content security policy, and script errors.

        The preview of a prompt that is half written is refused. That is no fault.
        """
        messages = [entry["message"] for entry in self.browser.get_log("browser")]
        return [message for message in messages if "/dry_run - Failed to load resource" not in message]


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
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
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
