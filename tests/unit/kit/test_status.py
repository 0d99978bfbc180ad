"""Failures, times and durations survive the trip through protobuf."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from services.kit.errors import Code, Failure, InvalidRequest, ModelNotFound, RemoteError
from services.kit.status import (
    MAX_STATUS_BYTES,
    failure_to_status,
    status_of,
    to_duration,
    to_timestamp,
)
from tests.support.status import failure_of


def test_a_failure_survives_the_round_trip():
    failure = ModelNotFound(name="models/" + "ü" * 5000).failure()
    assert failure_of(failure_to_status(failure)) == failure


def test_a_foreign_status_has_no_reason():
    assert failure_of(Status(code=5, message="gone")) == Failure(5, "", "gone")


def test_a_status_is_truncated_to_fit_into_the_trailers():
    status = status_of(InvalidRequest(field="f" * 9999, problem="💥" * 9999))
    assert status.ByteSize() <= MAX_STATUS_BYTES
    assert failure_of(status).reason == "InvalidRequest"


def test_an_error_with_an_unknown_reason_keeps_its_message_and_variables():
    failure = Failure(Code.UNAVAILABLE, "NewReason", "words", {"a": "b"})
    error = RemoteError.restore(failure)
    assert error.failure() == failure
    assert error.retry


def test_times_and_durations_survive_the_round_trip():
    moment = datetime(2026, 11, 23, 16, 15, 16, 123456, tzinfo=UTC)
    assert (to_timestamp(moment) or Timestamp()).ToDatetime(UTC) == moment
    assert to_timestamp(None) is None
    assert to_duration(timedelta(hours=288, microseconds=7)).ToTimedelta() == timedelta(hours=288, microseconds=7)
