"""Celery beat on any number of hosts: only the holder of the lease sends the periodic jobs.

The lease is a row of PostgreSQL, and each renewal is a guarded commit. docs/architecture.md says why.
"""

import atexit
import logging
import time
from typing import Any

from celery.beat import ScheduleEntry, Scheduler, SchedulingError
from django.db import Error, connection

from image_editor.models import SchedulerLease
from image_editor.pipeline import holder
from image_editor.shortcuts.database import prepared, repeat_if_connection_lost

log = logging.getLogger(__name__)

# Seconds. Another scheduler takes over within the sum of both.
LEASE, RENEW = 15, 5

# If two schedulers want a lease that has ended, the second one waits for the commit of the first, and changes nothing.
_TAKE = """
INSERT INTO scheduler_lease (id, holder, expires_at)
VALUES (1, %(me)s, now() + make_interval(secs => %(lease)s))
    ON CONFLICT (id) DO UPDATE SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at
 WHERE scheduler_lease.holder IN (%(me)s, %(gone)s) OR scheduler_lease.expires_at < now()
RETURNING id
"""
_RELEASE = "UPDATE scheduler_lease SET expires_at = now() WHERE holder = %(me)s"


class Lease:
    """The right to send the periodic jobs. Its end in the row is PostgreSQL's time."""

    def __init__(self) -> None:
        # Monotonic times.
        self.ends_at = 0.0
        self.rests_until = 0.0

    def held(self) -> bool:
        """Whether no other scheduler can have taken the lease yet."""
        return time.monotonic() < self.ends_at

    def renew(self) -> bool:
        """Take or renew the lease. False if another scheduler holds it, or if PostgreSQL does not answer."""
        began = time.monotonic()
        if began < self.rests_until:
            return False
        try:
            mine = _take()
        except Error as error:
            connection.close()
            log.warning("scheduler lease not renewed", extra={"error": repr(error)})
            mine = False
        if mine != bool(self.ends_at):
            log.info("scheduler lease taken" if mine else "scheduler lease lost")
        self.ends_at = began + LEASE if mine else 0.0
        return mine

    def release(self) -> None:
        """Let another scheduler take over now. This one rests until each of them has looked."""
        self.ends_at, self.rests_until = 0.0, time.monotonic() + RENEW
        connection.close()  # the process may end in the middle of a statement
        try:
            prepared(_RELEASE, {"me": holder.me()})
        except Error as error:
            log.warning("scheduler lease not released", extra={"error": repr(error)})


@repeat_if_connection_lost
def _take() -> bool:
    values = {"me": holder.me(), "gone": "", "lease": LEASE}
    if prepared(_TAKE, values).fetchone():
        return True
    name = SchedulerLease.objects.values_list("holder", flat=True).first()
    # A scheduler of this host that was killed sends nothing any more, so its successor need not wait.
    return bool(name and holder.gone(name) and prepared(_TAKE, values | {"gone": name}).fetchone())


class LeasedScheduler(Scheduler):
    """Sends jobs while this process holds the lease.

    It keeps the schedule in memory. Every job repeats within a minute, so a new holder sends all of them at once.
    """

    max_interval = RENEW

    def setup_schedule(self) -> None:
        super().setup_schedule()
        self.lease = Lease()
        # Not in close(): Celery calls that in a signal handler, too, where the connection may be in use.
        atexit.register(self.lease.release)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Renew the lease, then send a job if one is due. Returns the seconds until the next call."""
        return super().tick(*args, **kwargs) if self.lease.renew() else self.max_interval

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        # The process may have waited for the broker, or may have been frozen, since it renewed the lease.
        if self.lease.held():
            super().apply_entry(entry, producer)

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        try:
            return super().apply_async(entry, producer, advance, **kwargs)
        except SchedulingError:
            self.lease.release()  # another host may reach the broker
            raise
