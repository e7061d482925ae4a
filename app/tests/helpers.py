"""Helpers of several tests: requests to the API, the check of a problem document."""

import io
import json
import logging
import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

from django.db import connection
from django.test import Client
from django.urls import Resolver404
from django.utils import timezone
from services import Services

from image_editor.codes import CODES

EDITS = "/api/v1/edits"
DAY = timedelta(days=1)


def rows_read(services: Services, call: Callable[[], object], table: str = "edit") -> int:
    """How many rows of a table a call in this thread reads, by PostgreSQL's own count."""
    counted = f"SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = '{table}'"

    def count() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")
        return services.psql(counted, database="app")[0][0]

    before = count()
    call()
    return count() - before


def ended(user: Any, age: timedelta = 31 * DAY, files: bool = False, **values: Any) -> Any:
    """An edit that was accepted, and ended, so long ago. With ``files``, it has an upload and two results."""
    from image_editor import storage
    from image_editor.models import Edit
    from image_editor.storage import names

    edit_id, at = uuid.uuid4(), timezone.now() - age
    row = {"user": user, "prompt": "sepia", "accepted_at": at, "finished_at": at, "image_url": "https://example.org/a"}
    row |= {"status": "cancelled"}
    if files:
        upload, folder = names.upload(edit_id, at, "jpg"), names.results(edit_id, at)
        for name in (upload, f"{folder}1.jpg", f"{folder}2.png"):
            storage.put(name, b"picture", "image/jpeg")
        row |= {"status": "succeeded", "image_url": f"media:{upload}", "result_name": f"{folder}2.png", "attempt": 2}
        row |= {"result_type": "image/png", "result_width": 1, "result_height": 1, "result_bytes": 7}
    return Edit.objects.create(pk=edit_id, **(row | values))


def media(services: Services) -> Path:
    return services.dir / "nginx/media"


def left(services: Services, edit: Any) -> list[str]:
    """Files and folders of an edit."""
    return [path.name for path in media(services).rglob(f"{edit.pk}*")]


def problem(answer: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """Return the problem document of an answer. Asserts that the document is complete."""
    assert answer.status_code == status, (answer.status_code, answer.content[:500])
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["X-Request-ID"]
    document = answer.json()
    assert document["status"] == status
    about = CODES[document["code"]]
    assert document["type"] == f"urn:image-editor:problem:{document['code']}"
    assert (about.status, about.title) == (status, document["title"])
    described(answer, document["code"])
    assert len(document["detail"]) > 10, "the detail does not say what to change"
    if seconds := answer.get("Retry-After"):
        assert re.search(rf"\b{seconds}\b", document["detail"]), "the detail does not say when to try again"
    else:
        assert status not in (429, 503), "the answer does not say when to try again"
    if code:
        assert document["code"] == code
    return document


def described(answer: Any, code: str) -> None:
    """Assert that the OpenAPI document has the code at the operation that answered, if an operation did."""
    from image_editor.api.v1 import api

    try:
        route = answer.resolver_match.route
    except Resolver404:
        return
    path = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)
    document = api.get_openapi_schema()
    if operation := document["paths"].get(path, {}).get(answer.request["REQUEST_METHOD"].lower()):
        response = followed(document, operation["responses"][answer.status_code])
        content = response["content"]["application/problem+json"]
        assert code in content["schema"]["allOf"][1]["properties"]["code"]["enum"], f"{path} does not describe {code}"


def followed(document: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """A response of an operation of the OpenAPI document, which may refer to one that several operations have."""
    name = response.get("$ref", "").rpartition("/")[2]
    return document["components"]["responses"][name] if name else response


def upload(api: Client, data: bytes, prompt: str = "sepia", **fields: str) -> Any:
    return api.post(EDITS, {"image": io.BytesIO(data), "prompt": prompt, **fields})


def post(api: Client, body: Any, path: str = EDITS, **headers: str) -> Any:
    body = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return api.post(
        path, body, content_type="application/json", headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def wsgi(environ: dict[str, Any], body: bytes = b"", method: str = "GET", path: str = "/") -> int:
    """Call the WSGI application as gunicorn does; return the status. gunicorn answers 500 if it raises."""
    from backend.wsgi import application

    statuses: list[str] = []
    default = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body)), "HTTP_HOST": "testserver"}
    environ = default | environ | {"wsgi.input": io.BytesIO(body)}
    setup_testing_defaults(environ)
    try:
        answer = application(environ, lambda status, headers: statuses.append(status))
    except Exception:
        logging.exception("the application raised")
        return 500
    b"".join(answer)
    answer.close()
    return int(statuses[0].split()[0])
