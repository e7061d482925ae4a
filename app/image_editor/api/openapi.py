"""What ninja cannot know about the OpenAPI document: error codes, headers, callbacks, examples, and forms."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from image_editor.api import examples
from image_editor.api.idempotency import KEY
from image_editor.api.problems import CONTENT_TYPE
from image_editor.api.schemas import BatchForm, BatchIn, EditForm
from image_editor.codes import CODES

Json = dict[str, Any]
PREFIX = "image_editor_views_"  # of operation ids

# Codes that every request can get, from the application or from the edge.
EVERY = (
    *("bad_request", "token_missing", "rate_limited", "internal_server_error"),
    *("bad_gateway", "service_unavailable", "unavailable", "timeout"),
)
EVERY_POST = ("csrf_failed", "scope_read", "too_large")
BODY = ("not_json", "unsupported_media_type", "invalid")
PROMPT = (
    *("prompt_missing", "prompt_too_long", "prompt_unknown", "prompt_out_of_range"),
    *("operation_invalid", "format_unavailable"),
)
IMAGE = ("image_unsupported", "image_corrupt", "image_truncated", "image_too_small", "image_too_large")
SOURCE = ("image_url_refused", "upload_unknown")
SUBMIT = (*BODY, "idempotency_key_reused", "callback_url_refused", "too_many")

# The codes of each operation, beside those that every request can get. A test compares them with what tests see.
CODES_OF: dict[str, tuple[str, ...]] = {
    "create_edit": (*SUBMIT, *SOURCE, *PROMPT, *IMAGE, "too_slow", "message_too_large", "storage_unavailable"),
    "dry_run": (*BODY, *PROMPT, "image_too_large", "too_slow", "too_many"),
    "list_edits": ("invalid",),
    "read_edit": ("not_found",),
    "watch_edit": ("not_found",),
    "read_result": ("not_found", "not_succeeded"),
    "cancel_edit": ("not_found", "already_ended"),
    "delete_edit": ("not_found",),
    "create_batch": (*SUBMIT, "items_invalid", "upload_unknown", "storage_unavailable"),
    "list_batches": ("invalid",),
    "read_batch": ("not_found",),
    "watch_batch": ("not_found",),
    "cancel_batch": ("not_found",),
    "delete_batch": ("not_found",),
    "create_upload": ("unsupported_media_type", "invalid", *IMAGE, "too_many", "storage_unavailable"),
    "list_uploads": ("invalid",),
    "read_upload": ("not_found",),
    "delete_upload": ("not_found",),
    "read_secret": ("scope_read",),
    "rotate_secret": (*BODY, "rotation_under_way"),
    "send_test_event": (*BODY, "url_refused", "too_many"),
    "list_deliveries": ("invalid",),
    "read_delivery": ("not_found",),
    "redeliver": ("not_found", "delivery_pending", "too_many"),
    "read_usage": (),
    "list_tokens": (),
    "make_token": (*BODY, "manages_no_tokens", "expires_too_late", "too_many_tokens", "too_many"),
    "rotate_token": (*BODY, "not_found", "expires_too_late", "already_replaced", "too_many_tokens", "too_many"),
    "revoke_token": ("not_found",),
}

# What the headers of answers say, in components.headers.
HEADERS_SAY = {
    "X-Request-ID": "names the request in the operator's logs",
    "X-Release": "the release that answered",
    "Retry-After": "seconds to wait",
    "RateLimit": "for each limit, what is left (`r`) and the seconds until its window ends (`t`)",
    "RateLimit-Policy": "for each limit, what it allows (`q`) in a window of so many seconds (`w`)",
    "Idempotency-Replayed": "`true` if an earlier request with this key was accepted",
}
LIMITS = ("RateLimit", "RateLimit-Policy")

STREAMS = ("watch_edit", "watch_batch")  # operations that answer with server-sent events

# The subject of each event that a client's receiver gets, with its schema.
EVENTS: dict[str, dict[str, str]] = {
    "edit.finished": {"edit": "EditOut"},
    "batch.finished": {"batch": "BatchSummary"},  # 100 items would make the event large
    "webhook.test": {},
}
# The events that an operation leads to, and the field that says where they are sent.
CALLBACKS = {
    "create_edit": ("edit.finished", "{$request.body#/callback_url}"),
    "create_batch": ("batch.finished", "{$request.body#/callback_url}"),
    "send_test_event": ("webhook.test", "{$request.body#/url}"),
}


def complete(document: Json) -> Json:
    """The OpenAPI document of ninja, completed in place."""
    _add_bodies(document)
    for schema in document["components"]["schemas"].values():
        for field in schema.get("properties", {}).values():
            # An empty default means that the field is left out. It may break the field's own rules.
            if field.get("default") in ("", []):
                del field["default"]
    for path in document["paths"].values():
        for method, operation in path.items():
            name = operation["operationId"].removeprefix(PREFIX)
            operation["responses"] = _successes(name, operation) | _errors(name, method, operation)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _add_example(content)
            if name in CALLBACKS:
                event, expression = CALLBACKS[name]
                operation["callbacks"] = {event: {expression: {"post": _delivery(event)}}}
    document["webhooks"] = {event: {"post": _delivery(event)} for event in EVENTS}
    answered = sorted(code for code, about in CODES.items() if about.status)
    document["components"]["examples"] = {
        code: {"summary": CODES[code].title, "value": examples.problem(code)} for code in answered
    }
    document["components"]["headers"] = {
        name: {"description": what, "schema": {"type": "string"}} for name, what in HEADERS_SAY.items()
    }
    document["components"]["responses"] = _share_responses(document)
    return document


def _share_responses(document: Json) -> Json:
    """Refer to responses that several operations have. Returns these, named after the first of them and the status."""
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    uses = Counter(json.dumps(response) for operation in operations for response in operation["responses"].values())
    names: dict[str, str] = {}
    shared: Json = {}
    for operation in operations:
        for status, response in operation["responses"].items():
            if uses[text := json.dumps(response)] > 1:
                name = names.setdefault(text, f"{operation['operationId'].removeprefix(PREFIX)}_{status}")
                shared[name] = response
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    return shared


def _add_bodies(document: Json) -> None:
    """Add the schemas of the bodies that image_editor.api.bodies reads."""
    schema = BatchIn.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= schema.pop("$defs") | {"BatchIn": schema}


def codes_of(name: str, method: str, statuses: Iterable[int]) -> list[str]:
    """The codes that an operation can answer. Without an entry in CODES_OF: all codes of its statuses."""
    if name not in CODES_OF:
        wanted = set(statuses)
        return [code for code, about in CODES.items() if about.status in wanted]
    return [*CODES_OF[name], *EVERY, *(() if method == "get" else EVERY_POST)]


def _successes(name: str, operation: Json) -> Json:
    """The responses below 400, with headers and examples."""
    found = {int(status): response for status, response in operation["responses"].items() if int(status) < 400}
    keyed = any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
    more = (("Idempotency-Replayed",) if keyed else ()) + (LIMITS if "too_many" in CODES_OF.get(name, ()) else ())
    if name in STREAMS:
        found[200]["content"] = {"text/event-stream": {}}
    for status, response in found.items():
        response["headers"] = _headers(*more) | response.get("headers", {})
        for content in response.get("content", {}).values():
            _add_example(content)
            if status == 202 and content.get("example") == examples.EDIT:
                content["example"] = examples.ACCEPTED
    return found


def _errors(name: str, method: str, operation: Json) -> Json:
    """The responses from 400: for each status, its codes as an enumeration, and an example of each code."""
    declared = [int(status) for status in operation["responses"] if int(status) >= 400]
    codes = codes_of(name, method, declared)
    return {
        status: _error(sorted(code for code in codes if CODES[code].status == status), status)
        for status in sorted({CODES[code].status or 0 for code in codes})
    }


def _error(codes: list[str], status: int) -> Json:
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {
        "description": "; ".join(f"`{code}`: {CODES[code].title}" for code in codes),
        "headers": _headers(*(["Retry-After"] if status in (429, 502, 503, 504) else [])),
        "content": {
            CONTENT_TYPE: {
                "schema": {"allOf": [{"$ref": "#/components/schemas/ProblemOut"}, narrowed]},
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
    }


def _headers(*more: str) -> Json:
    """The headers of an answer: those that each has, and more."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", "X-Release", *more)}


