"""What docs/api and the client's README print is true: their programs run, and their limits are those of the code."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvips
import requests
from conftest import APP, TOKEN
from services import free_port, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = APP.parent
QUICK_START, RECIPES, WEBHOOKS, LIMITS = (
    ROOT / "docs/api" / f"{name}.md" for name in ("quickstart", "recipes", "webhooks", "limits")
)
CLIENT = ROOT / "clients/python/README.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# How each language of the receivers is run, in a folder with the file `receiver`.
RECEIVERS = {
    "python": [sys.executable, "receiver"],
    "js": ["node", "receiver.js"],
    "go": ["go", "run", "receiver.go"],
    "php": ["php", "-S", "127.0.0.1:{port}", "receiver"],
}
FOUND = [language for language, command in RECEIVERS.items() if shutil.which(command[0])]


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a document in a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no {language}"
    return found


@pytest.fixture
def run(user: Any, web: Callable, start: Callable, photo: bytes, tmp_path: Path) -> Callable[..., str]:
    """Runs a program in a folder with a photo and a catalogue, on a platform with a worker. Returns its output."""
    (tmp_path / "catalogue").mkdir()
    image = pyvips.Image.new_from_buffer(photo, "")
    for index, name in enumerate(("photo.jpg", "catalogue/one.jpg", "catalogue/two.jpg")):
        # Each file has other bytes: a recipe takes the hash as the key of a request.
        (tmp_path / name).write_bytes(image.write_to_buffer(".jpg", Q=80 + index))
    env = os.environ | {"URL": web(), "TOKEN": TOKEN, "PYTHONPATH": str(ROOT / "clients/python/src")}
    start("edit", concurrency=2)

    def _run(*command: str) -> str:
        ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
        return ran.stdout

    return _run


def shell(*parts: str) -> list[str]:
    """The command that runs blocks as one program, with the address and the token of the environment."""
    program = "\n".join(parts)
    for placeholder, value in (("<https://address of the platform>", "$URL"), ("<your token>", "$TOKEN")):
        assert placeholder in program
        program = program.replace(placeholder, value)
    return ["bash", "-euo", "pipefail", "-c", program]


def size(path: Path) -> tuple[int, int]:
    image = pyvips.Image.new_from_file(str(path))
    return image.width, image.height


def test_the_quick_start_works_as_printed(run: Callable, tmp_path: Path) -> None:
    output = run(*shell(*blocks(QUICK_START, "sh")))
    assert '"status": "succeeded"' in output
    assert '"code": "prompt_unknown"' in output
    assert max(size(tmp_path / "result.jpg")) <= 800
    *_, first, second = re.findall(r"^[0-9a-f-]{36}$", output, re.MULTILINE)
    assert first == second, "a repeated request made another edit"
    assert '"total": 2' in output


def test_the_recipes_work_as_printed(run: Callable, tmp_path: Path) -> None:
    run(*shell(blocks(QUICK_START, "sh")[0], *blocks(RECIPES, "sh")))
    for program in blocks(RECIPES, "python"):
        run(sys.executable, "-c", program)
    for folder, most in (("small", 800), ("tiny", 200)):
        results = sorted((tmp_path / folder).glob("*.webp"))
        assert [path.stem for path in results] == ["one", "two"]
        assert all(max(size(path)) <= most for path in results)
    assert size(tmp_path / "watermarked.jpg")
    assert size(tmp_path / "chinese.jpg")


def test_the_examples_of_the_client_work_as_printed(run: Callable, tmp_path: Path) -> None:
    output = "".join(run(sys.executable, "-c", program) for program in blocks(CLIENT, "python"))
    assert "prompt_unknown" in output
    assert output.count("succeeded") >= 4
    assert max(size(tmp_path / "result.jpg")) <= 800
    width, height = size(tmp_path / "photo.jpg")
    assert size(tmp_path / "turned.jpg") == (height, width)


@pytest.fixture(params=FOUND)
def receiver(request: Any, tmp_path: Path) -> Iterator[str]:
    """The address of a receiver of docs/api/webhooks.md that runs."""
    language, port = request.param, free_port()
    (program,) = blocks(WEBHOOKS, language)
    command = [word.format(port=port) for word in RECEIVERS[language]]
    (tmp_path / command[-1]).write_text(program)
    env = os.environ | {"WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for(lambda: requests.post(url, b"", timeout=5).status_code == 401, 60, f"{language} answers")
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_receiver_takes_what_is_genuine_and_nothing_else(receiver: str) -> None:
    from image_editor.webhooks import signature

    now, body = int(time.time()), json.dumps({"type": "webhook.test"}).encode()
    key = base64.b64decode(SECRET.removeprefix("whsec_"))

    def status(at: int = now, secrets: tuple[bytes, ...] = (key,), **changed: str) -> int:
        headers = signature.headers("one", body, at, secrets)
        headers |= {f"webhook-{name}": value for name, value in changed.items()}
        return requests.post(receiver, body, headers=headers, timeout=10).status_code

    assert status() == 204
    assert status(secrets=(b"the new secret of this user", key)) == 204, "the overlap of a rotation"
    refused = {
        "forged": status(secrets=(b"another secret",)),
        "old": status(at=now - 400),
        "of the future": status(at=now + 400),
        "of another delivery": status(id="two"),
        "no time": status(timestamp="soon"),
        "a very long time": status(timestamp="9" * 5000),
        "no signature": status(signature=""),
        "half a signature": status(signature="v1,"),
        "no version": status(signature="g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        "nonsense": status(signature="v1 , ,, v2,x"),
    }
    assert {what: code for what, code in refused.items() if code != 401} == {}


def test_the_clients_verification_agrees_with_the_platform() -> None:
    from image_editor_client import NotGenuine, verify

    from image_editor.webhooks import signature

    now, body = int(time.time()), json.dumps({"type": "webhook.test"}).encode()
    genuine = signature.headers("one", body, now, [base64.b64decode(SECRET.removeprefix("whsec_"))])
    event = verify(SECRET, genuine, body)
    assert (event.id, event.type, event.edit) == ("one", "webhook.test", None)
    assert verify(SECRET, {name.title(): value for name, value in genuine.items()}, body) == event
    for headers in (
        {},
        genuine | {"webhook-id": "two"},
        genuine | {"webhook-timestamp": str(now - 400)},
        genuine | {"webhook-timestamp": "9" * 5000},
        genuine | {"webhook-signature": "v1"},
    ):
        with pytest.raises(NotGenuine):
            verify(SECRET, headers, body)
    with pytest.raises(NotGenuine):
        verify(SECRET, genuine, body + b" ")


def test_the_client_repeats_after_faults_and_never_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions have one Idempotency-Key, wait as Retry-After says, and end at a refusal or a long wait."""
    from image_editor_client import ApiError, Client, NotReached
    from image_editor_client.flows import Answer

    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    client = Client("https://images.example", "token")
    sent: list[Any] = []

    def answering(*answers: Answer) -> None:
        waiting = list(answers)
        sent.clear()
        waited.clear()
        monkeypatch.setattr(client, "_send", lambda request: sent.append(request) or waiting.pop(0))

    secret = Answer(200, {}, b'{"secret": "whsec_"}')
    answering(Answer(503, {"Retry-After": "7"}, b""), Answer(0, {}, b"cut off"), secret)
    assert client.webhook_secret() == "whsec_"
    assert waited[0] == 7
    assert len(waited) == 2
    refused = Answer(422, {"X-Request-ID": "r"}, b'{"code": "prompt_unknown", "detail": "say more"}')
    answering(Answer(502, {}, b"<html>"), refused)
    with pytest.raises(ApiError, match="say more") as raised:
        client.submit("sepia", image_url="https://example.org/a.jpg")
    assert (raised.value.code, raised.value.request_id) == ("prompt_unknown", "r")
    assert len({request.headers["Idempotency-Key"] for request in sent}) == 1 < len(sent)
    answering(Answer(429, {"Retry-After": "7200"}, b"{}"))
    with pytest.raises(ApiError):
        client.webhook_secret()
    answering(*[Answer(0, {}, b"no route")] * 5)
    with pytest.raises(NotReached, match="no route"):
        client.webhook_secret()


