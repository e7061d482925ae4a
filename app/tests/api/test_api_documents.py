"""What the documents for clients print is true: their programs run, and their limits are those of the code."""

import base64
import json
import os
import re
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
from helpers import upload
from services import free_port, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = APP.parent
QUICK_START, RECIPES, WEBHOOKS, ERRORS, LIMITS = (
    ROOT / "docs/api" / f"{name}.md" for name in ("quickstart", "recipes", "webhooks", "errors", "limits")
)
CLIENT, API = ROOT / "clients/python/README.md", ROOT / "docs/app/api.md"
DOCUMENTS = (*sorted((ROOT / "docs/api").glob("*.md")), CLIENT, API)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# How each language of the receivers is run, in a folder with the file `receiver`.
RECEIVERS = {
    "python": [sys.executable, "receiver"],
    "js": ["node", "receiver.js"],
    "php": ["php", "-S", "127.0.0.1:{port}", "receiver"],
}
# The blocks that the tests below run. One that no test can run is marked `not-run`, and the sentence before says why.
RUN = {
    *((document, "sh") for document in (QUICK_START, RECIPES, WEBHOOKS, API)),
    *((document, "python") for document in (RECIPES, CLIENT)),
    *((WEBHOOKS, language) for language in RECEIVERS),
    (ERRORS, "json"),
}


def all_blocks(document: Path) -> list[tuple[str, str]]:
    """The code blocks of a document for clients, each with its language. The API's page has others, too."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if document != API or "$URL" in text]


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a document in a language."""
    found = [text for kind, text in all_blocks(document) if kind == language]
    assert found, f"{document} has no {language}"
    return found


def test_every_program_of_the_documents_is_run(figure: Callable) -> None:
    kinds = [(document, language) for document in DOCUMENTS for language, _ in all_blocks(document)]
    print([(document.name, language) for document, language in kinds if (document, language) not in RUN])
    figure("docs_commands", len(kinds), "blocks")
    figure("docs_commands_run", len([kind for kind in kinds if kind in RUN]), "blocks", at_least=len(kinds))


@pytest.fixture
def base(web: Callable) -> str:
    """The address of a platform."""
    return web()


@pytest.fixture
def run(user: Any, base: str, start: Callable, photo: bytes, tmp_path: Path) -> Callable[..., str]:
    """Runs a program in a folder with photos and a catalogue, on a platform with a worker. Returns its output.

    The scheduler belongs to it: an attempt that was killed or put off, as on a busy machine, is repeated by its jobs.
    """
    (tmp_path / "catalogue").mkdir()
    image = pyvips.Image.new_from_buffer(photo, "")
    for index, name in enumerate(("photo.jpg", "1.jpg", "2.jpg", "catalogue/one.jpg", "catalogue/two.jpg")):
        # Each file has other bytes: a recipe takes the hash as the key of a request.
        (tmp_path / name).write_bytes(image.write_to_buffer(".jpg", Q=80 + index))
    env = os.environ | {"URL": base, "TOKEN": TOKEN, "PYTHONPATH": str(ROOT / "clients/python/src")}
    worker = start("edit,batch,maintenance", concurrency=2)
    start(beat=True)

    def _run(*command: str, **more: str) -> str:
        try:
            ran = subprocess.run(command, cwd=tmp_path, env=env | more, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"no end of {command}: {error.stdout} {error.stderr} {worker.log.read_text()}")
        assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
        return ran.stdout

    return _run


def shell(*parts: str) -> list[str]:
    """The command that runs blocks as one program."""
    return ["bash", "-euo", "pipefail", "-c", "\n".join(parts)]


def connected() -> str:
    """The first block of the quick start, with the address and the token of the environment."""
    program = blocks(QUICK_START, "sh")[0]
    for placeholder, value in (("<https://name of the platform>", "$URL"), ("<your token>", "$TOKEN")):
        assert placeholder in program
        program = program.replace(placeholder, value)
    return program


def size(path: Path) -> tuple[int, int]:
    image = pyvips.Image.new_from_file(str(path))
    return image.width, image.height


def test_the_quick_start_works_as_printed(run: Callable, tmp_path: Path) -> None:
    output = run(*shell(connected(), *blocks(QUICK_START, "sh")[1:]))
    assert '"status": "succeeded"' in output
    assert '"code": "prompt_unknown"' in output
    assert max(size(tmp_path / "result.jpg")) <= 800
    *_, first, second = re.findall(r"^[0-9a-f-]{36}$", output, re.MULTILINE)
    assert first == second, "a repeated request made another edit"
    assert '"total": 2' in output


