"""Durations and sizes as people write and read them."""

import re
from datetime import timedelta

_NUMBER = r"(\d+(?:\.\d+)?)\s*"
_HOURS = rf"{_NUMBER}h(?:ours?|rs?)?\s*"
_MINUTES = rf"{_NUMBER}(?:m(?:in(?:ute)?s?)?(?!s)|(?<=h\d\d)$)\s*"  # two digits after hours are minutes: 1h30
_SECONDS = rf"{_NUMBER}(?:s(?:ec(?:ond)?s?)?|(?<=m\d\d)$)\s*"
_WRITTEN = re.compile(rf"(?:{_HOURS})?(?:{_MINUTES})?(?:{_SECONDS})?(?:{_NUMBER}ms)?")


def span_of(value: str | float | timedelta) -> timedelta:
    """`90s`, `10 min`, `1h30`, `1.5 hours` or `50ms`, seconds, or a timedelta; ValueError for anything else."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        return timedelta(seconds=value)
    match = _WRITTEN.fullmatch(value.strip().lower())
    if not value.strip() or match is None:
        raise ValueError(f"'{value}' is not a duration; write it as 90s, 10m or 1h30m.")
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)


def duration(value: float | timedelta) -> str:
    """A duration for people: `8.4s`, `1m30s`, `2h05m`."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def milliseconds(value: timedelta | None) -> str:
    """A short time for people: `2.6 ms`, `134 ms`; empty if there is none."""
    if not value:
        return ""
    time = value.total_seconds() * 1000
    return f"{time:.1f} ms" if time < 10 else f"{time:.0f} ms"


def size(size_bytes: int) -> str:
    """A size for people: `812 KB`, `1.4 GB`."""
    value = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
