"""Fuzzing: requests generated from the API's OpenAPI document, and randomly damaged images.

Every run uses new examples. At its end it prints its FUZZ_SEED. With that variable, a run repeats the examples.
scripts/soak sets FUZZ_EXAMPLES, for more of them.
"""

import base64
import io
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pyvips
import schemathesis
from conftest import FUZZ_SEED, TOKEN, children
from django.test import Client
from helpers import EDITS, post, wsgi
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from services import wait_for

from image_editor.imaging import engines

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 12)
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
# Values of formats that JSON Schema does not define exactly: addresses that the platform opens, and cursors.
PUBLIC_URL = r"https?://[a-z]{1,9}(\.[a-z0-9]{1,9})?\.(com|org)(:443)?/[A-Za-z0-9/._~-]{0,40}(\?[a-z=&]{0,20})?"
schemathesis.openapi.format("uri", st.from_regex(PUBLIC_URL, fullmatch=True))
TIME = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.timezones())
CURSOR = st.tuples(TIME.map(datetime.isoformat), st.uuids().map(str))
schemathesis.openapi.format(
    "cursor", CURSOR.map(lambda pair: base64.urlsafe_b64encode(" ".join(pair).encode()).decode())
)
# Fields of a form that are JSON.
OPERATION = st.sampled_from([{"op": "sepia"}, {"op": "blur", "sigma": 3.5}, {"op": "watermark", "text": "你好"}])
schemathesis.openapi.format("operations", st.lists(OPERATION, min_size=1, max_size=3).map(json.dumps))
schemathesis.openapi.format("output", st.sampled_from(["{}", '{"format": "webp"}', '{"quality": 9, "max_bytes": 9}']))
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
METADATA = st.dictionaries(NAME, st.text("ab", max_size=200), max_size=16)
schemathesis.openapi.format("json-object", METADATA.map(json.dumps))
READ = (
    *(f"{what}{events}" for what in ("edits/{edit_id}", "batches/{batch_id}") for events in ("", "/events")),
    "uploads/{upload_id}",
    "webhooks/deliveries/{delivery_id}",
)
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Host": "testserver"}

pytestmark = pytest.mark.django_db(transaction=True)


