"""The API: refused requests, problem documents, repeated requests, pages, cancelling and limits."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pyvips
import requests
from conftest import TOKEN, make_user
from django.test import Client
from helpers import EDITS, ended, post, problem, rows_read, upload, wsgi
from services import Services

from benchmarks.hostile import chunk

pytestmark = pytest.mark.django_db(transaction=True)


def png(width: int, height: int) -> bytes:
    """A decompression bomb: a PNG of a few bytes whose header claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def encoded(width: int, height: int, suffix: str) -> bytes:
    return pyvips.Image.black(width, height, bands=3).copy(interpretation="srgb").write_to_buffer(suffix)


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN])
def test_a_request_without_a_valid_token_is_refused_with_401(api: Any, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    answer = Client(headers=headers).post(EDITS, {"prompt": "sepia"})
    problem(answer, 401, "token_missing")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_the_token_of_an_inactive_user_is_not_valid(api: Any, user: Any) -> None:
    from image_editor import auth

    assert api.get(EDITS).status_code == 200
    user.is_active = False
    user.save()
    auth.forget()  # otherwise the token is remembered for some seconds
    problem(api.get(EDITS), 401)


def test_a_file_other_than_an_image_is_refused(api: Any, photo: bytes) -> None:
    problem(upload(api, b"GIF89a" + b"\0" * 100), 415, "image_unsupported")
    problem(upload(api, b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "image_unsupported")
    problem(upload(api, b""), 415, "image_unsupported")
    problem(upload(api, b"\xff\xd8\xff"), 422, "image_corrupt")
    problem(upload(api, photo[:20]), 422, "image_corrupt")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_truncated_image_is_refused(api: Any, suffix: str) -> None:
    noise = pyvips.Image.gaussnoise(64, 64).cast("uchar").bandjoin([0, 0]).copy(interpretation="srgb")
    whole = noise.write_to_buffer(suffix)
    for length in (len(whole) // 2, len(whole) - 4):
        problem(upload(api, whole[:length]), 422, "image_truncated")
    assert upload(api, whole).status_code == 202


def test_images_that_are_too_small_or_too_large_are_refused(api: Any) -> None:
    problem(upload(api, encoded(100, 1, ".jpg")), 422, "image_too_small")
    assert "2x2" in problem(upload(api, encoded(1, 100, ".webp")), 422, "image_too_small")["detail"]
    for bomb in (png(10_000, 10_000), png(2**31 - 1, 2**31 - 1), png(65535, 65535)):
        assert "50 megapixels" in problem(upload(api, bomb), 422, "image_too_large")["detail"]
    assert upload(api, encoded(2, 2, ".png")).status_code == 202


def test_an_upload_whose_edit_cannot_end_in_time_is_refused(api: Any) -> None:
    from image_editor.models import Edit

    prompt = "sepia, " + "blur 100, " * 5
    refused = problem(upload(api, encoded(3000, 2000, ".png"), prompt), 422, "too_slow")
    assert "blur 100" in refused["detail"]
    assert not Edit.objects.exists()
    assert upload(api, encoded(60, 40, ".png"), prompt).status_code == 202
    body = {"image_url": "https://example.org/large.png", "prompt": prompt}
    assert post(api, body).status_code == 202, "the size of this image is not known yet"


def test_while_the_media_store_fails_one_upload_tries_it_and_the_others_are_refused_at_once(
    api: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor import storage
    from image_editor.api import validation

    put, down, tried = storage.put, [True], []

    def failing(*arguments: Any) -> None:
        tried.append(arguments)
        if down:
            raise storage.StorageUnavailable("it hangs")
        put(*arguments)

    monkeypatch.setattr(storage, "put", failing)
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(validation, "time", clock)
    for tries in (1, 2):
        for passed, left in ((0, "10"), (4.5, "6"), (5.25, "1")):
            clock.now += passed
            answer = upload(api, photo)
            assert answer["Retry-After"] == left
            problem(answer, 503, "storage_unavailable")
        assert len(tried) == tries
        clock.now += 0.5
    down.clear()
    assert [upload(api, photo).status_code for _ in range(3)] == [202, 202, 202]
    assert len(tried) == 5


def test_a_large_upload_is_refused(api: Any, settings: Any) -> None:
    form = "multipart/form-data; boundary=x"
    # The announced body does not follow: whoever reads it gets an error.
    problem(api.post(EDITS, b"--x", form, CONTENT_LENGTH=str(settings.REQUEST_MAX_BYTES + 1)), 413, "too_large")
    problem(upload(api, b"\xff\xd8\xff" + b"\0" * settings.UPLOAD_MAX_BYTES), 413, "too_large")
    problem(post(api, b'{"prompt": "' + b"a" * 3_000_000 + b'"}'), 413, "too_large")


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("", "prompt_missing"),
        ("  \n ", "prompt_missing"),
        ("make her smile", "prompt_unknown"),
        ("让她微笑", "prompt_unknown"),
        ("x" * 10_000, "prompt_too_long"),
        ("greyscale\x07", "prompt_unknown"),
        ("greyscale\x00", "prompt_unknown"),
        ("\ud800", "prompt_unknown"),
        ("\ufffc", "prompt_unknown"),
        ("blur 5000", "prompt_out_of_range"),
        ("resize to 99999x5", "prompt_out_of_range"),
        (", ".join(["blur"] * 21), "prompt_too_long"),
    ],
)
def test_an_invalid_prompt_is_refused(api: Any, prompt: str, code: str) -> None:
    problem(post(api, {"image_url": "https://example.org/a.jpg", "prompt": prompt}), 422, code)


def test_an_unknown_prompt_is_answered_with_the_vocabulary(api: Any) -> None:
    detail = problem(post(api, {"image_url": "https://example.org/a.jpg", "prompt": "sepia, upside"}), 422)["detail"]
    assert "upside" in detail
    assert "rotate 90" in detail
    assert "黑白" in detail


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://127.1/", "http://2130706433/", "http://0x7f000001/",
        "http://0177.0.0.1/", "http://[::1]/", "http://[::ffff:10.0.0.1]/", "http://169.254.169.254/latest/meta-data",
        "http://10.1.2.3/", "http://192.168.0.1/", "http://0.0.0.0/", "http://224.0.0.1/", "http://[fe80::1]/",
        "http://100.64.0.1/", "http://[64:ff9b::7f00:1]/", "http://app.localhost/", "http://localhost./",
        "ftp://example.org/a.jpg", "file:///etc/passwd", "gopher://example.org/", "media:uploads/2026/x.jpg",
        "http://user:pw@example.org/", "http://example.org@127.0.0.1/", "https://example.org:22/", "http://example.org:6379/",
        "http://127.0.0.1\\@example.org/", "http://exa mple.org/", "//example.org/a", "example.org", "http://", "http:///a",
        "http://[::1", "http://example.org/\n", "http://" + "a" * 3000,
    ],
)  # fmt: skip
def test_urls_of_the_internal_network_are_refused(api: Any, url: str) -> None:
    problem(post(api, {"image_url": url, "prompt": "sepia"}), 422, "image_url_refused")
    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia", "callback_url": url}
    problem(post(api, body), 422, "callback_url_refused")


