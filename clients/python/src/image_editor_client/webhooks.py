"""Verification of deliveries, after Standard Webhooks."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_editor_client.documents import Batch, Edit
from image_editor_client.errors import ClientError


class NotGenuine(ClientError):
    """The platform did not send this, or not now. Answer 401."""


@dataclass(frozen=True, slots=True)
class Event:
    """A verified delivery. ``id`` stays the same if the delivery is repeated. Later versions may send more types."""

    id: str
    type: str
    edit: Edit | None
    batch: Batch | None
    document: dict[str, Any]


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, tolerance: float = 300) -> Event:
    """The event of a delivery. ``tolerance``: seconds that its time may be away. Raises NotGenuine."""
    given = {name.lower(): value for name, value in headers.items()}
    message, sent = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not (sent.isascii() and sent.isdigit() and len(sent) < 13) or abs(time.time() - int(sent)) > tolerance:
        raise NotGenuine("the time of the delivery is missing, or too far away")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message}.{sent}.".encode() + body, "sha256")
    expected = b"v1," + base64.b64encode(digest)
    signatures = given.get("webhook-signature", "").encode().split(b" ")
    if not any(hmac.compare_digest(expected, one) for one in signatures):
        raise NotGenuine("no signature is right")
    document = json.loads(body)
    return Event(
        id=message,
        type=document["type"],
        edit=Edit.read(document["edit"]) if "edit" in document else None,
        batch=Batch.read(document["batch"]) if "batch" in document else None,
        document=document,
    )
