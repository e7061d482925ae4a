"""Our middleware and django-prometheus' own measure the same requests, and their series are compared one by one."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views import View
from django_prometheus.middleware import Metrics, PrometheusAfterMiddleware, PrometheusBeforeMiddleware
from prometheus_client import CollectorRegistry

from backend.urls import urlpatterns as platform
from image_editor.observability import request_metrics

pytestmark = pytest.mark.django_db(transaction=True)

OURS, LIBRARY = CollectorRegistry(), CollectorRegistry()


class Kept(Metrics):
    """All metrics of the library, in a registry of their own."""

    def register_metric(self, metric_cls: Any, name: str, documentation: str, labelnames: Any = (), **more: Any) -> Any:
        return super().register_metric(metric_cls, name, documentation, labelnames, registry=LIBRARY, **more)


class KeptByUs(request_metrics.ReadMetrics):
    def register_metric(self, metric_cls: Any, name: str, documentation: str, labelnames: Any = (), **more: Any) -> Any:
        return super().register_metric(metric_cls, name, documentation, labelnames, registry=OURS, **more)


class Before(PrometheusBeforeMiddleware):
    metrics_cls = Kept


class After(PrometheusAfterMiddleware):
    metrics_cls = Kept


def raising(error: Exception) -> Callable[[HttpRequest], HttpResponse]:
    def view(request: HttpRequest) -> HttpResponse:
        raise error

    return view


class OnlyGet(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("fine")


ERRORS = (ValueError("broken"), KeyError("broken"), Http404(), PermissionDenied(), SuspiciousOperation("odd"))
urlpatterns = [
    *platform,
    path("stream", lambda request: StreamingHttpResponse(iter(["a", "b"])), name="stream"),
    path("unnamed", OnlyGet.as_view()),
    *(path(type(error).__name__, raising(error), name=type(error).__name__) for error in ERRORS),
]
PATHS = ["/", "/login/", "/admin/", "/api/v1/edits", "/api/v1/docs", "/nowhere", "/stream", "/unnamed"]
FAILING = [type(error).__name__ for error in ERRORS]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
ODD_METHODS = ["PURGE", "QUERY", "A-B"]


def series(registry: CollectorRegistry) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each series that we keep. Sums of seconds are left out."""
    for family in registry.collect():
        if family.name in request_metrics.READ:
            for sample in family.samples:
                if not sample.name.endswith(("_sum", "_created")):
                    yield sample.name, sample.labels, sample.value


def by_name(found: Iterable[tuple[str, dict[str, str], float]]) -> Counter[str]:
    """Values by name and labels. Values under the same name are added."""
    values: Counter[str] = Counter()
    for name, labels, value in found:
        values[name + str(sorted(labels.items()))] += value
    return values


def corrected(found: Iterable[tuple[str, dict[str, str], float]]) -> Iterator[tuple[str, dict[str, str], float]]:
    """The library's series without its two faults, both in one histogram.

    It observes the latency twice if a view raises. It takes any method as a label, so a stranger can create series
    without end.
    """
    for name, labels, value in found:
        if name.startswith("django_http_requests_latency_seconds_by_view_method"):
            if labels["method"] in ODD_METHODS:
                labels = labels | {"method": "<invalid method>"}
            if labels["view"] in FAILING:
                value /= 2
        yield name, labels, value


@pytest.fixture
def measured_twice(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application with both middlewares side by side, and with views that fail."""
    monkeypatch.setattr(request_metrics, "ReadMetrics", KeptByUs)
    place = settings.MIDDLEWARE.index("image_editor.web.health.Probes") + 1
    ours = "image_editor.observability.request_metrics.Measure"
    both = [ours, f"{__name__}.Before", f"{__name__}.After"]
    settings.MIDDLEWARE = settings.MIDDLEWARE[:place] + both + settings.MIDDLEWARE[place:]
    settings.ROOT_URLCONF = __name__


def test_every_series_is_that_of_the_library(measured_twice: None, plain_static: None, api: Any) -> None:
    for method in METHODS + ODD_METHODS:
        for address in PATHS + [f"/{name}" for name in FAILING]:
            api.generic(method, address)
    api.get("/api/v1/edits", headers={"Authorization": "Bearer wrong"})
    api.get("/", headers={"Host": "elsewhere.example"})
    api.get("/healthz")

    ours, theirs = by_name(series(OURS)), by_name(corrected(series(LIBRARY)))
    assert {family.name for family in OURS.collect()} == request_metrics.READ
    assert ours.keys() == theirs.keys()
    # Two clocks may put a request at the edge of a bucket into different buckets, so only the last bucket is compared.
    inner = {name for name in ours if "('le', '" in name and "('le', '+Inf')" not in name}
    differences = {name: (ours[name], theirs[name]) for name in ours.keys() - inner if ours[name] != theirs[name]}
    assert not differences