def test_the_client_sends_what_is_said_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor_client import ApiError, Client, Item
    from image_editor_client.flows import Answer

    client, sent = Client("https://images.example", "token"), []

    def refuse(request: Any) -> Answer:
        sent.append(request)
        return Answer(422, {}, b"{}")

    monkeypatch.setattr(client, "_send", refuse)
    steps, output = [{"op": "resize", "width": 80}], {"format": "webp"}
    said = {"upload_id": "u", "operations": steps, "output": output, "metadata": {"reference": "7"}}
    for ask in (
        lambda: client.submit(**said),
        lambda: client.submit_batch([Item(**said), Item("https://example.org/a.jpg", "sepia")]),
        lambda: client.submit(image=b"JPEG", operations=steps, output=output),
    ):
        with pytest.raises(ApiError):
            ask()
    edit, batch, form = sent
    assert json.loads(edit.body) == said
    assert json.loads(batch.body) == {"items": [said, {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}]}
    assert b'name="operations"\r\n\r\n[{"op": "resize", "width": 80}]\r\n' in form.body
    assert b'name="prompt"' not in form.body
    for wrong in ({}, {"image": b"JPEG", "upload_id": "u"}, {"image_url": "https://example.org/", "upload_id": "u"}):
        with pytest.raises(ValueError, match="give one of"):
            client.submit("sepia", **wrong)


def number(text: str) -> int:
    """The first number of a limit, in bytes or seconds if it has such a unit."""
    units = {"MiB": 2**20, "KiB": 2**10, "hour": 3600}
    value, unit = re.search(r"([\d,]+) ?(\w*)", text).groups()
    return int(value.replace(",", "")) * units.get(unit, 1)


def test_the_limits_are_those_of_the_code(settings: Any) -> None:
    from image_editor.imaging import operations

    rows = [row.split(" | ") for row in LIMITS.read_text().splitlines() if row.startswith("| ")][2:]
    by_setting = {setting.strip("` "): number(limit) for _, limit, setting, *_ in rows if setting.startswith("`")}
    compared = 0
    for name, limit in by_setting.items():
        # conftest.py scales some down, and those in small letters belong to the edge.
        if hasattr(settings, name) and f"IMAGE_EDITOR_{name}" not in os.environ:
            assert getattr(settings, name) == limit, name
            compared += 1
    assert compared >= 6
    fixed = {what.strip("| "): number(limit) for what, limit, *_ in rows}
    assert fixed["characters of a prompt"] == settings.PROMPT_MAX_CHARS
    assert fixed["characters of a URL"] == settings.URL_MAX_CHARS
    assert fixed["body in JSON"] == settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert fixed["prompt and URLs of an edit together"] == settings.TASK_MESSAGE_MAX_BYTES
    assert fixed["pixels of its shorter side"] == settings.SIDE_MIN
    assert fixed["pixels of a side, with the local engine"] == operations.SIDE_MAX
    assert fixed["operations of a prompt, with the local engine"] == operations.OPERATIONS_MAX
    assert fixed["characters of a watermark"] == operations.WATERMARK_MAX_CHARS
