"""Spans to a collector by OTLP, as OpenTelemetry's own variables say; its endpoint turns tracing on.

Only `observe` imports this module, and only then: without tracing no process loads OpenTelemetry.
"""

import logging
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.kit import tracing
from services.kit.errors import SightlineError
from services.kit.log import Log
from services.kit.tracing import NO_ATTRIBUTES, Attributes, Span, SpanKind, TraceContext

LAST_SECONDS = 2.0  # for the last spans, when a process ends
PROTOCOLS = ("grpc", "http/protobuf")
_KINDS = {kind: trace.SpanKind[kind.name] for kind in SpanKind}
_W3C = TraceContextTextMapPropagator()

_log = Log(__name__)


class OtlpTracer:
    """The tracer port over OpenTelemetry's SDK, whose thread exports; spans that it can't get rid of are dropped."""

    def __init__(self, service: str, environment: Mapping[str, str]) -> None:
        """SystemExit for a protocol that there is no exporter for."""
        _silence()
        protocol = (
            environment.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL)
            or environment.get(OTEL_EXPORTER_OTLP_PROTOCOL)
            or PROTOCOLS[0]
        )
        self._provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Telling(_exporter(protocol))))
        self._tracer = self._provider.get_tracer("sightline", version("sightline"))

    def close(self) -> None:
        """Exports the last spans; an unreachable collector gets LAST_SECONDS."""
        ending = Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> Generator[Span]:
        linked = [trace.Link(trace.get_current_span(_context(one)).get_span_context()) for one in links]
        span = self._tracer.start_span(name, _context(parent), _KINDS[kind], attributes, linked)
        begun = OtlpSpan(span)
        try:
            with tracing.within(begun.context):
                yield begun
        except Exception as error:
            begun.fail(error.reason if isinstance(error, SightlineError) else type(error).__name__)
            raise
        finally:
            span.end()

    def add_span(
        self,
        name: str,
        seconds: float,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        ago: float = 0.0,
        parent: TraceContext | None = None,
    ) -> None:
        end = time.time_ns() - int(max(ago, 0.0) * 1e9)
        start = end - int(max(seconds, 0.0) * 1e9)
        self._tracer.start_span(name, _context(parent), attributes=attributes, start_time=start).end(end)


class OtlpSpan:
    """A span of OpenTelemetry's."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def context(self) -> TraceContext:
        """What names it."""
        headers = dict[str, str]()
        _W3C.inject(headers, trace.set_span_in_context(self._span, Context()))
        return tracing.received(headers.items())

    def set(self, name: str, value: str | float | bool) -> None:
        self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR)


class _Telling(SpanExporter):
    """Logs when spans begin to be lost, and when they no longer are, instead of each failed attempt."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            _log.warning("spans_lost", problem="the collector that OTEL_EXPORTER_OTLP_ENDPOINT names takes none")
        elif self._failing and not failing:
            _log.info("spans_exported_again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _exporter(protocol: str) -> SpanExporter:
    match protocol:
        case "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - or HTTP

            return OTLPSpanExporter()
        case "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - or gRPC
                OTLPSpanExporter as HttpExporter,
            )

            return HttpExporter()
        case _:
            raise SystemExit(f"{OTEL_EXPORTER_OTLP_PROTOCOL} is {protocol!r}; it can be {' or '.join(PROTOCOLS)}")


def _resource(service: str) -> Resource:
    """What the process is, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says otherwise."""
    ours = {
        "service.name": service,
        "service.namespace": "sightline",
        "service.version": version("sightline"),
        "service.instance.id": socket.gethostname(),  # in Kubernetes, the pod
    }
    said = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in said})


def _context(context: TraceContext | None) -> Context:
    """Always one of ours: by default OpenTelemetry would take its own current span."""
    named = tracing.current() if context is None else context
    return _W3C.extract(dict(named.headers), Context()) if named else Context()


def _silence() -> None:
    """The SDK logs every attempt that fails, with its traceback; see `_Telling`."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
