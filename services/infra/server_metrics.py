"""The metrics of a gRPC server, named and labelled as go-grpc-middleware does, so that its dashboards fit."""

from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.descriptor import ServiceDescriptor
from grpc import StatusCode

from services.kit.telemetry import Metric, MetricKind, Telemetry

_RPC = ("grpc_type", "grpc_service", "grpc_method")

STARTED = Metric("grpc_server_started_total", MetricKind.COUNTER, "Calls started.", _RPC)
HANDLED = Metric("grpc_server_handled_total", MetricKind.COUNTER, "Calls that ended, by status.", (*_RPC, "grpc_code"))
SECONDS = Metric(
    "grpc_server_handling_seconds",
    MetricKind.HISTOGRAM,
    "Duration of calls.",
    _RPC,
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
RECEIVED = Metric("grpc_server_msg_received_total", MetricKind.COUNTER, "Messages received from callers.", _RPC)
SENT = Metric("grpc_server_msg_sent_total", MetricKind.COUNTER, "Messages sent to callers.", _RPC)


class Limit(StrEnum):
    """What a call was refused or ended for."""

    CALLS = "calls"
    STREAMS = "streams"
    BYTES = "bytes"
    RATE = "rate"
    TIME = "time"  # its request did not arrive in time
    SIZE = "size"  # its request was too large


class Whose(StrEnum):
    """Whose limit it was."""

    SERVER = "server"
    CALLER = "caller"
    PROJECT = "project"
    OPEN = "open"  # calls that need no token
    REQUEST = "request"  # each request's own


REFUSED = Metric(
    "sightline_server_refused_total",
    MetricKind.COUNTER,
    "Calls refused or ended because of a limit, by what is limited and whose limit it is.",
    ("limit", "whose"),
    values=(tuple(Limit), tuple(Whose)),
)
BYTES = Metric("sightline_server_bytes_in_flight", MetricKind.GAUGE, "Bytes of requests and responses in memory.")
IN_FLIGHT = Metric(
    "sightline_server_calls_in_flight",
    MetricKind.GAUGE,
    "Calls in flight, from their headers to the last byte of their response.",
    ("kind",),
    values=(("unary", "stream", "open"),),
)


class RpcKind(StrEnum):
    """Which side of a call streams."""

    UNARY = "unary"
    CLIENT_STREAM = "client_stream"
    SERVER_STREAM = "server_stream"
    BIDI_STREAM = "bidi_stream"


_KINDS = {
    (False, False): RpcKind.UNARY,
    (True, False): RpcKind.CLIENT_STREAM,
    (False, True): RpcKind.SERVER_STREAM,
    (True, True): RpcKind.BIDI_STREAM,
}


FAULTS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)  # the server's, not the caller's, by OpenTelemetry's conventions


def code_name(code: StatusCode) -> str:
    """The code as Go writes it: `OK`, `NotFound`, `Canceled`."""
    if code is StatusCode.OK:
        return "OK"
    return "Canceled" if code is StatusCode.CANCELLED else code.name.title().replace("_", "")


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method of a service, as the labels name it."""

    kind: RpcKind
    service: str
    method: str

    @classmethod
    def of(cls, path: str, *, request_streaming: bool, response_streaming: bool) -> "Rpc":
        """From the path of a call, `/package.Service/Method`."""
        service, _, method = path.removeprefix("/").partition("/")
        return cls(_KINDS[request_streaming, response_streaming], service, method)

    @property
    def labels(self) -> dict[str, str]:
        """For the metrics."""
        return {"grpc_type": self.kind, "grpc_service": self.service, "grpc_method": self.method}

    @property
    def span_attributes(self) -> dict[str, str]:
        """For its span."""
        return {"rpc.system.name": "grpc", "rpc.method": f"{self.service}/{self.method}"}

    @property
    def is_housekeeping(self) -> bool:
        """Health and reflection: part of running the service rather than of using it."""
        return self.service.startswith("grpc.")

    @property
    def is_endless(self) -> bool:
        """Whether a call lasts until one side ends it; the contract names such rpcs Watch…"""
        return self.method.startswith("Watch")


# One set of labels for all methods that do not exist: callers must not be able to create time series.
UNKNOWN_RPC = Rpc(RpcKind.UNARY, "unknown", "unknown")


def declare(telemetry: Telemetry, service: ServiceDescriptor) -> None:
    """Sets the counters of every method to 0, so that a rate sees the first failure."""
    for method in service.methods:
        kind = _KINDS[method.client_streaming, method.server_streaming]
        labels = Rpc(kind, service.full_name, method.name).labels
        telemetry.add(STARTED, 0, **labels)
        for code in ("OK", "Internal", "Unavailable"):
            telemetry.add(HANDLED, 0, **labels, grpc_code=code)
