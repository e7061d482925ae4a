"""The lease of a running attempt. The attempt renews it, and stops when the edit is no longer its own."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from django.conf import settings
from django.db import Error, connection

from image_editor.pipeline import transitions

log = logging.getLogger(__name__)

HANGING = 2.0  # seconds; a renewal that takes longer hangs with PostgreSQL, and its thread ends when the renewal does


class Overtaken(BaseException):
    """The edit has ended, or another worker holds it.

    ``except Exception`` does not catch it, as with ``asyncio.CancelledError``.
    """


@contextmanager
def kept(edit_id: str, claim: transitions.Claim) -> Iterator[None]:
    """Renew the lease while the block runs. Raises Overtaken in the block when the lease cannot be renewed.

    A cancelled edit stops in this way. It needs the main thread, where workers run tasks: only a signal ends a read
    that waits.
    """
    over = threading.Event()
    # Then Celery kills this process. A process that has lost Celery must not hold the edit for ever.
    end = time.monotonic() + settings.TASK_TIME_LIMIT

    def beat() -> None:
        while not over.wait(settings.TASK_LEASE / 6) and time.monotonic() < end:
            if not _renewed(edit_id, claim) and not over.is_set():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if not over.is_set():
            raise Overtaken

    before = signal.signal(signal.SIGUSR2, stop)
    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        try:
            yield
        finally:
            over.set()
    finally:
        over.set()  # again, if the signal came just before the first time
        thread.join(HANGING)
        signal.signal(signal.SIGUSR2, before)


def _renewed(edit_id: str, claim: transitions.Claim) -> bool:
    """Renew once, on a connection that is closed again. True also if PostgreSQL does not answer."""
    try:
        return transitions.renew(edit_id, claim)
    except Error as error:
        log.warning("lease not renewed", extra={"task_id": edit_id, "error": repr(error)})
        return True
    finally:
        connection.close()
