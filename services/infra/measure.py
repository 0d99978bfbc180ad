"""The metrics of a gRPC server, named and labelled as go-grpc-middleware does, so that its dashboards fit."""

from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor
from grpc import StatusCode

from services.kit.telemetry import Metric, MetricKind, Telemetry

_RPC = ("grpc_type", "grpc_service", "grpc_method")

STARTED = Metric("grpc_server_started_total", MetricKind.COUNTER, "Calls that were started.", _RPC)
HANDLED = Metric(
    "grpc_server_handled_total", MetricKind.COUNTER, "Calls that ended, however they did.", (*_RPC, "grpc_code")
)
SECONDS = Metric(
    "grpc_server_handling_seconds",
    MetricKind.HISTOGRAM,
    "Seconds from the start of a call's handling to its end.",
    _RPC,
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
RECEIVED = Metric("grpc_server_msg_received_total", MetricKind.COUNTER, "Messages that callers sent.", _RPC)
SENT = Metric("grpc_server_msg_sent_total", MetricKind.COUNTER, "Messages that callers were sent.", _RPC)

_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def code_name(code: StatusCode) -> str:
    """The code as Go writes it: `OK`, `NotFound`, `Canceled`."""
    if code is StatusCode.OK:
        return "OK"
    return "Canceled" if code is StatusCode.CANCELLED else code.name.title().replace("_", "")


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of one service, as the labels name it."""

    kind: str
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
    def is_housekeeping(self) -> bool:
        """Health and reflection: part of running the service rather than of using it."""
        return self.service.startswith("grpc.")

    @property
    def is_endless(self) -> bool:
        """Whether a call lasts until somebody ends it; the contract names such rpcs Watch…"""
        return self.method.startswith("Watch")


# One pair of labels for every method that does not exist: a caller must not be able to invent time series.
UNKNOWN_RPC = Rpc("unary", "unknown", "unknown")


def declare(telemetry: Telemetry, service: ServiceDescriptor) -> None:
    """Sets the counters of every method to 0, so that a rate over a first failure is not lost."""
    for method in service.methods:
        kind = _KINDS[method.client_streaming, method.server_streaming]
        labels = Rpc(kind, service.full_name, method.name).labels
        telemetry.add(STARTED, 0, **labels)
        for code in ("OK", "Internal", "Unavailable"):
            telemetry.add(HANDLED, 0, **labels, grpc_code=code)