def test_the_recipes_work_as_printed(run: Callable, tmp_path: Path) -> None:
    run(*shell(connected(), *blocks(RECIPES, "sh")))
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
    assert "succeeded 100 %" in output
    assert "edits are left until" in output
    assert output.count("succeeded") >= 6
    assert max(size(tmp_path / "result.jpg")) <= 800
    width, height = size(tmp_path / "photo.jpg")
    assert size(tmp_path / "turned.jpg") == (height, width)
    assert max(size(tmp_path / "small1.webp")) <= 200


def test_the_commands_of_the_applications_readme_work_as_printed(run: Callable, base: str, tmp_path: Path) -> None:
    """They name an edit that has succeeded, an upload and a batch. curl is told to fail if it is answered an error."""
    from image_editor_client import Client

    photo = tmp_path / "photo.jpg"
    with Client(base, TOKEN) as client:
        edit = client.wait(client.submit("sepia", image=photo))
        upload_id, batch_id = client.upload(photo).id, client.submit_images([photo], "sepia").id
    named = {"ID": edit.id, "RESULT_URL": edit.result_url, "UPLOAD_ID": upload_id, "BATCH_ID": batch_id}
    curl = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }'
    output = run(*shell(curl, *blocks(API, "sh")), **named)
    assert '"prompt": "resize 200%, rotate -90"' in output
    assert "event: edit" in output
    assert size(tmp_path / "result.jpg")


def test_the_commands_of_webhooks_work_as_printed(run: Callable) -> None:
    output = run(*shell(connected(), *blocks(WEBHOOKS, "sh"), "echo $WEBHOOK_SECRET"))
    assert re.search(r"^whsec_\S+$", output, re.MULTILINE)
    assert output.count('"state": "pending"') == 2


def test_the_printed_problem_is_what_the_api_answers(api: Any, photo: bytes) -> None:
    (printed,) = map(json.loads, blocks(ERRORS, "json"))
    answered = upload(api, photo, "make it nice").json()
    printed["detail"] = printed["detail"].removesuffix("…")
    assert printed == answered | {"detail": answered["detail"][: len(printed["detail"])]}


@pytest.fixture(params=list(RECEIVERS))
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
        wait_for(lambda: requests.post(url, b"", timeout=5).status_code == 401, 30, f"{language} answers")
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_receiver_takes_what_is_genuine_and_nothing_else(receiver: str) -> None:
    from image_editor.webhooks import signature

    now, body = int(time.time()), json.dumps({"type": "webhook.test"}).encode()
    key = base64.b64decode(SECRET.removeprefix("whsec_"))

    def status(at: int = now, secrets: tuple[bytes, ...] = (key,), **changed: str | None) -> int:
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
        "not ASCII": status(signature="v1,\xe9\xff"),
        "a time that is not ASCII": status(timestamp="\xb2"),
        "a time with a sign": status(timestamp=f"+{now}"),
        "a time before 1970": status(timestamp=f"-{now}"),
        "a time with a fraction": status(timestamp=f"{now}.0"),
    }
    for name in signature.headers("one", body, now, (key,)):
        refused[f"without {name}"] = status(**{name.removeprefix("webhook-"): None})
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


def test_the_client_follows_a_stream_that_ends_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """It connects again, and says what it knows. What it is told twice by a delete is no error."""
    from image_editor_client import Client, Edit
    from image_editor_client.flows import Answer

    def edit(status: str, finished_at: str | None = None) -> dict[str, Any]:
        return {"id": "e", "status": status, "accepted_at": "2026-11-27T00:00:00Z", "finished_at": finished_at}

    streams = [
        [("queued-0", edit("queued"))],
        [("processing-5", edit("processing"))],
        [("succeeded-100", edit("succeeded", "2026-11-27T00:00:09Z"))],
    ]
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    client, known = Client("https://images.example", "token"), []

    def answer(request: Any) -> Answer:
        if request.method == "DELETE":
            return Answer(404, {}, b"{}")
        known.append(request.headers.get("Last-Event-ID"))
        return Answer(200, {}, b"", iter(streams.pop(0)))

    monkeypatch.setattr(client, "_send", answer)
    started = Edit.read(edit("queued"))
    assert [seen.status for seen in client.watch(started)] == ["queued", "processing", "succeeded"]
    assert known == [None, "queued-0", "processing-5"]
    assert waited == [2, 2]
    client.delete(started)


def test_the_client_makes_no_token_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor_client import Client, NotReached
    from image_editor_client.flows import Answer

    client = Client("https://images.example", "token")
    answers = [Answer(429, {"Retry-After": "0"}, b""), Answer(0, {}, b"cut off")]
    monkeypatch.setattr(client, "_send", lambda _: answers.pop(0))
    with pytest.raises(NotReached):
        client.make_token("shop")
    assert answers == []


