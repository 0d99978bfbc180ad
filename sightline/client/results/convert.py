"""From protobuf's well-known types to Python's."""

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from sightline.client.errors import SightlineError
from sightline.client.grpc_errors import error_from


def moment(value: Timestamp) -> datetime | None:
    """An aware datetime; None if it is not set."""
    return value.ToDatetime(UTC) if value.seconds or value.nanos else None


def span(value: Duration) -> timedelta:
    """A timedelta."""
    return value.ToTimedelta()


def given(message: Message, field: str) -> Any:
    """The value of a field with presence; None if it is not set."""
    return getattr(message, field) if message.HasField(field) else None


def failure(message: Any) -> SightlineError | None:
    """Why a resource is FAILED; None if it is not."""
    return error_from(message.error, message.name) if message.HasField("error") else None
