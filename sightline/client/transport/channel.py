"""How Sightline's services are called: message sizes, retries and deadlines, and what a failed call reports."""

import json
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from sightline.client.transport.credentials import is_loopback
from sightline.client.transport.proxies import is_excepted

DOMAIN = "sightline"
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
DEADLINE_SECONDS = 30.0  # of a unary call, unless the caller sets another
STREAMS_OF_REQUESTS = [
    {"service": "sightline.v1.DatasetService", "method": "UploadFiles"},
    {"service": "sightline.v1.PredictionService", "method": "AnalyzeImages"},
]
_DETAILS = "grpc-status-details-bin"


def service_config() -> str:
    """GRPC's service config: calls are spread over all replicas, and tried up to five times while no service responds.

    That is UNAVAILABLE, or CANCELLED, which gRPC's servers return for a call that arrives as they shut down. A call
    that its caller cancels is never retried. Callers repeat streams of requests themselves: gRPC, which resends the
    messages it has buffered, was seen to lose one.
    """
    retry = {
        "maxAttempts": 5,  # the most that gRPC takes
        "initialBackoff": "0.2s",
        "maxBackoff": "3s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    methods = [{"name": [{}], "retryPolicy": retry}, {"name": STREAMS_OF_REQUESTS}]
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": methods})


OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.service_config", service_config()),
    # A call whose message is larger than this buffer would never be retried.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),  # Notices a server that vanished while a stream waits for it.
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # Reconnects while calls are still being retried.
)


# For channels to this machine: a proxy from the environment would look for the service on the proxy's own loopback.
# And for hosts that no_proxy lists in a form that gRPC does not know.
DIRECT = (("grpc.enable_http_proxy", 0),)


def options_for(address: str) -> tuple[tuple[str, str | int], ...]:
    """The options for a channel to the address."""
    return OPTIONS + DIRECT if is_loopback(address) or is_excepted(address) else OPTIONS


@dataclass(frozen=True, slots=True)
class RichError:
    """What a failed call reports. `reason` is empty if the response did not come from Sightline itself."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: dict[str, str] = field(default_factory=dict[str, str])  # what is wrong, by field of the request
    metadata: dict[str, str] = field(default_factory=dict[str, str])  # the variables of the message


def describe(error: grpc.RpcError) -> RichError:
    """The content of an error that a stub raised, blocking or asyncio; never raises."""
    call: _Failed = error  # type: ignore[assignment]  # every error that a call raises is one
    reason, metadata, fields = "", dict[str, str](), dict[str, str]()
    for detail in status_of(error).details:
        info, bad = ErrorInfo(), BadRequest()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            fields = {violation.field: violation.description for violation in bad.field_violations}
    return RichError(call.code(), reason, call.details() or call.code().name, fields, metadata)


class _Failed(Protocol):
    """The part of grpc.Call and grpc.aio.AioRpcError that matters here."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> "tuple[tuple[str, str | bytes], ...] | None": ...


def status_of(error: grpc.RpcError) -> Status:
    """The status that the service sent, or the little that the call knows if no Sightline service responded."""
    if not hasattr(error, "trailing_metadata"):
        return Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error))
    call: _Failed = error  # type: ignore[assignment]  # every error that a call raises is one
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            with suppress(DecodeError):
                return Status.FromString(value)
    return Status(code=call.code().value[0], message=call.details() or "")


def status_code(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code of a failed call, blocking or asyncio."""
    call: _Failed = error  # type: ignore[assignment]  # every error that a call raises is one
    return call.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN


class _Cancellable(Protocol):
    def cancel(self) -> bool: ...


C = TypeVar("C", bound=_Cancellable)


@contextmanager
def streaming(call: C) -> Generator[C]:
    """Cancels the call when the block ends, however it ends.

    gRPC does not close a stream that is no longer read; so write
    `with streaming(stub.WatchModel(request)) as updates:`.
    """
    try:
        yield call
    finally:
        call.cancel()
