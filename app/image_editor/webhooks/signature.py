"""The signatures of a callback, after Standard Webhooks 1.0 (https://www.standardwebhooks.com/), and the former one.

``webhook-signature`` holds ``v1,<base64>`` for each valid secret of the user, separated by spaces: HMAC-SHA256 over
``<webhook-id>.<webhook-timestamp>.<body>``.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence

from django.conf import settings


def headers(message_id: str, body: bytes, at: int, secrets: Sequence[bytes]) -> dict[str, str]:
    """The headers of a body that is sent at this unix time (seconds). ``message_id`` must not contain a full stop."""
    signed = f"{message_id}.{at}.".encode() + body
    digests = (hmac.digest(secret, signed, "sha256") for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }


def former(message_id: str, body: bytes, at: int) -> dict[str, str]:
    """The headers of earlier releases. Deprecated: all users share their key. The next release removes them.

    ``X-Signature: t=<unix time>,v1=<hex>`` is HMAC-SHA256 over ``<unix time>.<body>``.
    """
    digest = hmac.new(settings.CALLBACK_SIGNING_KEY.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Callback-ID": message_id, "X-Signature": f"t={at},v1={digest}"}
