"""Make the screenshots in docs/images from the lab, and record which files of the pages they show.

scripts/screenshots calls this program. A test compares the record with the files, so a screenshot is never older than its page.
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

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images"
RECORD = IMAGES / "screenshots.json"
SECRETS = ROOT / "secrets/image-editor-lab"
URL = f"https://localhost:{os.environ.get('LAB_EDGE_PORT', '8443')}"
# The folders with the files of each page.
PAGES = {
    "page.png": ("app/image_editor/templates/image_editor", "app/image_editor/static/image_editor"),
    "operators.png": ("roles/operators/files",),
}
WIDTH, HEIGHT = 1280, 900  # a higher page is cut off
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


def edit(browser: Chrome) -> None:
    """Sign in to the page, edit a photograph and show both images side by side."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import element_to_be_clickable, visibility_of_element_located
    from selenium.webdriver.support.ui import WebDriverWait

    def visible(css: str):
        return WebDriverWait(browser, SECONDS).until(visibility_of_element_located((By.CSS_SELECTOR, css)))

    browser.get(URL)
    visible("#username").send_keys("smoke")
    visible("#password").send_keys(secret("smoke_token") + "\n")
    prompt = visible("#prompt")
    browser.find_element(By.CSS_SELECTOR, "#picture").send_keys(str(ROOT / "app/tests/data/grace_hopper.jpg"))
    prompt.send_keys("sepia, rotate 90")
    visible("#edit-form [type=submit]").click()
    WebDriverWait(browser, SECONDS).until(element_to_be_clickable((By.CSS_SELECTOR, "[data-mode=beside]"))).click()
    loaded = "return ['#before', '#after'].every(css => document.querySelector(css).naturalWidth > 0)"
    WebDriverWait(browser, SECONDS).until(lambda driver: driver.execute_script(loaded))
    browser.execute_script("scrollTo(0, 0)")


def operate(browser: Chrome) -> None:
    """Open the operators' page, and wait until it shows the health of all parts."""
    from selenium.webdriver.support.ui import WebDriverWait

    account = base64.b64encode(f"operator:{secret('operator_password')}".encode()).decode()
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {account}"}})
    browser.get(f"{URL}/operators/")
    state = "return document.getElementById('summary').className"
    WebDriverWait(browser, SECONDS).until(lambda driver: driver.execute_script(state))
    if browser.execute_script(state) == "bad":
        raise RuntimeError("a part of the lab does not answer: make status names it")


def main() -> int:
    """See the module's docstring."""
    from PIL import Image
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.accept_insecure_certs = True  # of the lab's own CA
    options.add_argument("--headless=new")
    options.add_argument("--lang=en-US")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    for name, prepare in (("page.png", edit), ("operators.png", operate)):
        browser = Chrome(options, ChromeService("/usr/bin/chromedriver"))
        try:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
            prepare(browser)
            height = min(HEIGHT, browser.execute_script("return document.body.scrollHeight"))
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"height": height})
            image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
            image.quantize(256).save(IMAGES / name, optimize=True)  # a quarter of the size
        finally:
            browser.quit()
        print(f"screenshots: wrote docs/images/{name}")
    RECORD.write_text(json.dumps({name: shown(name) for name in PAGES}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
