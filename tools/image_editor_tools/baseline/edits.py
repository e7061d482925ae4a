"""What became of the edits of a time window, from the table of edits. As root, on the database's host.

All times are from the database's clock, because the times in the table are.
"""

from __future__ import annotations

import time
from typing import Any

from image_editor_tools.baseline.metrics import PERCENTILES
from image_editor_tools.database import session, value

UNFINISHED = "status IN ('accepted', 'queued', 'processing')"
WINDOW = "accepted_at >= %s::timestamptz AND accepted_at < %s::timestamptz"
CLOCK = """SELECT json_build_object('now', now(), 'name', to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'))"""
LEFT = f"SELECT count(*) FROM edit WHERE {WINDOW} AND {UNFINISHED}"


def clock(database: str) -> dict[str, str]:
    """The database's time, and the name of a record that is begun now. Names sort by time."""
    with session(_conninfo(database), autocommit=True) as connection:
        return value(connection, CLOCK)


def edits(database: str, since: str, settle: int) -> dict[str, Any]:
    """Count the edits that were accepted since a time and until now. Waits up to ``settle`` seconds until they have ended."""
    with session(_conninfo(database), autocommit=True) as connection:
        until = value(connection, "SELECT now()::text")
        deadline = time.monotonic() + settle
        while value(connection, LEFT, since, until) and time.monotonic() < deadline:
            time.sleep(1)
        return value(connection, count_query(), since, until)


def count_query() -> str:
    """The query that counts the edits of a window and measures those that succeeded."""
    succeeded = "FILTER (WHERE status = 'succeeded')"
    counts = {status: f"count(*) FILTER (WHERE status = '{status}')" for status in ("succeeded", "failed", "cancelled")}
    columns = {"accepted": "count(*)", **counts, "unfinished": f"count(*) FILTER (WHERE {UNFINISHED})"}
    for key, column in (("task", "task"), ("edit", "whole")):
        for q in PERCENTILES:
            columns[f"{key}_seconds_p{q}"] = f"percentile_cont({q / 100}) WITHIN GROUP (ORDER BY {column}) {succeeded}"
    columns["task_seconds_mean"] = f"avg(task) {succeeded}"
    fields = ", ".join(f"'{name}', {expression}" for name, expression in columns.items())
    return (
        "WITH measured AS (SELECT status, extract(epoch FROM finished_at - started_at) AS task,"
        f" extract(epoch FROM finished_at - accepted_at) AS whole FROM edit WHERE {WINDOW})"
        f" SELECT json_build_object({fields}) FROM measured"
    )


def _conninfo(database: str) -> str:
    return f"dbname={database} user=postgres"
