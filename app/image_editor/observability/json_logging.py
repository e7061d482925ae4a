"""Log lines as JSON objects, so that journald and any log store can search by field."""

import json
import logging
from datetime import UTC, datetime

from image_editor.observability.request_id import request_id

# The attributes of every LogRecord. Any other attribute was passed as `extra=`, and becomes a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "request", "server_time"}


class JSONFormatter(logging.Formatter):
    """Renders time (UTC, ISO 8601), level, logger, message, request id, extra fields and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if rid := request_id.get():
            line["request_id"] = rid
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)
