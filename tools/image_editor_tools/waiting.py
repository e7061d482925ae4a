"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from image_editor_tools.errors import Failure, Refusal


def wait_for[T](
    condition: Callable[[], T],
    otherwise: str,
    seconds: float,
    *,
    every: float = 0.2,
    retry: tuple[type[Exception], ...] = (OSError,),
    error: type[Failure] = Refusal,
) -> T:
    """Return the first true value of ``condition``, asked every ``every`` seconds.

    An exception of ``retry`` counts as "not yet". Raises ``error(otherwise)`` after ``seconds``, with the last exception's text.
    """
    deadline = time.monotonic() + seconds
    reason = ""
    while True:
        try:
            if value := condition():
                return value
            reason = ""
        except retry as exception:
            reason = f" ({exception})"
        if time.monotonic() > deadline:
            raise error(otherwise + reason)
        time.sleep(every)
