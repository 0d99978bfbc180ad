"""Times as this API writes them."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def text_of(moment: datetime | Timestamp) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    when = moment.ToDatetime(UTC) if isinstance(moment, Timestamp) else moment
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
