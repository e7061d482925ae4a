"""Examples for the OpenAPI document: what the API takes and what it answers."""

import re
from typing import Any

from image_editor.codes import CODES

_EDIT_ID = "5b1f4a0c-6a52-4f0e-9d0c-0f6f5d1c2b3a"
_BATCH_ID = "0c9a3f52-1f64-4a3c-8f0e-7d2b1a9c4e5f"
_DELIVERY_ID = "9e7d6c5b-4a39-4281-8706-f5e4d3c2b1a0"
_UPLOAD_ID = "3d2c1b0a-9f8e-4d7c-8b6a-5f4e3d2c1b0a"
_TOKEN_ID = "7a6b5c4d-3e2f-5a1b-9c8d-7e6f5a4b3c2d"  # noqa: S105  an id, which opens nothing

EDIT: dict[str, Any] = {
    "id": _EDIT_ID,
    "batch_id": None,
    "status": "succeeded",
    "percent": 100,
    "prompt": "greyscale, rotate 90",
    "output": None,
    "image_url": "https://example.org/cat.jpg",
    "metadata": {"reference": "order 42"},
    "accepted_at": "2026-01-31T12:00:00.120000+00:00",
    "started_at": "2026-01-31T12:00:00.180000+00:00",
    "finished_at": "2026-01-31T12:00:00.410000+00:00",
    "attempt": 1,
    "result": {"content_type": "image/jpeg", "width": 600, "height": 800, "bytes": 48213},
    "error": None,
    "status_url": f"/api/v1/edits/{_EDIT_ID}",
    "result_url": f"https://images.example.org/media/results/2026/01/31/{_EDIT_ID}/1.jpg?md5=…&expires=1769864400",
}
ACCEPTED = EDIT | {
    "status": "queued",
    "percent": 0,
    "started_at": None,
    "finished_at": None,
    "attempt": 0,
    "result": None,
    "result_url": None,
}
_SUMMARY = {
    "id": _BATCH_ID,
    "status": "processing",
    "total": 1,
    "finished": 0,
    "accepted_at": EDIT["accepted_at"],
    "finished_at": None,
    "status_url": f"/api/v1/batches/{_BATCH_ID}",
}
_FINISHED = _SUMMARY | {"status": "finished", "finished": 1, "finished_at": EDIT["finished_at"]}
BATCH: dict[str, Any] = _SUMMARY | {"items": [ACCEPTED | {"batch_id": _BATCH_ID}]}
_DELIVERY = {
    "id": _DELIVERY_ID,
    "url": "https://example.org/hook",
    "edit_id": _EDIT_ID,
    "batch_id": None,
    "state": "delivered",
    "created_at": EDIT["finished_at"],
    "delivered_at": "2026-01-31T12:00:00.530000+00:00",
    "next_try_at": None,
    "attempts": [{"at": "2026-01-31T12:00:00.450000+00:00", "milliseconds": 80, "status": 204, "error": ""}],
    "status_url": f"/api/v1/webhooks/deliveries/{_DELIVERY_ID}",
}

_UPLOAD = {
    "id": _UPLOAD_ID,
    "content_type": "image/jpeg",
    "bytes": 81920,
    "accepted_at": EDIT["accepted_at"],
    "expires_at": "2026-03-03T12:00:00.120000+00:00",
    "image_url": f"https://images.example.org/media/uploads/2026-01-31/12-00/shared-{_UPLOAD_ID}.jpg?md5=…&expires=…",
    "upload_url": f"/api/v1/uploads/{_UPLOAD_ID}",
}

_LIMIT = {
    "of": "edits",
    "window": "minute",
    "limit": 600,
    "used": 2,
    "remaining": 598,
    "resets_at": "2026-01-31T12:01:00+00:00",
}

_TOKEN = {
    "id": _TOKEN_ID,
    "name": "shop",
    "scope": "write",
    "manages_tokens": False,
    "state": "active",
    "created_at": EDIT["accepted_at"],
    "expires_at": "2026-05-01T12:00:00.120000+00:00",
    "last_used_at": None,
    "current": False,
}

# By the name of the schema.
DOCUMENTS: dict[str, dict[str, Any]] = {
    "EditOut": EDIT,
    "EditList": {"items": [EDIT], "next": None},
    "BatchOut": BATCH,
    "BatchList": {"items": [_SUMMARY], "next": "/api/v1/batches?limit=1&cursor=MjAyNi0wMS0zMQ%3D%3D"},
    "SecretOut": {
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "created_at": "2026-01-01T08:00:00.000000+00:00",
        "former_expires_at": None,
    },
    "DeliveryOut": _DELIVERY,
    "DeliveryList": {"items": [_DELIVERY], "next": None},
    "EditIn": {"image_url": "https://example.org/cat.jpg", "prompt": "黑白，旋转90度"},
    "BatchIn": {
        "items": [
            {"image_url": "https://example.org/1.jpg", "prompt": "fit 800x800"},
            {"image_url": "https://example.org/2.jpg", "prompt": "fit 800x800, convert to webp"},
        ],
        "callback_url": "https://example.org/hook",
    },
    "DryRunIn": {"prompt": "黑白，旋转90度", "image": {"format": "jpeg", "width": 800, "height": 600}},
    "DryRunOut": {
        "prompt": "greyscale, rotate 90",
        "operations": [{"op": "greyscale"}, {"op": "rotate", "degrees": 90.0}],
        "result": {"format": "jpeg", "width": 600, "height": 800},
        "cost": {"edits": 1, "seconds": 0.1, "seconds_max": 25.0},
    },
    "UploadOut": _UPLOAD,
    "UploadList": {"items": [_UPLOAD], "next": None},
    "UsageOut": {
        "known": True,
        "limits": [
            _LIMIT,
            _LIMIT | {"window": "day", "limit": 50000, "remaining": 49998, "resets_at": "2026-02-01T00:00:00+00:00"},
            _LIMIT | {"of": "dry_runs", "used": 1, "remaining": 599},
        ],
    },
    "TokenIn": {"name": "shop", "manages_tokens": False, "expires_in_seconds": 7776000},
    "TokenRotationIn": {"overlap_seconds": 86400},
    "TokenMade": _TOKEN | {"token": "…"},
    "TokenList": {"items": [_TOKEN]},
    "RotationIn": {"overlap_seconds": 86400},
    "TestEventIn": {"url": "https://example.org/hook"},
}

# What a client's receiver gets, by the type of the event.
EVENTS: dict[str, dict[str, Any]] = {
    "edit.finished": {"type": "edit.finished", "timestamp": EDIT["finished_at"], "edit": EDIT},
    "batch.finished": {"type": "batch.finished", "timestamp": EDIT["finished_at"], "batch": _FINISHED},
    "webhook.test": {"type": "webhook.test", "timestamp": EDIT["finished_at"]},
}

_ERRORS = {
    "invalid": [{"field": "prompt", "message": "Field required"}],
    "items_invalid": [{"index": 1, "code": "prompt_unknown", "message": "not understood: “make it nice”"}],
}


def problem(code: str) -> dict[str, Any]:
    """The problem document of a code that has a status."""
    about = CODES[code]
    document = {
        "type": f"urn:image-editor:problem:{code}",
        "title": about.title,
        "status": about.status,
        "code": code,
        "detail": re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", about.remedy),
    }
    return document | ({"errors": _ERRORS[code]} if code in _ERRORS else {})
