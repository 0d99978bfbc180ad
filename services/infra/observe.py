"""What operators see: JSON log lines on stderr, Prometheus metrics, traces, and liveness."""

import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client import start_http_server as start_metrics_server
from structlog.typing import EventDict, Processor, WrappedLogger

from services.infra.liveness import Pulse
from services.infra.ports import listening
from services.kit import log, tracing
from services.kit.masking import masked_urls
from services.kit.settings import Settings
from services.kit.telemetry import Metric, MetricKind
from services.kit.tracing import NoTracer, Tracer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LIVE = "/live"
COLLECTORS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"  # either turns tracing on
BUILD_INFO = Metric(
    "sightline_build_info",
    MetricKind.GAUGE,
    "Always 1; its labels say what is running.",
    ("service", "version", "python"),
)

_log = log.Log(__name__)
_JSON = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)


def configure_logging(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """From now on, every log record of the process is one JSON line with `time`, `level`, `service` and `event`.

    Replaces the previous configuration. Records of libraries and Python's warnings have the event `library_message` and
    their text in `message`; they are logged from WARNING up.
    """

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, "service": service}

    chain: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _unfold,
        add_service,
        _explain,
    ]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _rendered,
            ],
            foreign_pre_chain=chain,
        )
    )
    logging.getLogger("grpc._cython.cygrpc").addFilter(_quotes_no_metadata)
    warnings.showwarning = _log_warning
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in ("services", "sightline"):
        logging.getLogger(package).setLevel(level.upper())


def _log_warning(message: Warning | str, category: type[Warning], *_place: object) -> None:
    """Logs Python's warnings like a library's records; by default they are two lines of plain text."""
    logging.getLogger("py.warnings").warning("%s: %s", category.__name__, message)


def _quotes_no_metadata(record: logging.LogRecord) -> bool:
    """Drops gRPC's message about metadata that is not UTF-8: it may quote a token with a stray byte."""
    return not str(record.msg).startswith("Invalid encoding")


