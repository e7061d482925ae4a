"""The openai engine against a server with the same wire format: requests, answers, and which tries are billed."""

import base64
import email
import http.server
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import pyvips
import requests
from conftest import APP, SERVICES, finished
from pydantic import TypeAdapter
from services import free_port

from image_editor.imaging.engines import Edited, EditError, EngineUnavailable, Plan, openai
from image_editor.imaging.operations import Operation, Output, as_prompt

KEY = "sk-tests-only-secret"
EDIT = "0b9c3d52-6f0e-4f5e-9d0c-1c2b3a495867"
Answer = Callable[["_Handler"], None]


class Provider(http.server.ThreadingHTTPServer):
    """Answers each request with the next of `answers`, and repeats the last one. `requests` are the parsed forms."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = []
        self.requests: list[dict[str, Any]] = []
        self.release = threading.Event()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: in several tests the client hangs up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        form = email.message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        fields = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        self.server.requests.append(
            {"path": self.path, "headers": dict(self.headers), "body": body, "at": time.monotonic()}
            | {name: part.get_payload(decode=True) for name, part in fields.items()}
            | {"type": fields["image"].get_content_type(), "filename": fields["image"].get_filename()}
        )
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *args: Any) -> None:
        pass


def says(document: object, status: int = 200, **headers: str) -> Answer:
    """An answer with a JSON document, or with ``document`` unchanged if it is bytes."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()

    def answer(handler: _Handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body)), "Content_Type": "application/json"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def picture(data: bytes) -> Answer:
    return says({"created": 1, "data": [{"b64_json": base64.b64encode(data).decode()}]})


def error(status: int, code: str = "", message: str = "no", **headers: str) -> Answer:
    return says({"error": {"message": message, "code": code, "type": "x", "param": None}}, status, **headers)


def hang(handler: _Handler) -> None:
    handler.server.release.wait(20)


def hang_up(handler: _Handler) -> None:
    handler.close_connection = True


