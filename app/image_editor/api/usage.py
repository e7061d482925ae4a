"""Usage: what is left of the limits."""

from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest
from ninja import Router, Status

from image_editor.api import rate_limits
from image_editor.api.schemas import ERRORS, UsageOut
from image_editor.auth import user_of

router = Router(tags=["usage"])


@router.get("", response={200: UsageOut, **ERRORS}, summary="What is left of your limits")
def read_usage(request: HttpRequest) -> Status[dict[str, Any]]:
    """Asking counts as nothing. `limits` has no entry for a limit that is switched off."""
    windows = rate_limits.usage(user_of(request).pk)
    limits = [
        {
            "of": window.rule.counts.replace(" ", "_"),
            "window": window.rule.window,
            "limit": window.limit,
            "used": window.used,
            "remaining": window.remaining,
            "resets_at": datetime.fromtimestamp(window.ends_at, UTC).isoformat(),
        }
        for window in windows or []
    ]
    return Status(200, {"known": windows is not None, "limits": limits})
