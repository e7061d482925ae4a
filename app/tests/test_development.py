"""`python -m development`, which `make dev` runs: a platform for one developer, which follows the source."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from conftest import APP
from services import Process, free_port, wait_for

EDITS = "/api/v1/edits"


def test_development_is_ready_soon_and_follows_changes(tmp_path: Path, photo: bytes, figure: Callable) -> None:
    copy = tmp_path / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns(".*", "static_collected", "__pycache__", "*.mo"))
    base = f"http://localhost:{free_port()}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("IMAGE_EDITOR_")}
    command = [sys.executable, "-m", "development", "--port", base.rpartition(":")[2]]
    development = Process(command, tmp_path / "log", env, copy)
    began = time.monotonic()
    development.start()
    try:
        wait_for(lambda: "development: ready in" in development.log.read_text(), 90, "development is ready")
        figure("dev_ready_seconds", round(time.monotonic() - began, 1), "s", 60)
        token = re.search(r"token (\S+)", development.log.read_text())[1]
        client = requests.Session()
        client.headers = {"Authorization": f"Bearer {token}"}
        demo = client.get(base + EDITS, timeout=5).json()["items"]
        assert {edit["status"] for edit in demo} == {"succeeded"}
        assert requests.get(demo[0]["result_url"], timeout=5).ok
        assert "登录" in requests.get(base, headers={"Accept-Language": "zh"}, timeout=5).text

        web = copy / "image_editor/web/middleware.py"
        web.write_text(web.read_text().replace('["X-Release"] = settings.RELEASE', '["X-Release"] = "changed"'))

        def follows() -> bool:  # a server that reads half of the file answers with an error
            return requests.get(base, timeout=5).headers.get("X-Release") == "changed"

        wait_for(follows, 60, "the web server follows")

        with (copy / "image_editor/imaging/engines/local.py").open("a") as engine:
            engine.write("_edit = Local.edit\nLocal.edit = lambda *args: replace(_edit(*args), width=7)\n")

        def width() -> int:
            """Of the result of a new edit."""
            edit = client.post(base + EDITS, {"prompt": "sepia"}, files={"image": photo}, timeout=5).json()
            ended = wait_for(lambda: client.get(base + edit["status_url"], timeout=5).json()["result"], 30, "it ends")
            return ended["width"]

        wait_for(lambda: width() == 7, 60, "the workers follow")
    finally:
        code = development.stop(seconds=40)  # kill() would leave its children
    assert code == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(base, timeout=5)
