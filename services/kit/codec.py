"""Frozen dataclasses as JSON bytes and back: the one place that knows how records and job bodies are written.

msgspec and pydantic-settings are the two libraries that kit imports beside the standard library: pure data, no I/O.
"""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def encode(value: object) -> bytes:
    """JSON of a dataclass; datetimes as RFC 3339, timedeltas as ISO 8601, enums by value."""
    return msgspec.json.encode(value)


def decode(data: bytes, type_: type[T]) -> T:
    """The dataclass back; ValueError naming the first fault's path. Unknown fields are ignored."""
    return msgspec.json.decode(data, type=type_)
