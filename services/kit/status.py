"""Errors, times and durations in the well-known protobuf messages: the only part of kit that imports protobuf.

A status has exactly one `ErrorInfo` (domain `sightline`, the reason, the message's variables); the answer to a failed
call also has the other details of `google.rpc` that apply.
"""

from datetime import datetime, timedelta

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.kit.errors import DOMAIN, Failure, InvalidArgument, QuotaExceeded, SightlineError

# A status is sent in the trailers, of which gRPC accepts 8 KiB by default; base64 adds a third.
MAX_STATUS_BYTES = 4096
_LIMITS = (1024, 400, 150, 50)  # bytes of the message and of each variable, tried in turn


def failure_to_status(failure: Failure) -> Status:
    """A stored failure as the `error` of a resource, untruncated."""
    return _status(failure.code, failure.message, _info(failure.reason, failure.metadata))


def status_of(error: SightlineError) -> Status:
    """The status of a call that failed with the error; long texts are truncated to fit into the trailers."""
    status = Status()
    for limit in _LIMITS:
        status = _answer(error, limit)
        if status.ByteSize() <= MAX_STATUS_BYTES:
            break
    return status


def _answer(error: SightlineError, limit: int) -> Status:
    message = _cut(error.message, limit)
    metadata = {name: _cut(value, limit) for name, value in error.metadata.items()}
    details: list[Message] = [_info(error.reason, metadata)]
    field = error.field_name or metadata.get("field", "")
    if error.field_name or (field and isinstance(error, InvalidArgument)):
        details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message)]))
    if isinstance(error, QuotaExceeded):
        violation = QuotaFailure.Violation(
            subject=metadata.get("subject", ""), description=message, quota_id=metadata.get("setting", "")
        )
        details.append(QuotaFailure(violations=[violation]))
    if error.retry:
        details.append(RetryInfo(retry_delay=to_duration(error.retry_after)))
    if error.resource_type:
        name = metadata.get("name", "")
        details.append(ResourceInfo(resource_type=error.resource_type, resource_name=name, description=message))
    return _status(error.code, message, *details)


def _info(reason: str, metadata: dict[str, str]) -> ErrorInfo:
    return ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)


def _status(code: int, message: str, *details: Message) -> Status:
    status = Status(code=code, message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str, limit: int) -> str:
    """The text, truncated to `limit` bytes of UTF-8 with an ellipsis."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"


def to_timestamp(moment: datetime | None) -> Timestamp | None:
    """For a message field; None leaves it unset."""
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def to_duration(span: timedelta) -> Duration:
    """For a message field."""
    duration = Duration()
    duration.FromTimedelta(span)
    return duration
