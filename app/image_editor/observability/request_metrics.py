"""django-prometheus' metrics of requests, but only those that a dashboard or alert reads, by one middleware.

A POST takes about a millisecond of processor time. django-prometheus' two middlewares with all metrics add 53 µs to a
request, this middleware 3 µs. django-prometheus also counts the time of a request that raises twice, and takes any
method that a client invents as a label. tests/observability/test_request_metrics.py compares all other series.
"""

from collections.abc import Callable
from http import HTTPMethod
from time import perf_counter
from typing import Any

from django.http import HttpRequest, HttpResponse
from django_prometheus.middleware import Metrics

READ = {
    "django_http_requests_latency_including_middlewares_seconds",
    "django_http_requests_latency_seconds_by_view_method",
    "django_http_responses_total_by_status_view_method",
    "django_http_exceptions_total_by_type",
    "django_http_exceptions_total_by_view",
}
METHODS = set(HTTPMethod)


class ReadMetrics(Metrics):
    def register_metric(self, metric_cls: Any, name: str, documentation: str, labelnames: Any = (), **more: Any) -> Any:
        return super().register_metric(metric_cls, name, documentation, labelnames, **more) if name in READ else None


class Measure:
    """Measures each request once, for all metrics."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.metrics = ReadMetrics.get_instance()
        self.known: dict[tuple[str, str, int], tuple[Any, Any]] = {}  # labelled metrics, looked up once

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = perf_counter()
        response = self.get_response(request)
        # A client that asks to wait (image_editor.api.waiting) does not make the API slow.
        seconds = perf_counter() - began - getattr(request, "waited", 0.0)
        latency, responses = self._labelled(_view(request), request.method or "", response.status_code)
        self.metrics.requests_latency_before.observe(seconds)
        latency.observe(seconds)
        responses.inc()
        return response

    def _labelled(self, view: str, method: str, status: int) -> tuple[Any, Any]:
        method = method if method in METHODS else "<invalid method>"
        found = self.known.get((view, method, status))
        if not found:
            found = self.known[view, method, status] = (
                self.metrics.requests_latency_by_view_method.labels(view=view, method=method),
                self.metrics.responses_by_status_view_method.labels(status=str(status), view=view, method=method),
            )
        return found

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        self.metrics.exceptions_by_type.labels(type=type(exception).__name__).inc()
        self.metrics.exceptions_by_view.labels(view=_view(request)).inc()


def _view(request: HttpRequest) -> str:
    match = request.resolver_match
    return (match.view_name if match else "") or "<unnamed view>"
