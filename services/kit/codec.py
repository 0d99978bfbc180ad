"""Frozen dataclasses to JSON bytes and back: the only place that knows how records and job bodies are encoded.

Apart from the standard library, kit imports msgspec and pydantic-settings: pure data, no I/O.
"""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def encode(value: object) -> bytes:
    """JSON of a dataclass; datetimes as RFC 3339, timedeltas as ISO 8601, enums by value."""
    return msgspec.json.encode(value)


def decode(data: bytes, type_: type[T]) -> T:
    """The value; ValueError with the path of the first fault. Unknown fields are ignored.

    A number where a timedelta belongs is seconds, as older records have it.
    """
    return msgspec.json.decode(data, type=type_, strict=False)