def _rendered(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """The event's line, in which what libraries quote, such as the url of a server with its password, is masked.

    A caller's name, issuer and subject, may look like such a url, and is none.
    """
    caller = event.pop("caller", None)
    line = str(_JSON(logger, method, event))
    line = masked_urls(line) if "://" in line else line
    return f'{line[:-1]}, "caller": {json.dumps(caller, ensure_ascii=False)}}}' if caller else line


def _unfold(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Puts a record's fields next to its event; a field whose name is taken gets an underscore."""
    record: logging.LogRecord = event["_record"]
    fields: dict[str, Any] | None = getattr(record, log.FIELDS, None)
    if fields is None:
        fields = {"logger": record.name, "message": event["event"]}
        event["event"] = "library_message"
    ids = {
        "request_id": log.request_id.get(),
        "caller": log.caller.get(),
        "resource": log.resource.get(),
        "trace_id": tracing.current().trace_id,
    }
    event.update({name: value for name, value in ids.items() if value})
    for name, value in fields.items():
        event[f"{name}_" if name in event or name == "service" else name] = value
    return event


def _explain(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """An exception as type, message and traceback; of a group with one member, that member's type and message."""
    exc_info = event.pop("exc_info", None)
    if exc_info and exc_info[1]:
        error = exc_info[1]
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        kind = type(error).__qualname__
        event["exception"] = {"type": kind, "message": str(error), "traceback": _traceback(exc_info)}
    return event


def _traceback(exc_info: Any) -> str:
    return logging.Formatter().formatException(exc_info)


class PrometheusTelemetry:
    """The telemetry port over its own registry; wrong use is logged, never raised.

    What a histogram observes in a recorded trace becomes an exemplar, which leads from a slow bucket to that trace.
    """

    def __init__(self, service: str, tracer: Tracer | None = None) -> None:
        self.tracer = tracer or NoTracer()
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._metrics: dict[Metric, Counter | Gauge | Histogram] = {}
        self.set(BUILD_INFO, 1, service=service, version=version("sightline"), python=platform.python_version())

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        self._call("inc", metric, amount, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._call("set", metric, value, labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        context = tracing.current()
        exemplar = {"trace_id": context.trace_id, "span_id": context.span_id} if context.is_sampled else None
        self._call("observe", metric, value, labels, exemplar)

    def _call(self, verb: str, metric: Metric, value: float, labels: dict[str, str], *more: object) -> None:
        try:
            metric.check(labels)
            known = self._metrics.get(metric) or self._declare(metric)
            getattr(known.labels(**labels) if metric.labels else known, verb)(value, *more)
        except (ValueError, AttributeError, TypeError) as error:
            _log.error("metric_misused", error, metric=metric.name, verb=verb, labels=labels)

    def declare(self, metrics: Iterable[Metric]) -> None:
        """Exports every counter and histogram at 0 from the start, so that a rate sees the first event.

        Gauges appear when they are first set: 0 would be a claim.
        """
        for metric in metrics:
            known = self._metrics.get(metric) or self._declare(metric)
            if metric.labels and metric.kind is not MetricKind.GAUGE:
                for labels in metric.series():
                    known.labels(**labels)

    def _declare(self, metric: Metric) -> Counter | Gauge | Histogram:
        registry, labels = self.registry, metric.labels
        match metric.kind:
            case MetricKind.COUNTER:
                made: Counter | Gauge | Histogram = Counter(metric.name, metric.help, labels, registry=registry)
            case MetricKind.GAUGE:
                made = Gauge(metric.name, metric.help, labels, registry=registry)
            case MetricKind.HISTOGRAM:
                buckets = metric.buckets or Histogram.DEFAULT_BUCKETS
                made = Histogram(metric.name, metric.help, labels, registry=registry, buckets=buckets)
        self._metrics[metric] = made
        return made


class MetricsEndpoint:
    """`/metrics` and `/live` over HTTP, from a separate thread, so that both answer while the event loop is busy."""

    def __init__(
        self, registry: CollectorRegistry, host: str, port: int, is_late: Callable[[], bool] = lambda: False
    ) -> None:
        """Listens when it returns; port 0 means any free port. OSError if the port is in use."""
        self._server, self._thread = start_metrics_server(port, addr=host, registry=registry)
        self._server.set_app(_with_liveness(self._server.get_app(), is_late))
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _with_liveness(metrics: "WSGIApplication | None", is_late: Callable[[], bool]) -> "WSGIApplication":
    """Answers `/live` with 200, or 503 while the event loop is stuck; `metrics` answers everything else."""
    assert metrics

    def answer(request: "WSGIEnvironment", respond: "StartResponse") -> Iterable[bytes]:
        if request["PATH_INFO"] != LIVE:
            return metrics(request, respond)
        late = is_late()
        respond("503 Service Unavailable" if late else "200 OK", [("Content-Type", "text/plain")])
        return [b"the event loop is stuck\n" if late else b"alive\n"]

    return answer


@contextmanager
def measured(service: str, settings: Settings, metrics: Iterable[Metric] = ()) -> Generator[PrometheusTelemetry]:
    """The telemetry of a process, exported at the metrics port for the block, if the settings have one.

    Within the block the running event loop is watched: see `Pulse`. This is the process's only registry: its children
    report over their pipes. `metrics` are exported from the start. Spans go where the environment says, if anywhere.
    PortUnusable.
    """
    with traced(service, os.environ) as tracer, closing(Pulse(settings.loop_stuck_seconds)) as pulse:
        telemetry = PrometheusTelemetry(service, tracer)
        telemetry.declare(metrics)
        if not settings.metrics_port:
            yield telemetry
            return
        registry, host, port = telemetry.registry, settings.host, settings.metrics_port
        with listening("SIGHTLINE_METRICS_PORT", host, port):
            endpoint = MetricsEndpoint(registry, host, port, lambda: pulse.is_late)
        with closing(endpoint):
            yield telemetry


@contextmanager
def traced(service: str, environment: Mapping[str, str]) -> Generator[Tracer]:
    """Traces to the collector that the environment names; without one, loads nothing and traces nothing.

    SystemExit if OpenTelemetry's packages are missing, or its protocol is unknown.
    """
    if not any(environment.get(name) for name in COLLECTORS) or environment.get("OTEL_TRACES_EXPORTER") == "none":
        yield NoTracer()
        return
    try:
        from services.infra.otlp import OtlpTracer  # noqa: PLC0415 - nothing of it is loaded without tracing
    except ModuleNotFoundError as error:
        missing = f"{COLLECTORS[1]} is set, but {error.name} is not installed"
        raise SystemExit(f"{missing}: pip install 'sightline-services[tracing]', or unset it") from error
    with closing(OtlpTracer(service, environment)) as tracer:
        yield tracer
