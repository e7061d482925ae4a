"""Make the screenshots of the README from the lab, and record which files of the pages they show.

scripts/screenshots calls this program. A test compares the record with the files, so a screenshot is never older than its page.
Every view of the page, in both languages and in two widths, goes to build/screenshots, to be looked at.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the library is not in this repository's .venv, in which the test imports this module
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images"
RECORD = IMAGES / "screenshots.json"
VIEWED = ROOT / "build/screenshots"
SECRETS = ROOT / "secrets/image-editor-lab"
URL = f"https://localhost:{os.environ.get('LAB_EDGE_PORT', '8443')}"
# The folders with the files of each page.
PAGES = {
    "page.png": ("app/image_editor/templates/image_editor", "app/image_editor/static/image_editor"),
    "operators.png": ("roles/operators/files",),
}
WIDTH = 1280
HEIGHTS = {WIDTH: 900, 320: 1600}  # by width; a higher page is cut off
LANGUAGES = {"en": "en", "zh": "zh-hans"}
# What each view shows once it is complete.
VIEWS = {
    "sign-in": "#username",
    "form": "#understood",
    "edit": "#frame",
    "history": "#edits .thumb img",
    "batches": "#batches li",
    "batch": "#items .thumb img",
    "webhooks": "#deliveries li",
    "tokens": "#tokens li",
    "usage": "#usage li",
}
DARK = ("edit",)  # views that are also shown in dark
PHOTO = ROOT / "app/tests/data/grace_hopper.jpg"
SECONDS = 60


def shown(name: str, root: Path = ROOT) -> str:
    """The hash of the files of the page that a screenshot shows."""
    paths = sorted(path for folder in PAGES[name] for path in (root / folder).rglob("*") if path.is_file())
    if not paths:
        raise FileNotFoundError(f"{name}: none of {PAGES[name]} has a file")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def secret(name: str) -> str:
    """A secret of the lab."""
    return (SECRETS / name).read_text().strip()


def visible(browser: Chrome, css: str) -> WebElement:
    """An element, once it is visible."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import visibility_of_element_located
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, SECONDS).until(visibility_of_element_located((By.CSS_SELECTOR, css)))


def until(browser: Chrome, script: str) -> None:
    """Wait until a script returns something true."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, SECONDS).until(lambda driver: driver.execute_script(f"return {script}"))


def take(browser: Chrome, path: Path, width: int = WIDTH, scheme: str = "light") -> None:
    """Take a screenshot of the page as it is."""
    from PIL import Image

    size = {"width": width, "height": HEIGHTS[width], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    height = min(HEIGHTS[width], browser.execute_script("return document.body.scrollHeight"))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"height": height})
    image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    path.parent.mkdir(exist_ok=True)
    image.quantize(256).save(path, optimize=True)  # a quarter of the size
    print(f"screenshots: wrote {path.relative_to(ROOT)}")


def sign_in(browser: Chrome) -> None:
    """Sign in to the page with the account of the smoke test."""
    browser.get(URL)
    visible(browser, "#username").send_keys("smoke")
    visible(browser, "#password").send_keys(secret("smoke_token") + "\n")
    visible(browser, "#edit-form")


def choose(browser: Chrome, *photos: Path) -> None:
    """Choose photographs in the form."""
    from selenium.webdriver.common.by import By

    browser.find_element(By.CSS_SELECTOR, "#picture").send_keys("\n".join(map(str, photos)))


def edit(browser: Chrome) -> None:
    """Edit a photograph and show both images side by side."""
    sign_in(browser)
    choose(browser, PHOTO)
    visible(browser, "#prompt").send_keys("sepia, rotate 90")
    visible(browser, "#edit-form [type=submit]").click()
    visible(browser, "#frame[data-mode=beside]")
    until(browser, "['#before', '#after'].every((css) => document.querySelector(css).naturalWidth > 0)")
    take(browser, IMAGES / "page.png")


def page(browser: Chrome) -> None:
    """Show every view in both languages."""
    addresses: dict[str, str] = {}
    browser.get(URL)
    for language, code in LANGUAGES.items():
        browser.add_cookie({"name": "django_language", "value": code, "secure": True})
        browser.get(URL)
        show(browser, "sign-in", language)
        sign_in(browser)
        choose(browser, PHOTO, PHOTO)
        for op in ("sepia", "brightness"):
            visible(browser, f"#chips [data-op={op}]").click()
        show(browser, "form", language)
        addresses = addresses or edited(browser)
        for view, address in addresses.items():
            browser.get(f"{URL}/{address}")
            show(browser, view, language)
        visible(browser, "#sign-out button").click()
        visible(browser, "#username")


def show(browser: Chrome, view: str, language: str) -> None:
    """Take the screenshots of a view, once it is complete."""
    visible(browser, VIEWS[view])
    seen = "image.checkVisibility() && image.getBoundingClientRect().top < innerHeight"
    until(browser, f"[...document.images].every((image) => !({seen}) || image.complete)")
    for width in HEIGHTS:
        for scheme in ("light", "dark") if view in DARK else ("light",):
            take(browser, VIEWED / f"{view}.{language}.{width}.{scheme}.png", width, scheme)


def edited(browser: Chrome) -> dict[str, str]:
    """Send the form, and a test event. Returns the address of each view."""
    visible(browser, "#edit-form [type=submit]").click()
    until(browser, "document.querySelectorAll('#items [data-status=succeeded]').length === 2")
    batch = browser.execute_script("return location.hash")
    first = browser.execute_script("return document.querySelector('#items a').hash")
    browser.get(f"{URL}/#/webhooks")
    visible(browser, "#receiver").send_keys("https://example.org/hook")
    visible(browser, "#test-form [type=submit]").click()
    visible(browser, VIEWS["webhooks"])
    lists = {view: f"#/{view}" for view in ("history", "batches", "webhooks", "tokens", "usage")}
    return {"edit": first, "batch": batch} | lists


def operate(browser: Chrome) -> None:
    """Show the operators' page, once it has the health of all parts."""
    account = base64.b64encode(f"operator:{secret('operator_password')}".encode()).decode()
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {account}"}})
    browser.get(f"{URL}/operators/")
    state = "document.getElementById('summary').className"
    until(browser, state)
    if browser.execute_script(f"return {state}") == "bad":
        raise RuntimeError("a part of the lab does not answer: make status names it")
    take(browser, IMAGES / "operators.png")


def main() -> int:
    """See the module's docstring."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.accept_insecure_certs = True  # of the lab's own CA
    options.add_argument("--headless=new")
    options.add_argument("--lang=en-US")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    for photograph in (edit, page, operate):
        browser = Chrome(options, ChromeService("/usr/bin/chromedriver"))
        try:
            browser.set_window_size(WIDTH, HEIGHTS[WIDTH])
            photograph(browser)
        finally:
            browser.quit()
    RECORD.write_text(json.dumps({name: shown(name) for name in PAGES}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