def fuzzed(examples: int) -> Callable[[Callable], Callable]:
    """A decorator: run the test with this many random examples, which FUZZ_SEED decides."""
    chosen = settings(
        max_examples=examples,
        derandomize=False,  # where the variable CI is set, Hypothesis would use the same examples in every run
        phases=[Phase.explicit, Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(FUZZ_SEED)(chosen(test))


@pytest.fixture
def operations(user: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The operations of the OpenAPI document, served by the real WSGI application without rate limits and waits."""
    from backend.wsgi import application
    from image_editor.api import waiting

    monkeypatch.setattr(waiting, "SECONDS_MAX", 0)
    settings.RATE_PER_MINUTE = settings.QUOTA_PER_DAY = 0
    settings.DRY_RUNS_PER_MINUTE = settings.TOKENS_PER_MINUTE = 0
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application, headers={"Host": "testserver"})
    schema.config.generation.update(with_security_parameters=False)  # HEADERS has the token
    return [operation.ok() for operation in schema.get_all_operations()]


def test_valid_requests_are_accepted_and_answered_as_described(
    operations: Any, api: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No 5xx, no undocumented status or content type, and every document matches its schema.

    With an engine that takes every prompt, what the document allows is accepted: only an unknown id may answer 404.
    """
    item = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
    known = {
        "edit_id": post(api, item).json()["id"],
        "batch_id": post(api, {"items": [item]}, "/api/v1/batches").json()["id"],
        "upload_id": api.post("/api/v1/uploads", {"image": io.BytesIO(photo)}).json()["id"],
        "delivery_id": post(api, {"url": "https://example.org/"}, "/api/v1/webhooks/test").json()["id"],
        "token_id": post(api, {"name": "known"}, "/api/v1/tokens").json()["id"],
    }
    takes_all = SimpleNamespace(check=lambda *_: None, plan=lambda *_: engines.Plan())
    monkeypatch.setattr(engines, "get", lambda name: takes_all)
    numbers = itertools.count()
    seen = set()
    last = sorted(operations, key=lambda operation: operation.method.lower() == "delete")  # they remove what is known
    # Half of the cases get a known id, which random data never has.
    for operation, exists in itertools.product(last, (False, True)):

        @fuzzed(EXAMPLES // 2)
        @given(operation.as_strategy(), st.just(exists))
        def check(case: Any, exists: bool) -> None:
            if exists:
                case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
            if case.media_type == "multipart/form-data":
                case.body["image"] = photo
            if key := (case.headers or {}).get("Idempotency-Key"):
                case.headers["Idempotency-Key"] = f"{next(numbers)}{key}"[:255]  # a key belongs to one request
            answer = case.call_and_validate(headers=HEADERS, checks=[*CHECKS, checks.positive_data_acceptance])
            seen.add((case.operation.label, answer.status_code))

        check()
    posts = {(f"POST /api/v1/{what}", 202) for what in ("edits", "batches")} | {("POST /api/v1/edits/dry_run", 200)}
    reads = {(f"GET /api/v1/{what}", code) for what in READ for code in (200, 404)}
    assert posts | reads <= seen, "an expected status did not occur"


def test_invalid_requests_are_refused_as_described(operations: Any) -> None:
    for operation in operations:
        if not operation.body and not any(operation.iter_parameters()):
            continue  # nothing in such a request can be invalid

        @fuzzed(EXAMPLES)
        @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def check(case: Any) -> None:
            case.call_and_validate(headers=HEADERS, checks=[*CHECKS, checks.negative_data_rejection])

        check()


BATCHES = "/api/v1/batches"
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)  # also halves of surrogate pairs and NUL
LATIN = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60)  # what a header can carry
NAMES = st.sampled_from(
    ["image_url", "prompt", "callback_url", "items", "image", "operations", "output", "op", "csrfmiddlewaretoken"]
)
GOOD = {"image_url": "https://example.org/a.jpg", "prompt": "sepia", "callback_url": "https://example.org/"}


def or_good(values: st.SearchStrategy, *good: Any) -> st.SearchStrategy:
    """Any value, or as often a good one, so that requests get past the first check."""
    return values | st.sampled_from(good)


def documents() -> st.SearchStrategy[bytes]:
    """Bodies in JSON: good documents in which some members have any value, and any JSON."""
    value = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | ANY_TEXT, inner, max_size=3),
        max_leaves=8,
    )
    changed = st.dictionaries(NAMES, ANY_TEXT | value, max_size=2).map(lambda members: GOOD | members)
    edit = changed | st.dictionaries(NAMES | ANY_TEXT, ANY_TEXT | value, max_size=4)
    document = edit | st.fixed_dictionaries({"items": st.lists(edit, max_size=3)}) | value
    return document.map(lambda found: json.dumps(found).encode())


@st.composite
def forms(draw: Callable, photo: bytes) -> bytes:
    """Multipart bodies with the boundary ``x``, whose headers and values are any bytes."""
    body = b""
    for _ in range(draw(st.integers(0, 3))):
        name = draw(NAMES.map(str.encode) | st.binary(max_size=20))
        header = b'Content-Disposition: form-data; name="%s"' % name
        if name == b"image" or draw(st.booleans()):
            header += b'; filename="%s"' % draw(st.binary(max_size=20) | st.just(b"a.jpg"))
        header += draw(st.sampled_from([b"", b"\r\nContent-Transfer-Encoding: base64"]) | st.binary(max_size=20))
        value = draw(or_good(st.binary(max_size=60), b"sepia", photo, photo[:2000], b"https://example.org/a.jpg"))
        body += b"--x\r\n" + header + b"\r\n\r\n" + value + b"\r\n"
    return body + draw(or_good(st.binary(max_size=10), b"--x--\r\n"))


