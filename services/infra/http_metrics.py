"""The metrics of an HTTP server."""

from services.kit.telemetry import Metric, MetricKind

REQUESTS = Metric(
    "sightline_http_requests_total",
    MetricKind.COUNTER,
    "Requests that ended, by route and status; `unknown` are all paths that no route has.",
    ("route", "method", "status"),
)
SECONDS = Metric(
    "sightline_http_request_seconds",
    MetricKind.HISTOGRAM,
    "Duration of requests, from their headers to the last byte of their response.",
    ("route", "method"),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ALL = (REQUESTS, SECONDS)
