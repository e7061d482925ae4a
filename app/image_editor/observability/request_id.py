"""The id of the request being served, followed from the API into the worker's log lines."""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