def _add_example(content: Json) -> None:
    """Add the example of its schema to a body."""
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    if name in examples.DOCUMENTS:
        content["example"] = examples.DOCUMENTS[name]


def _delivery(event: str) -> Json:
    """The request that a client's receiver gets."""
    properties: Json = {"type": {"const": event}, "timestamp": {"type": "string", "format": "date-time"}}
    properties |= {key: {"$ref": f"#/components/schemas/{schema}"} for key, schema in EVENTS[event].items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    headers = {
        "webhook-id": "stays the same if the delivery is repeated",
        "webhook-timestamp": "unix time of this try, in seconds",
        "webhook-signature": "`v1,<base64>` for each valid secret, separated by spaces",
    }
    return {
        "summary": f"Sent to your receiver: {event}",
        "description": "Signed as [Standard Webhooks](https://www.standardwebhooks.com/) describes. Verify it first.",
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": what, "schema": {"type": "string"}}
            for name, what in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": examples.EVENTS[event]}},
        },
        "responses": {
            "2XX": {"description": "The delivery has ended."},
            "default": {"description": "The delivery is tried again: 8 tries in about 23 hours."},
        },
    }


def _form(fields: type[EditForm | BatchForm] | None = None, image: str = "JPEG, PNG or WebP") -> Json:
    """The schema of a form: its fields, and the file instead of the URL."""
    form = fields.model_json_schema() if fields else {"type": "object", "properties": {}, "additionalProperties": False}
    form.pop("$defs", None)
    form["properties"].pop("image_url", None)
    form["properties"]["image"] = {"type": "string", "format": "binary", "description": image}
    for name in form["properties"].keys() & {"operations", "output"}:
        form["properties"][name] = {"type": "string", "format": name, "description": f"JSON, as `{name}` of EditIn"}
    form["required"] = ["image", *form.get("required", [])]
    return form


# For `openapi_extra` of the operations that accept edits.
IDEMPOTENCY_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": f"^{KEY}$"},
        }
    ]
}
EDIT_BODY: dict[str, Any] = IDEMPOTENCY_KEY | {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/EditIn"}},
            "multipart/form-data": {"schema": _form(EditForm)},
        },
    }
}
BATCH_BODY: dict[str, Any] = IDEMPOTENCY_KEY | {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/BatchIn"}},
            "multipart/form-data": {"schema": _form(BatchForm, "1 to 100 of them: repeat the field")},
        },
    }
}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _form()}}}
}
