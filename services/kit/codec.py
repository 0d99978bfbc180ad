"""Values to JSON bytes and back: how records and job bodies are encoded, and how stored files are read.

Law: bytes that do not have the form are a ValueError, however deeply they are nested.

Apart from the standard library, kit imports msgspec and pydantic-settings: pure data, no I/O.
"""

from types import UnionType
from typing import TypeVar, cast

import msgspec

T = TypeVar("T")
_FORMAT = b'"record_format"'
_TOO_DEEP = "its values are nested too deeply"


def encode(value: object) -> bytes:
    """JSON of a dataclass; datetimes as RFC 3339, timedeltas as ISO 8601, enums by value."""
    return msgspec.json.encode(value)


def decode(data: bytes, type_: type[T]) -> T:
    """The value; ValueError with the path of the first fault. Unknown fields are ignored.

    A number where a timedelta belongs is seconds, as older records have it.
    """
    return parse(data, type_, strict=False)


class _Format(msgspec.Struct):
    record_format: int = 0


def record_format(data: bytes) -> int:
    """What a record says of its format, 0 if nothing; ValueError."""
    return parse(data, _Format).record_format if _FORMAT in data else 0


def parse(data: bytes, type_: type[T], *, strict: bool = True) -> T:
    """The value in a JSON file; ValueError."""
    try:
        return msgspec.json.decode(data, type=type_, strict=strict)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def unpack(data: bytes, type_: type[T] | UnionType) -> T:
    """The value in a msgpack file; ValueError."""
    try:
        return cast(T, msgspec.msgpack.decode(data, type=type_))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