def test_malformed_bodies_are_refused(api: Any, photo: bytes) -> None:
    problem(post(api, "{"), 400, "not_json")
    problem(post(api, "[" * 100_000), 400, "not_json")
    problem(post(api, b"\xff\xfe"), 400, "not_json")
    problem(post(api, []), 422, "invalid")
    problem(post(api, {"prompt": 5, "image_url": ["x"]}), 422, "invalid")
    assert (
        "extra"
        in problem(post(api, {"prompt": "sepia", "image_url": "https://example.org/", "extra": 1}), 422)["detail"]
    )
    problem(api.post(EDITS, "prompt=sepia", content_type="application/x-www-form-urlencoded"), 415)
    problem(api.post(EDITS, {"prompt": "sepia"}), 422)
    problem(api.post(EDITS, {"prompt": "sepia", "other": io.BytesIO(photo)}), 422)
    problem(api.post(EDITS, {"prompt": "sepia", "image": [io.BytesIO(photo), io.BytesIO(photo)]}), 422)
    problem(upload(api, photo, image_url="https://example.org/a.jpg"), 422)
    problem(api.post(EDITS, b"--x\r\nbroken", content_type="multipart/form-data; boundary=x"), 422)
    problem(api.post(EDITS, b"--x\r\nbroken", content_type="multipart/form-data"), 400)