@st.composite
def requests(draw: Callable, photo: bytes, known: str, page: str) -> dict[str, Any]:
    """A good request as WSGI passes it on, of which up to three parts are any bytes. ``page``: cookies of a session."""
    form = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nsepia\r\n--x\r\n'
    form += b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + photo + b"\r\n--x--\r\n"
    good = {
        "application/json": json.dumps(GOOD).encode(),
        "multipart/form-data; boundary=x": form,
        "application/x-www-form-urlencoded": b"csrfmiddlewaretoken=" + b"c" * 32 + b"&username=alice&password=wrong",
    }
    json_kind, form_kind, login_kind = good
    any_body = {json_kind: documents(), form_kind: forms(photo), login_kind: st.binary(max_size=60)}
    method, path, kind = draw(
        st.sampled_from(
            [
                *[("POST", EDITS, json_kind), ("POST", EDITS, form_kind), ("POST", BATCHES, json_kind)] * 2,
                *[("GET", place, json_kind) for place in (EDITS, BATCHES, f"{EDITS}/{known}", "/", "/admin/")],
                *[("POST", place, login_kind) for place in ("/login/", f"{EDITS}/{known}/cancel")],
            ]
        )
    )
    body = json.dumps({"items": [GOOD]}).encode() if path == BATCHES else good[kind]
    segment = or_good(st.binary(max_size=20), known.encode(), b"cancel").map(lambda raw: raw.decode("latin-1"))
    beginning = st.sampled_from([path, path, EDITS, BATCHES, "/admin/", "/api/v1/", "/static/", "/", ""])
    names = st.sampled_from([b"cursor", b"limit", b"status", b"next", b"q"])
    pair = st.tuples(names | st.binary(max_size=8), st.binary(max_size=40)).map(b"=".join)
    cursor = st.tuples(ANY_TEXT | st.datetimes(timezones=st.timezones()).map(datetime.isoformat), st.just(known))
    cursor = cursor.map(lambda pair: b"cursor=" + base64.urlsafe_b64encode(" ".join(pair).encode(errors="replace")))
    cookie = st.tuples(
        st.sampled_from(["sessionid", "csrftoken", "messages"]),
        or_good(LATIN, '"aaaaaaaa\\000"', '"aaaaaaaa\\377"'),
    )
    parts = {
        "REQUEST_METHOD": st.sampled_from(["POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS"]) | LATIN.filter(bool),
        "PATH_INFO": st.tuples(beginning, st.lists(segment, max_size=2).map("/".join)).map("/".join),
        "QUERY_STRING": st.lists(pair | cursor, max_size=2).map(lambda pairs: b"&".join(pairs).decode("latin-1")),
        "CONTENT_TYPE": LATIN
        | or_good(LATIN, "charset=base64", "charset=utf-16", "charset*=lost''x").map(lambda more: f"{kind}; {more}"),
        # gunicorn refuses a length that is no number.
        "CONTENT_LENGTH": st.sampled_from([0, len(body) // 2, 2**20, 2**60]).map(str),
        "body": any_body[kind] | st.binary(max_size=60),
        "HTTP_AUTHORIZATION": LATIN | LATIN.map("Bearer ".__add__),
        "HTTP_COOKIE": st.lists(cookie.map("=".join), max_size=3).map("; ".join),
        "HTTP_HOST": LATIN,
        **{f"HTTP_{name}": LATIN for name in ("IDEMPOTENCY_KEY", "X_CSRFTOKEN", "X_REQUEST_ID", "RANGE", "ACCEPT")},
        **{f"HTTP_{name}": LATIN for name in ("IF_MODIFIED_SINCE", "X_FORWARDED_FOR", "X_FORWARDED_PROTO", "REFERER")},
    }
    who = draw(st.sampled_from([{"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}, {"HTTP_COOKIE": page}]))
    request = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_TYPE": kind, "body": body} | who
    request |= {"HTTP_X_CSRFTOKEN": "c" * 32, "HTTP_ACCEPT": draw(st.sampled_from(["*/*", "text/html"]))}
    spoilt = draw(st.sets(st.sampled_from(sorted(parts)), min_size=1, max_size=3))
    request |= {name: draw(parts[name]) for name in sorted(spoilt)}
    return {"CONTENT_LENGTH": str(len(request["body"]))} | request


def test_any_bytes_in_any_part_of_a_request_give_2xx_3xx_or_4xx(
    api: Any, photo: bytes, settings: Any, figure: Callable, plain_static: None
) -> None:
    settings.RATE_PER_MINUTE = settings.QUOTA_PER_DAY = settings.DRY_RUNS_PER_MINUTE = 0
    known = post(api, GOOD).json()["id"]
    page = Client()
    assert page.login(username="alice", password=TOKEN)
    cookies = f"sessionid={page.cookies['sessionid'].value}; csrftoken={'c' * 32}"
    answers: Counter[tuple[str, str, int]] = Counter()

    @fuzzed(max(2000, 100 * EXAMPLES))
    @given(requests(photo, known, cookies))
    def check(request: dict[str, Any]) -> None:
        status = wsgi(request, request["body"])
        answers[request["REQUEST_METHOD"], request["PATH_INFO"], status] += 1
        if status >= 500:
            print(status, request)

    check()
    figure("fuzz_requests", answers.total(), "requests", at_least=2000)
    figure("fuzz_5xx", sum(count for (*_, status), count in answers.items() if status >= 500), "answers", 0)
    accepted = {("POST", EDITS, 202), ("POST", BATCHES, 202), ("GET", EDITS, 200), ("GET", "/", 200)}
    assert accepted <= answers.keys(), "no request got past the checks"


def test_a_wrong_host_and_a_broken_form_at_once_give_400(api: Any) -> None:
    page = Client()
    assert page.login(username="alice", password=TOKEN)
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
    body += b"Content-Transfer-Encoding: base64\r\n\r\nhttps://example.org/a.jpg\r\n--x--\r\n"
    cookies = f"sessionid={page.cookies['sessionid'].value}; csrftoken={'c' * 32}"
    request = {
        "REQUEST_METHOD": "POST", "PATH_INFO": EDITS, "CONTENT_TYPE": "multipart/form-data; boundary=x",
        "CONTENT_LENGTH": str(len(body)), "HTTP_HOST": "a|b", "HTTP_COOKIE": cookies, "HTTP_X_CSRFTOKEN": "c" * 32,
    }  # fmt: skip
    assert wsgi(request, body) == 400
    assert wsgi(request | {"HTTP_ACCEPT": "text/html"}, body) == 400


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """The image with one piece replaced: by random bytes, by nothing, by itself twice, or by the image's beginning."""
    start, length = chance.randrange(len(whole)), chance.choice((1, 4, 64, 4096))
    piece = chance.choice((chance.randbytes(length), b"", whole[start : start + length] * 2, whole[:length]))
    return whole[:start] + piece + whole[start + length :]


def pictures(photo: bytes, count: int) -> Iterator[bytes]:
    """``count`` damaged images of each format."""
    chance = random.Random(FUZZ_SEED)
    image = pyvips.Image.new_from_buffer(photo, "")
    for suffix in (".jpg", ".png", ".webp"):
        whole = image.write_to_buffer(suffix)
        for _ in range(count):
            yield damaged(whole, chance)


def memory(pid: int) -> float:
    """The peak memory of a process, in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def test_workers_survive_damaged_images(api: Any, photo: bytes, files: Any, start: Callable) -> None:
    """Every edit ends with a result or an error code. One pool process survives all of them and stays small."""
    from image_editor.models import Edit

    worker = start("edit")
    (child,) = children(worker.popen.pid)
    prompts = ("sepia", "resize to 50x50", "rotate 30, blur 2", "convert to webp")
    count = EXAMPLES
    for index, picture in enumerate(pictures(photo, count)):
        url = files.serve(f"/{index}", picture)
        post(api, {"image_url": url, "prompt": prompts[index % 4]})
    ended = ("succeeded", "failed")
    wait_for(lambda: Edit.objects.filter(status__in=ended).count() == 3 * count, 20 + count, "all have ended")
    codes = set(Edit.objects.filter(status="failed").values_list("error_code", flat=True))
    assert codes <= {"image_corrupt", "image_truncated", "image_unsupported", "image_too_large", "image_too_small"}
    assert "image_corrupt" in codes
    assert not Edit.objects.filter(attempt__gt=1).exists()
    assert children(worker.popen.pid) == [child]
    assert memory(child) < 250


def test_workers_survive_callback_receivers_that_misbehave(
    api: Any, files: Any, other_files: Any, start: Callable
) -> None:
    """One receiver hangs, one redirects in a circle, one answers 200 MB. The next receiver is still called."""
    from image_editor.models import Callback

    def flood(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(200 * 2**20))
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b"x" * 2**20)

    files.serve("/circle", b"", status=307, Location="/circle")
    files.routes["/flood"] = flood
    other_files.serve_held("/hang", b"")
    files.serve("/good", b"")
    worker = start("callback")
    (child,) = children(worker.popen.pid)
    started = time.monotonic()
    for url in (other_files.url("/hang"), *map(files.url, ("/circle", "/flood", "/good"))):
        edit = post(api, {"image_url": "https://example.org/", "prompt": "sepia", "callback_url": url}).json()
        api.post(edit["status_url"] + "/cancel")
    delivered = Callback.objects.filter(state=Callback.State.DELIVERED)
    wait_for(lambda: delivered.filter(url=files.url("/good")).exists(), 20, "the last one is called")
    assert time.monotonic() - started < 15, "the delay is longer than one time-out"
    callbacks = {callback.url.rpartition("/")[2]: callback for callback in Callback.objects.all()}
    assert callbacks["hang"].state == callbacks["circle"].state == "pending", "a failed callback gets no other try"
    assert "in time" in callbacks["hang"].last_error or "took longer" in callbacks["hang"].last_error
    assert "307" in callbacks["circle"].last_error
    assert callbacks["flood"].state == "delivered"
    assert children(worker.popen.pid) == [child]
    assert memory(child) < 150
