"""The id of the current request. Messages carry it, so that the worker's log lines have it too."""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