def test_a_document_with_many_members_or_errors_gets_a_short_answer(api: Any) -> None:
    refused = problem(post(api, {f"member{number}": 0 for number in range(100_000)}), 400, "not_json")
    assert refused["detail"] == "an object of the body has more than 20 members"
    items = [{f"member{number}": 0 for number in range(20)}] * 100
    answer = post(api, {"items": items, "x" * 100_000: 0}, "/api/v1/batches")
    assert len(problem(answer, 422, "invalid")["errors"]) == 100
    assert len(answer.content) < 20_000


def test_a_session_cookie_with_any_character_is_ignored(user: Any) -> None:
    for value in ('"aaaaaaaa\\000"', "\xff" * 8, "a" * 10_000):
        assert wsgi({"HTTP_COOKIE": f"sessionid={value}"}, path=EDITS) == 401


@pytest.mark.parametrize("parameter", ["charset=base64", "charset=utf-16", "charset*=lost''x", "boundary=x; charset=q"])
def test_the_charset_that_a_client_names_is_ignored(user: Any, parameter: str) -> None:
    """Through the real WSGI application: Django's test client makes requests of its own class."""
    body = {"image_url": "https://example.org/a.jpg", "prompt": "黑白"}
    sent = {
        "CONTENT_TYPE": f"application/json; {parameter}",
        "QUERY_STRING": "a=b",
        "HTTP_AUTHORIZATION": f"Bearer {TOKEN}",
    }
    assert wsgi(sent, json.dumps(body, ensure_ascii=False).encode(), "POST", EDITS) == 202
    parts = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nsepia\r\n--x--\r\n'
    sent["CONTENT_TYPE"] = f'multipart/form-data; {parameter}; Boundary="x"'
    assert wsgi(sent, parts, "POST", EDITS) == 422


def test_head_answers_as_get_without_the_body(api: Any) -> None:
    post(api, {"image_url": "https://example.org/a.jpg", "prompt": "sepia"})
    for address, status in (
        (EDITS, 200),
        (f"{EDITS}/{api.get(EDITS).json()['items'][0]['id']}", 200),
        ("/api/v1/no", 404),
    ):
        got, head = api.get(address), api.head(address)
        assert (head.status_code, head.content, head["Content-Length"]) == (status, b"", str(len(got.content)))


def test_every_client_error_is_a_problem_document(api: Any) -> None:
    problem(api.get("/api/v1/nothing"), 404)
    problem(api.get("/nothing"), 404)
    answer = api.delete(EDITS)
    problem(answer, 405)
    assert "POST" in answer["Allow"]
    problem(api.get(f"{EDITS}/not-a-uuid"), 404)
    problem(api.get(f"{EDITS}/00000000-0000-4000-8000-000000000000"), 404, "not_found")
    problem(api.get(EDITS, headers={"Host": "evil.example"}), 400)