def drip(handler: _Handler) -> None:
    """Send a byte every 0.1 s: no single read times out, but the whole answer takes too long."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.release.wait(0.1):
        handler.wfile.write(b" ")


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def engine(base: str, **env: str) -> openai.OpenAI:
    values = {"BASE_URL": base, "API_KEY": KEY, "TIMEOUT": "4"} | env
    return openai.create({f"IMAGE_EDITOR_OPENAI_{name}": value for name, value in values.items()})


def run(base: str, source: bytes, prompt: str = "a hat, please", **env: str) -> Edited:
    return engine(base, **env).edit(source, prompt, lambda percent: None, EDIT)


def png(width: int = 40, height: int = 30, colour: tuple[int, ...] = (200, 30, 30)) -> bytes:
    image = (pyvips.Image.black(width, height, bands=3) + list(colour)).cast("uchar").copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gstr_type, "png-comment-0-note", "where it was taken")
    return image.write_to_buffer(".png")


# --- typed operations ------------------------------------------------------------------------------------------------


def test_typed_operations_are_carried_out_exactly_and_without_the_provider(provider: Provider) -> None:
    steps = [{"op": "resize", "width": 8, "height": 6}, {"op": "invert"}, {"op": "convert", "format": "webp"}]
    prompt = as_prompt(TypeAdapter(list[Operation]).validate_python(steps))
    edited = run(provider.base, png(), prompt)
    assert (edited.width, edited.height, edited.extension) == (8, 6, "webp")
    assert pyvips.Image.new_from_buffer(edited.data, "")(4, 3) == pytest.approx([55, 225, 225], abs=3)
    assert engine(provider.base).plan(prompt).operations
    assert provider.requests == []
    with pytest.raises(EditError, match="too large"):
        run(provider.base, png(), "resize to 16000x16000")


@pytest.mark.parametrize("prompt", ["please invert", "resize to 8x6 and add a hat", "invert "])
def test_a_prompt_in_other_words_goes_to_the_provider(provider: Provider, prompt: str) -> None:
    provider.answers = [picture(png(64, 48))]
    assert run(provider.base, png(), prompt).width == 64
    assert len(provider.requests) == 1


# --- what is sent, and what comes back -------------------------------------------------------------------------------
def test_the_request_has_image_prompt_and_key_and_the_response_becomes_the_result(provider: Provider) -> None:
    made = png(64, 48, (10, 200, 10))
    assert b"where it was taken" in made
    provider.answers = [picture(made)]
    seen: list[int] = []
    edited = engine(provider.base, MODEL="painter-2").edit(png(), "给猫戴帽子 🎩\r\n--x", seen.append, EDIT)

    (request,) = provider.requests
    assert request["path"] == "/v1/images/edits"
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"
    assert request["headers"]["Idempotency-Key"] == f"image-editor-{EDIT}"
    assert request["prompt"].decode() == "给猫戴帽子 🎩\r\n--x"
    assert request["model"] == b"painter-2"
    assert (request["type"], request["filename"]) == ("image/png", "image.png")
    sent = pyvips.Image.new_from_buffer(request["image"], "")
    assert (sent.width, sent.height, sent(5, 5)) == (40, 30, [200, 30, 30])
    assert b"where it was taken" not in request["image"]

    assert (edited.content_type, edited.extension, edited.width, edited.height) == ("image/png", "png", 64, 48)
    assert pyvips.Image.new_from_buffer(edited.data, "")(5, 5) == [10, 200, 10]
    assert b"where it was taken" not in edited.data
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_the_result_is_saved_as_the_output_says(provider: Provider) -> None:
    provider.answers = [picture(png(64, 48)), picture(png(64, 48))]
    asked = engine(provider.base)
    edited = asked.edit(png(), "a hat", lambda percent: None, EDIT, Output(format="webp", quality=40))
    assert (edited.extension, edited.content_type, edited.width) == ("webp", "image/webp", 64)
    with pytest.raises(EditError) as refused:
        asked.edit(png(), "a hat", lambda percent: None, EDIT, Output(max_bytes=10))
    assert refused.value.code == "output_too_large", "the provider is not to blame"
    assert asked.plan("a hat", Output(format="webp")) == Plan(format="webp")


def test_an_image_by_url_is_fetched_without_the_api_key(provider: Provider, files: Any) -> None:
    provider.answers = [says({"data": [{"url": files.serve("/made.png", png(20, 10))}]})]
    edited = run(provider.base, png())
    assert (edited.width, edited.height) == (20, 10)
    assert not any("Authorization" in headers for _, headers, _ in files.seen)


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379/", "http://169.254.169.254/latest", "file:///etc/passwd"])
def test_an_image_by_url_at_a_private_address_is_refused(provider: Provider, url: str) -> None:
    provider.answers = [says({"data": [{"url": url}]})]
    with pytest.raises(EditError) as caught:
        run(provider.base, png())
    assert caught.value.code == "engine_answer_unusable"


def test_a_damaged_image_is_refused_without_a_request_to_the_provider(provider: Provider, photo: bytes) -> None:
    with pytest.raises(EditError) as caught:
        run(provider.base, photo[:3000])
    assert caught.value.code == "image_corrupt"
    assert provider.requests == []


# --- tries that are repeated -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(provider: Provider, as_date: bool) -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "1"
    provider.answers = [error(429, "rate_limit_exceeded", Retry_After=value), picture(png())]
    run(provider.base, png(), TIMEOUT="8")
    first, second = provider.requests
    assert 0.9 < second["at"] - first["at"] < 2.5
    assert first["headers"] == second["headers"]
    assert first["body"] == second["body"]


@pytest.mark.parametrize("status", [409, 500, 502, 503, 529])
def test_a_request_that_failed_at_the_provider_is_repeated(provider: Provider, status: int) -> None:
    provider.answers = [says(b"<html>oops", status), picture(png())]
    run(provider.base, png())
    assert len(provider.requests) == 2


def test_repeated_requests_end_within_the_timeout(provider: Provider) -> None:
    provider.answers = [error(503)]
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        run(provider.base, png(), TIMEOUT="3")
    assert time.monotonic() - began < 3
    assert 2 <= len(provider.requests) <= openai.TRIES_MAX


def test_a_long_retry_after_is_left_to_the_reconciler(provider: Provider) -> None:
    provider.answers = [error(429, Retry_After="3600")]
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        run(provider.base, png())
    assert time.monotonic() - began < 1
    assert len(provider.requests) == 1


def test_a_provider_that_refuses_connections_is_unavailable_within_four_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        run(f"http://127.0.0.1:{free_port()}/v1", png())
    assert time.monotonic() - began < 4


# --- tries that are not repeated --------------------------------------------------------------------------------------
@pytest.mark.parametrize("lost", [hang, hang_up, drip, error(504), error(408), error(524)])
def test_a_request_that_may_have_been_billed_is_not_repeated(provider: Provider, lost: Answer) -> None:
    provider.answers = [lost]
    began = time.monotonic()
    with pytest.raises(EditError, match="submit a new edit") as caught:
        run(provider.base, png(), TIMEOUT="1")
    assert caught.value.code == "engine_answer_lost"
    assert time.monotonic() - began < 2
    assert len(provider.requests) == 1


@pytest.mark.parametrize("lost", [hang_up, error(504)])
def test_a_lost_request_is_repeated_if_the_provider_honours_the_idempotency_key(
    provider: Provider, lost: Answer
) -> None:
    provider.answers = [lost, picture(png())]
    run(provider.base, png(), IDEMPOTENT="true")
    first, second = provider.requests
    assert first["headers"] == second["headers"]
    assert first["body"] == second["body"]


def test_a_provider_that_hangs_is_left_to_the_reconciler_if_requests_are_idempotent(provider: Provider) -> None:
    provider.answers = [hang]
    with pytest.raises(EngineUnavailable):
        run(provider.base, png(), TIMEOUT="1", IDEMPOTENT="true")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "moderation_blocked", "Rejected by the safety system"), "content_refused"),
        (error(400, "content_policy_violation", "Rejected by the safety system"), "content_refused"),
        (error(400, "invalid_value", "Rejected by the safety system"), "engine_refused"),
        (error(413, "", "Rejected by the safety system"), "engine_refused"),
    ],
)
def test_a_refusal_says_what_to_change(provider: Provider, answer: Answer, code: str) -> None:
    provider.answers = [answer]
    with pytest.raises(EditError, match=r"the prompt or the image.*Rejected by the safety system") as caught:
        run(provider.base, png())
    assert caught.value.code == code
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"),
        error(403),
        error(404),
        error(429, "insufficient_quota"),
        error(400, "billing_hard_limit_reached"),
        says({"error": {"message": "no such model", "param": "model"}}, 400),
        says(b"", 307, Location="http://127.0.0.1:1/"),
    ],
)
def test_an_error_that_the_operator_must_correct_fails_no_edit(provider: Provider, answer: Answer, caplog: Any) -> None:
    provider.answers = [answer]
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineUnavailable) as caught:
        run(provider.base, png())
    assert len(provider.requests) == 1
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    assert KEY not in str([vars(record) for record in caplog.records]) + str(caught.value) + repr(engine("http://x"))


def test_the_message_of_a_refusal_does_not_contain_the_api_key(provider: Provider) -> None:
    provider.answers = [error(400, "", f"you sent {KEY}\x00 and {'x' * 500}")]
    with pytest.raises(EditError) as caught:
        run(provider.base, png())
    assert KEY not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "answer",
    [
        says(b"\x00\xff garbage"),
        says(b"[" * 100_000),
        says([]),
        says({"data": []}),
        says({"data": [{"b64_json": None, "url": None}]}),
        says({"data": [{"b64_json": "not base64!"}]}),
        picture(b"GIF89a not a kind we take"),
        picture(png()[:60]),
        picture(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + b"\x00\x01\x00\x00" * 2 + b"\x08\x02\x00\x00\x00"),
        says(b" " * 29_000_000),
    ],
    ids=range(10),
)
def test_an_unusable_response_fails_the_edit_and_is_not_requested_again(provider: Provider, answer: Answer) -> None:
    provider.answers = [answer]
    with pytest.raises(EditError) as caught:
        run(provider.base, png(), IDEMPOTENT="true")
    assert caught.value.code == "engine_answer_unusable"
    assert len(provider.requests) == 1


# --- settings --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ключ"])
def test_an_invalid_api_key_is_refused_without_printing_it(key: str) -> None:
    with pytest.raises(ValueError, match="IMAGE_EDITOR_OPENAI_API_KEY") as caught:
        engine("http://x", API_KEY=key)
    assert not key or key not in str(caught.value)


def test_the_timeout_stays_below_the_time_limit_of_the_task() -> None:
    assert engine("http://x", TIMEOUT="").seconds == 60
    assert engine("http://x", TIMEOUT="600").seconds == 60
    short = {"IMAGE_EDITOR_OPENAI_API_KEY": KEY, "IMAGE_EDITOR_TASK_TIME_LIMIT": "12"}
    assert openai.create(short).seconds == 6


def test_a_missing_api_key_is_named_at_start() -> None:
    command = [sys.executable, "manage.py", "check"]
    env = SERVICES.env | {"IMAGE_EDITOR_ENGINE": "openai", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, cwd=APP, env=env, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "IMAGE_EDITOR_OPENAI_API_KEY" in ran.stderr


# --- the whole pipeline ----------------------------------------------------------------------------------------------
@pytest.fixture
def chosen(provider: Provider, settings: Any, monkeypatch: Any) -> Iterator[dict[str, str]]:
    """Let the API use the openai engine; return the environment variables with which a worker uses it, too."""
    from image_editor.imaging import engines

    env = {"ENGINE": "openai", "OPENAI_BASE_URL": provider.base, "OPENAI_API_KEY": KEY}
    env = {f"IMAGE_EDITOR_{name}": value for name, value in env.items()}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.ENGINE = "openai"
    engines.get.cache_clear()
    yield env
    engines.get.cache_clear()


@pytest.mark.django_db(transaction=True)
def test_an_edit_passes_through_the_whole_pipeline_with_this_engine(
    api: Any, provider: Provider, chosen: dict[str, str], start: Callable
) -> None:
    provider.answers = [picture(png(32, 16)), error(400, "moderation_blocked", "not that")]
    worker = start("edit", **chosen)

    def submit(prompt: str) -> dict[str, Any]:
        answer = api.post("/api/v1/edits", {"image": io.BytesIO(png()), "prompt": prompt})
        assert answer.status_code == 202, answer.content
        return finished(api, answer.json()["id"])

    done = submit("put the cat on the moon")
    assert done["status"] == "succeeded", done
    assert provider.requests[0]["headers"]["Idempotency-Key"].endswith(done["id"])
    result = pyvips.Image.new_from_buffer(requests.get(done["result_url"], timeout=5).content, "")
    assert (result.width, result.height) == (32, 16)

    refused = submit("something unkind")
    assert (refused["status"], refused["error"]["code"]) == ("failed", "content_refused")
    assert KEY not in worker.log.read_text()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("prompt", "status"), [("anything at all", 202), (" ", 422), ("x" * 2001, 422), ("\x00", 422)])
def test_any_text_is_a_valid_prompt_unless_it_is_blank_too_long_or_has_a_null_character(
    api: Any, chosen: dict[str, str], prompt: str, status: int
) -> None:
    body = {"image_url": "https://example.org/cat.jpg", "prompt": prompt}
    assert api.post("/api/v1/edits", body, content_type="application/json").status_code == status