def limits(settings: Any) -> dict[str, list[float]]:
    """The numbers of each row of the table, as the code has them."""
    from image_editor import tokens
    from image_editor.api import bodies, idempotency, schemas, waiting
    from image_editor.imaging import engines, operations
    from image_editor.imaging.engines import local
    from image_editor.pipeline import retention
    from image_editor.webhooks import callbacks

    def field(model: Any, name: str) -> dict[str, Any]:
        return model.model_json_schema()["properties"][name]

    metadata, mib = field(schemas.EditIn, "metadata"), 2**20
    (value,), name = metadata["patternProperties"].values(), metadata["propertyNames"]
    seconds = engines.soft_time_limit({})  # conftest.py scales the setting down
    overlaps = {field(one, "overlap_seconds")["maximum"] for one in (schemas.RotationIn, schemas.TokenRotationIn)}
    assert field(schemas.BatchIn, "items")["maxItems"] == bodies.BATCH_MAX
    return {
        "bytes of an image": [settings.UPLOAD_MAX_BYTES / mib],
        "pixels of an image, and after each operation": [settings.PIXELS_MAX],
        "pixels of its shorter side": [settings.SIDE_MIN],
        "pixels of a side, with the local engine": [operations.SIDE_MAX],
        "memory of decoder and encoder, with the local engine": [local.CODEC_MAX_BYTES / 1e6],
        "computed time of an edit, with the local engine": [seconds * local.TIME_SHARE],
        "time of an edit": [seconds],
        "download of an `image_url`": [settings.FETCH_TIMEOUT],
        "characters of a prompt": [settings.PROMPT_MAX_CHARS],
        "operations of a prompt, with the local engine": [operations.OPERATIONS_MAX],
        "`operations` of an edit": [operations.OPERATIONS_MAX],
        "characters of a watermark": [operations.WATERMARK_MAX_CHARS],
        "characters of a URL": [settings.URL_MAX_CHARS],
        "body in JSON": [settings.DATA_UPLOAD_MAX_MEMORY_SIZE / mib],
        "members of an object in JSON": [bodies.MEMBERS_MAX],
        "prompt and URLs of an edit together": [settings.TASK_MESSAGE_MAX_BYTES / 1024],
        "items or images of a batch": [bodies.BATCH_MAX],
        "images of a form together": [settings.UPLOAD_MAX_BYTES / mib],
        "`max_bytes` of an output": [settings.UPLOAD_MAX_BYTES / mib],
        "entries of `metadata`": [metadata["maxProperties"]],
        "characters of a name, and of a value, in `metadata`": [name["maxLength"], value["maxLength"]],
        "tokens of a user": [tokens.LIVE_MAX],
        "expired tokens in the list": [tokens.EXPIRED_MAX, tokens.KEPT.days],
        "characters of the name of a token": [field(schemas.TokenIn, "name")["maxLength"]],
        "edits of a user in a minute": [settings.RATE_PER_MINUTE],
        "edits of a user in a day": [settings.QUOTA_PER_DAY],
        "gigabytes of uploads of a user in a day": [settings.UPLOAD_BYTES_PER_DAY / 1e9],
        "dry runs of a user in a minute": [settings.DRY_RUNS_PER_MINUTE],
        "new tokens of a user in a minute": [settings.TOKENS_PER_MINUTE],
        "characters of an `Idempotency-Key`": [int(re.search(r"(\d+)}$", idempotency.KEY)[1])],
        "entries of a page": [field(schemas.Page, "limit")["maximum"]],
        "wait of a request, or life of a stream of events": [waiting.SECONDS_MAX],
        "waits at once in a web process": [waiting.AT_ONCE],
        "life of a signed URL": [settings.MEDIA_URL_TTL / 3600],
        "life of an edit and its files, after it has ended": [settings.RETENTION_DAYS],
        "life of an upload, after its last use": [settings.RETENTION_DAYS + retention.UPLOAD_LONGER.days],
        "answer of a receiver": [callbacks.TIMEOUT],
        "tries of a delivery": [len(callbacks.DELAYS) + 1, round(sum(callbacks.DELAYS) / 3600)],
        "overlap of two webhook secrets, or of two tokens": [longest / 86400 for longest in overlaps],
    }


def test_the_limits_are_those_of_the_code(settings: Any) -> None:
    """tests/test_docs.py compares those of the edge."""
    from image_editor.codes import CODES

    lines = [line for line in LIMITS.read_text().splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    printed = {
        what: [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", limit)]
        for what, limit, setting, _ in rows
        if "nginx_" not in setting
    }
    assert printed == limits(settings)
    names = {name for *_, setting, _ in rows for name in re.findall("`([A-Z_]+)`", setting)}
    assert [name for name in names if not hasattr(settings, name)] == []
    codes = {code for *_, error in rows for code in re.findall(r"`(\w+)`", error)}
    assert codes - {"dead"} <= CODES.keys()
