"""The signature of a callback.

A client verifies ``X-Signature: t=<unix time>,v1=<hex>``: HMAC-SHA256 over ``<unix time>.<body>``, with the key that
it was given.
"""

import hashlib
import hmac

from django.conf import settings


def signature(body: bytes, at: int) -> str:
    """The value of X-Signature for a body that is sent at this unix time (seconds)."""
    text = str(at).encode() + b"." + body
    digest = hmac.new(settings.CALLBACK_SIGNING_KEY.encode(), text, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
