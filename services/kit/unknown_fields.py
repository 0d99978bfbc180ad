"""Fields that this release does not know survive its writes: those of a newer one, before or after a rollback."""

from typing import Any, cast

import msgspec


def kept(written: bytes, known: bytes, stored: bytes) -> bytes:
    """The JSON in `written`, and what `stored` has beyond `known`, which is the same value as this release encodes it.

    Law: an unknown field of an object stays as long as its object does, whatever else is written. One in an element of
    a list stays as long as this release leaves the element unchanged, because elements have no other identity.
    """
    if known == stored:
        return written
    return msgspec.json.encode(_merged(*map(msgspec.json.decode, (written, known, stored))))


def _merged(written: Any, known: Any, stored: Any) -> Any:
    match written, known, stored:
        case dict(), dict(), dict():
            unknown = cast(dict[str, Any], {key: value for key, value in stored.items() if key not in known})
            return unknown | {
                key: _merged(value, known[key], stored[key]) if key in known and key in stored else value
                for key, value in written.items()
            }
        case list(), list(), list() if len(known) == len(stored):
            return [_of_equal(value, known, stored) for value in written]
        case _:
            return written


def _of_equal(element: Any, known: list[Any], stored: list[Any]) -> Any:
    """The stored element that this release reads as the one to write; else that one."""
    return stored[known.index(element)] if element in known else element
