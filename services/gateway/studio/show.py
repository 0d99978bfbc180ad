"""How numbers, times and names are shown."""

from datetime import UTC

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def last(name: str) -> str:
    """The id in a resource's name."""
    return name.rpartition("/")[2]


def percent(value: float, digits: int = 1) -> str:
    """A share of 0..1."""
    return f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """A change of a share, in percentage points."""
    return f"{100 * value:+.1f}"


def count(value: int) -> str:
    """A number of things, with its thousands apart."""
    return f"{value:,}"


def size(value: int) -> str:
    """A number of bytes."""
    amount, unit = float(value), 0
    while amount >= 1024 and unit < len(_BYTES) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_BYTES[unit]}" if unit == 0 or amount >= 100 else f"{amount:.1f} {_BYTES[unit]}"


def span(duration: Duration) -> str:
    """A duration."""
    return seconds(duration.ToTimedelta().total_seconds())


def seconds(value: float) -> str:
    """So many seconds."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 90:
        return f"{value:.0f} s"
    if value < 90 * 60:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def moment(time: Timestamp) -> str:
    """A time, in UTC; empty if it is not set."""
    return time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M") if time.seconds else ""


def iso(time: Timestamp) -> str:
    """A time for machines."""
    return time.ToDatetime(UTC).isoformat() if time.seconds else ""
