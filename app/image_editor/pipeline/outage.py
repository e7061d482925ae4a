"""Workers wait while PostgreSQL is away: what they have done is kept, and no message is lost."""

import logging
import time
from collections.abc import Callable

from celery.exceptions import Reject, SoftTimeLimitExceeded
from django.db import Error, connection

from image_editor.postgresql import away

log = logging.getLogger(__name__)

AGAIN = 1.0  # seconds between two tries


def outlasted[T](call: Callable[[], T]) -> T:
    """The result of the call, which is repeated while PostgreSQL is away.

    At the soft time limit of the task, the message goes back to its queue: any worker may take it again. Raises Reject.
    """
    try:
        while True:
            try:
                return call()
            except Error as error:
                if not away(error):
                    raise
                log.warning("waiting for PostgreSQL", extra={"error": repr(error)})
            connection.close()
            time.sleep(AGAIN)
    except SoftTimeLimitExceeded:
        connection.close()  # a statement may still run on it
        log.warning("PostgreSQL is away for too long: the message goes back to its queue")
        raise Reject("PostgreSQL is away", requeue=True) from None
