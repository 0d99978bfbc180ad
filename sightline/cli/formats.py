"""How the command line reads and writes names, durations and numbers."""

import re
from datetime import datetime, timedelta

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str) -> timedelta:
    """`90s`, `10m`, `1h30m` or `1.5h` as a time; typer.BadParameter for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not text.strip() or match is None:
        raise typer.BadParameter(f"'{text}' is not a duration; write it as 90s, 10m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def duration(value: Duration | float) -> str:
    """A length of time for people: `8.4s`, `1m30s`, `2h05m`."""
    seconds = value.ToTimedelta().total_seconds() if isinstance(value, Duration) else value
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def moment(value: Timestamp) -> str:
    """A point in time, in the zone of this machine; nothing if it is not set."""
    if not value.seconds:
        return ""
    return datetime.fromtimestamp(value.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def full_name(collection: str, name: str) -> str:
    """`birds` as `datasets/birds`; a name that is full already stays as it is."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def own_id(collection: str, name: str) -> str:
    """The id that a new resource is asked for by, as typed: whether it is one, the service says."""
    return name.removeprefix(f"{collection}/")


def bare_name(name: str) -> str:
    """The last part of a resource name."""
    return name.rpartition("/")[2]


def visible(name: str) -> str:
    """A category's name; in quotes where spaces at its ends, or several in a row, would not be seen."""
    return name if name == " ".join(name.split()) else repr(name)


def size(size_bytes: int) -> str:
    """Bytes for people: `812 KB`, `1.4 GB`."""
    value = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def percent(fraction: float) -> str:
    """`0.9712` as `97.1 %`."""
    return f"{100 * fraction:.1f} %"
