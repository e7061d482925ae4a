from time import perf_counter
from typing import Any

from django.db.backends.postgresql import base
from django_prometheus.db import errors_total, execute_many_total, execute_total, query_duration_seconds
from django_prometheus.db.backends.postgresql.base import DatabaseWrapper as CountingConnections

from image_editor.postgresql.base import Refusing


def measured(cursor_class: type, *labels: str) -> type:
    """A class of cursors that count and time every statement. Labels are looked up once, not for each statement."""
    executed, executed_many, seconds = (
        metric.labels(*labels) for metric in (execute_total, execute_many_total, query_duration_seconds)
    )

    class Cursor(cursor_class):
        def execute(self, *args: Any, **options: Any) -> Any:
            executed.inc()
            return self._timed(super().execute, *args, **options)

        def executemany(self, query: Any, rows: Any, *args: Any, **options: Any) -> Any:
            executed.inc(len(rows))
            executed_many.inc(len(rows))
            return self._timed(super().executemany, query, rows, *args, **options)

        def _timed(self, call: Any, *args: Any, **options: Any) -> Any:
            began = perf_counter()
            try:
                return call(*args, **options)
            except Exception as error:
                errors_total.labels(*labels, type(error).__name__).inc()
                raise
            finally:
                seconds.observe(perf_counter() - began)

    return Cursor


class DatabaseWrapper(Refusing, CountingConnections):
    def get_connection_params(self) -> dict[str, Any]:
        params = base.DatabaseWrapper.get_connection_params(self)
        params["cursor_factory"] = measured(params["cursor_factory"], self.alias, self.vendor)
        return params