def test_an_internal_error_is_a_problem_document_without_details(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.api import edits

    def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(edits, "read", broken)
    answer = api.get(f"{EDITS}/00000000-0000-4000-8000-000000000000")
    assert "secret" not in json.dumps(problem(answer, 500))


def test_a_valid_request_id_is_kept_and_an_invalid_one_is_replaced(api: Any) -> None:
    assert api.get(EDITS, headers={"X-Request-ID": "my-request-1"})["X-Request-ID"] == "my-request-1"
    for bad in ("short", "not a valid id", "valid-but-for-the-end\n", "x" * 65):
        assert len(api.get(EDITS, headers={"X-Request-ID": bad})["X-Request-ID"]) == 32, bad
    assert len(api.get(EDITS)["X-Request-ID"]) == 32


def test_edits_of_other_users_answer_404(api: Any) -> None:
    edit = post(api, {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}).json()
    make_user("mallory", "m" * 43)
    other = Client(headers={"Authorization": f"Bearer {'m' * 43}"})
    problem(other.get(edit["status_url"]), 404)
    problem(other.post(edit["status_url"] + "/cancel"), 404)
    assert other.get(EDITS).json() == {"items": [], "next": None}


def test_the_same_idempotency_key_returns_the_same_edit(api: Any, photo: bytes) -> None:
    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
    first = post(api, body, Idempotency_Key="k1")
    again = post(api, body, Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert again["Idempotency-Replayed"] == "true"
    problem(post(api, body | {"prompt": "blur"}, Idempotency_Key="k1"), 422, "idempotency_key_reused")
    assert post(api, body, Idempotency_Key="k2").json()["id"] != first.json()["id"]
    problem(post(api, body, Idempotency_Key="k" * 256), 422)
    problem(post(api, body | {"prompt": "\ud800"}, Idempotency_Key="k3"), 422, "invalid")

    def picture(data: bytes) -> Any:
        return api.post(EDITS, {"image": io.BytesIO(data), "prompt": "sepia"}, headers={"Idempotency-Key": "p"})

    assert picture(photo).json()["id"] == picture(photo).json()["id"]
    problem(picture(photo + b"\0"), 422, "idempotency_key_reused")
    assert len(api.get(EDITS).json()["items"]) == 3


def test_simultaneous_uploads_with_the_same_idempotency_key_create_one_edit_and_leave_one_file(
    api: Any, photo: bytes, services: Any
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connection

    def submit(_: int) -> str:
        try:
            client = Client(headers={"Authorization": f"Bearer {TOKEN}"})
            fields = {"image": io.BytesIO(photo), "prompt": "sepia"}
            answer = client.post(EDITS, fields, headers={"Idempotency-Key": "race"})
            assert answer.status_code == 202, answer.content
            return answer.json()["id"]
        finally:
            connection.close()

    def stored() -> set[Any]:
        return set((services.dir / "nginx/media/uploads").rglob("*.jpg"))

    before = stored()
    with ThreadPoolExecutor(8) as pool:
        (edit,) = set(pool.map(submit, range(16)))
    assert {path.stem for path in stored() - before} == {edit}
    assert len(api.get(EDITS).json()["items"]) == 1


@pytest.mark.parametrize(("path", "function"), [(EDITS, "accept"), ("/api/v1/batches", "accept_batch")])
def test_an_edit_that_was_removed_between_two_requests_with_one_key_is_accepted_again(
    api: Any, path: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request meets the key of the first, which is gone when it looks for it."""
    from django.db import IntegrityError

    from image_editor.pipeline import transitions

    real, tries = getattr(transitions, function), []

    def accept(*arguments: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise IntegrityError("duplicate key")
        return real(*arguments)

    monkeypatch.setattr(transitions, function, accept)
    item = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
    answer = post(api, item if path == EDITS else {"items": [item]}, path, Idempotency_Key="again")
    assert (answer.status_code, len(tries)) == (202, 2)


def test_a_page_after_15000_edits_reads_as_few_rows_as_the_first_page(
    api: Any, user: Any, services: Services, figure: Callable
) -> None:
    from image_editor.models import Edit

    services.fill(user.pk, 20_000, "20 days", "1 day")
    last = Edit.objects.order_by("-accepted_at", "-pk")[15_000]
    cursor = base64.urlsafe_b64encode(f"{last.accepted_at.isoformat()} {last.pk}".encode()).decode()
    pages = []
    first = rows_read(services, lambda: pages.append(api.get(EDITS, {"limit": 50}).json()))
    deep = rows_read(services, lambda: pages.append(api.get(EDITS, {"limit": 50, "cursor": cursor}).json()))
    assert [len(page["items"]) for page in pages] == [50, 50]
    assert pages[1]["items"][0]["id"] == str(Edit.objects.order_by("-accepted_at", "-pk")[15_001].pk)
    figure("page_rows_read", deep, "rows", first + 1)  # the row of the cursor itself
    assert first <= 51


@pytest.mark.parametrize("rare", ["succeeded", "failed", "cancelled", "queued"])
def test_a_list_of_a_rare_status_reads_no_other_edits(api: Any, user: Any, services: Services, rare: str) -> None:
    from image_editor.models import Edit

    services.fill(user.pk, 20_000, "20 days", "1 day", status="cancelled" if rare == "failed" else "failed")
    oldest = Edit.objects.order_by("accepted_at").first()
    # This connection reports the row that the UPDATE reads before `rows_read` begins to count. psql's connection would
    # report it when its process ends, which may be later.
    result = {"result_name": "cat.jpg", "result_type": "image/jpeg", "result_width": 1, "result_height": 1}
    Edit.objects.filter(pk=oldest.pk).update(status=rare, result_bytes=1, **result)
    pages = []
    read = rows_read(services, lambda: pages.append(api.get(EDITS, {"limit": 50, "status": rare}).json()))
    assert [edit["id"] for edit in pages[0]["items"]] == [str(oldest.pk)]
    assert read == 1


def test_pages_are_complete_and_in_order(api: Any) -> None:
    made = [
        post(api, {"image_url": "https://example.org/a.jpg", "prompt": f"blur {n}"}).json()["id"] for n in range(1, 8)
    ]
    seen, address = [], f"{EDITS}?limit=3&status=queued"
    while address:
        page = api.get(address).json()
        assert len(page["items"]) <= 3
        seen += [item["id"] for item in page["items"]]
        address = page["next"]
    assert seen == made[::-1]
    assert api.get(f"{EDITS}?status=failed").json()["items"] == []
    for bad in ("limit=0", "limit=101", "limit=x", "cursor=zzz", "cursor=YWJj", "status=lost", "statuss=failed"):
        problem(api.get(f"{EDITS}?{bad}"), 422)
    for moment, status in (("2026-01-01T00:00:00+23:59", 200), ("0001-01-01T00:00:00+23:59", 422)):
        cursor = base64.urlsafe_b64encode(f"{moment} {made[0]}".encode()).decode()
        assert api.get(EDITS, {"cursor": cursor}).status_code == status, moment


def test_lists_are_filtered_by_period_and_batch(api: Any) -> None:
    from image_editor.models import Batch, Edit

    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
    batch = post(api, {"items": [body, body]}, "/api/v1/batches").json()
    alone = [post(api, body).json()["id"] for _ in range(2)]

    def found(path: str = EDITS, **filters: str) -> list[str]:
        answer = api.get(path, filters)
        assert answer.status_code == 200, answer.content
        return [item["id"] for item in answer.json()["items"]]

    assert set(found(batch_id=batch["id"])) == {item["id"] for item in batch["items"]}
    assert found(batch_id=batch["id"], status="failed") == []
    assert found(batch_id=alone[0]) == [], "there is no such batch"
    at = [Edit.objects.get(pk=pk).accepted_at.isoformat() for pk in alone]
    assert found(accepted_from=at[0]) == alone[::-1]
    assert found(accepted_from=at[0], accepted_before=at[1]) == alone[:1]
    page = api.get(EDITS, {"accepted_from": at[0], "limit": 1}).json()
    assert [item["id"] for item in api.get(page["next"]).json()["items"]] == alone[:1], "the next page has the filter"
    assert found("/api/v1/batches", accepted_before=at[0]) == [batch["id"]]
    assert found("/api/v1/batches", accepted_from=Batch.objects.get().accepted_at.isoformat()) == [batch["id"]]
    assert found("/api/v1/batches", accepted_from=at[0]) == []
    assert len(found(accepted_from="0001-01-01T00:00:00+23:59")) == 4
    assert found(accepted_from="9999-12-31T23:59:59-23:59") == []
    for bad in ("", "2026-11-27", "2026-11-27T00:00:00", "yesterday", "1700000000", "2026-02-30T00:00:00Z"):
        assert "accepted_from" in problem(api.get(EDITS, {"accepted_from": bad}), 422, "invalid")["detail"]


def test_a_list_of_a_period_reads_no_other_edits(api: Any, user: Any, services: Services) -> None:
    from image_editor.models import Edit

    services.fill(user.pk, 20_000, "20 days", "1 day")
    first, last = Edit.objects.order_by("accepted_at").values_list("accepted_at", flat=True)[10_000:10_020:19]
    pages, period = [], {"accepted_from": first.isoformat(), "accepted_before": last.isoformat(), "limit": 50}
    assert rows_read(services, lambda: pages.append(api.get(EDITS, period).json())) == 19
    assert len(pages[0]["items"]) == 19


def test_the_address_of_a_result_leads_to_a_fresh_url(api: Any, user: Any, settings: Any) -> None:
    waiting = post(api, {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}).json()
    assert "queued" in problem(api.get(waiting["status_url"] + "/result"), 409, "not_succeeded")["detail"]
    address = f"{EDITS}/{ended(user, files=True).pk}/result"
    answer = api.get(address)
    assert (answer.status_code, answer["Cache-Control"]) == (302, "no-store")
    assert requests.get(answer["Location"], timeout=5).content == b"picture"
    settings.MEDIA_URL_TTL = -1
    assert requests.get(api.get(address)["Location"], timeout=5).status_code == 410, "the time of the request counts"
    make_user("mallory", "m" * 43)
    problem(Client(headers={"Authorization": f"Bearer {'m' * 43}"}).get(address), 404, "not_found")
    problem(api.get(f"{EDITS}/00000000-0000-4000-8000-000000000000/result"), 404, "not_found")


def test_an_edit_is_cancelled_once_and_an_ended_edit_cannot_be_cancelled(api: Any) -> None:
    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia", "callback_url": "https://example.org/"}
    edit = post(api, body).json()
    assert api.post(edit["status_url"] + "/cancel").json()["status"] == "cancelled"
    assert api.post(edit["status_url"] + "/cancel").status_code == 200
    assert api.get(edit["status_url"]).json()["status"] == "cancelled"

    from image_editor.models import Callback, Edit

    assert Callback.objects.filter(edit=edit["id"]).count() == 1
    Edit.objects.filter(pk=edit["id"]).update(status="succeeded", result_name="x")
    problem(api.post(edit["status_url"] + "/cancel"), 409, "already_ended")


def test_a_running_edit_can_be_cancelled(api: Any, files: Any, start: Any, photo: bytes) -> None:
    from services import wait_for

    worker = start("edit")
    files.serve_held("/slow.jpg", photo)
    edit = post(api, {"image_url": files.url("/slow.jpg"), "prompt": "sepia"}).json()
    wait_for(lambda: api.get(edit["status_url"]).json()["status"] == "processing", what="processing")
    assert api.post(edit["status_url"] + "/cancel").status_code == 200
    files.release.set()
    wait_for(lambda: "overtaken" in worker.log.read_text(), what="the worker finds its result refused")
    assert api.get(edit["status_url"]).json()["status"] == "cancelled"


def test_requests_above_the_rate_limit_and_the_daily_quota_are_refused(api: Any, settings: Any, services: Any) -> None:
    settings.RATE_PER_MINUTE, settings.QUOTA_PER_DAY = 3, 6
    body = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}
    for _ in range(3):
        assert post(api, body).status_code == 202
    answer = post(api, body)
    problem(answer, 429, "too_many")
    assert 0 < int(answer["Retry-After"]) <= 61
    services.admin(1).delete(*services.admin(1).keys("limit:minute:*"))
    problem(post(api, {"items": [body] * 4}, "/api/v1/batches"), 429)
    services.admin(1).delete(*services.admin(1).keys("limit:minute:*"))
    answer = post(api, {"items": [body] * 2}, "/api/v1/batches")
    assert answer.status_code == 202, "the refused batch was counted as more than one edit"
    services.admin(1).delete(*services.admin(1).keys("limit:minute:*"))
    answer = post(api, body)
    assert "day" in problem(answer, 429)["detail"]
    assert int(answer["Retry-After"]) <= 86401


@pytest.mark.parametrize("path", [EDITS, "/api/v1/batches"])
@pytest.mark.parametrize("signed_in", ["with a token", "on the page"])
def test_beyond_a_limit_no_body_is_read(api: Any, settings: Any, path: str, signed_in: str) -> None:
    settings.RATE_PER_MINUTE = 2
    if signed_in == "on the page":
        api = Client(headers={"X-CSRFToken": "c" * 32}, enforce_csrf_checks=True)
        api.login(username="alice", password=TOKEN)
        api.cookies["csrftoken"] = "c" * 32
    for _ in range(2):
        problem(post(api, "garbage", path), 400, "not_json")
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        # The announced body does not follow: whoever reads it gets an error.
        problem(api.generic("POST", path, b"{", kind, CONTENT_LENGTH="10000"), 429, "too_many")


def test_the_documentation_is_openapi_31_without_external_resources(api: Any, plain_static: None) -> None:
    document = api.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]["/api/v1/edits"]) == {"get", "post"}
    assert "multipart/form-data" in document["paths"]["/api/v1/edits"]["post"]["requestBody"]["content"]
    assert set(document["components"]["securitySchemes"]) == {"TokenAuth", "PageAuth"}
    assert document["paths"]["/api/v1/edits"]["post"]["security"] == [{"TokenAuth": []}, {"PageAuth": []}]
    page = api.get("/api/v1/docs")
    assert page.status_code == 200
    assert b"https://" not in page.content, "the page loads something from another site"
