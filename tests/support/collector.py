"""A collector of traces in this process: OTLP over gRPC, as OpenTelemetry's own receives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Collected:
    """A span as the collector got it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str  # empty for a root
    links: tuple[str, ...]  # spans, by id
    kind: str
    attributes: Mapping[str, Any]
    failed: bool
    seconds: float


class Collector(rpc.TraceServiceServicer):
    """Keeps the spans of all processes."""

    def __init__(self) -> None:
        self.spans: list[Collected] = []
        self.raw: list[bytes] = []  # each export as it came

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:  # noqa: N802 - the contract's name
        self.raw.append(request.SerializeToString())
        for of_process in request.resource_spans:
            service = _attributes(of_process.resource.attributes)["service.name"]
            for scope in of_process.scope_spans:
                self.spans += [_collected(service, span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def named(self, name: str, trace_id: str = "") -> list[Collected]:
        """The spans of that name, in one trace or in all."""
        return [span for span in self.spans if span.name == name and trace_id in ("", span.trace_id)]

    def wait_until(self, wanted: Callable[[Collected], bool]) -> Collected:
        """The first span that is wanted, once it is there."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (found := [span for span in list(self.spans) if wanted(span)]):
            assert time.monotonic() < deadline, "the span did not come"
            time.sleep(0.05)
        return found[0]

    def wait_for(self, name: str, trace_id: str = "", count: int = 1) -> list[Collected]:
        """The same, once there are so many."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(found := self.named(name, trace_id)) < count:
            assert time.monotonic() < deadline, f"no {name!r}; there are {sorted({one.name for one in self.spans})}"
            time.sleep(0.05)
        return found


@dataclass
class Collecting:
    """A running collector, and what makes a process export to it."""

    collector: Collector
    port: int
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }


@contextmanager
def collecting() -> Generator[Collecting]:
    """A collector for the block."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2, "collector"))
    rpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Collecting(collector, port)
    finally:
        server.stop(None).wait()


def _collected(service: str, span: SpanProto) -> Collected:
    return Collected(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple(link.span_id.hex() for link in span.links),
        kind=SpanProto.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        attributes=_attributes(span.attributes),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
