"""JSON objects as the retired services' clients write them: keys in any case, values of the documented types."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from services.kit.errors import InvalidRequest

MAX_DEPTH = 32
MAX_VALUES = 200_000  # decoded, each may take a hundred times its bytes


class Fields:
    """A JSON object. Law: a key is found whatever its case; a value of another type is InvalidRequest, naming it."""

    def __init__(self, value: Mapping[str, Any], path: str = "") -> None:
        self._path = path
        self._found = {key.lower(): item for key, item in value.items()}

    def __contains__(self, name: str) -> bool:
        return self._found.get(name.lower()) is not None

    def named(self, name: str) -> str:
        """The path to a key, for messages."""
        return f"{self._path}.{name}" if self._path else name

    def text(self, name: str) -> str:
        """A text; empty if there is none."""
        value = self._get(name)
        return str(self._typed(name, value, str, "a text")) if value is not None else ""

    def required_text(self, name: str) -> str:
        """A text that must be there."""
        if found := self.text(name):
            return found
        raise InvalidRequest(field=self.named(name), problem="it is required")

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self._get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise InvalidRequest(field=self.named(name), problem="it must be a number")
        return float(value)

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty if there is none."""
        return [
            str(self._typed(f"{name}[{number}]", item, str, "a text")) for number, item in enumerate(self._list(name))
        ]

    def object(self, name: str) -> "Fields | None":
        """An object within; None if there is none."""
        value = self._get(name)
        return None if value is None else Fields(self._object(name, value), self.named(name))

    def objects(self, name: str) -> Iterator["Fields"]:
        """The objects of a list, one at a time; none if there is no list."""
        for number, item in enumerate(self._list(name)):
            path = f"{name}[{number}]"
            yield Fields(self._object(path, item), self.named(path))

    def mapping(self, name: str) -> dict[str, str | None] | None:
        """An object of texts, with its keys as they are; a null removes."""
        value = self._get(name)
        if value is None:
            return None
        found = self._object(name, value)
        return {
            key: None if item is None else str(self._typed(f"{name}.{key}", item, str, "a text"))
            for key, item in found.items()
        }

    def _get(self, name: str) -> Any:
        return self._found.get(name.lower())

    def _list(self, name: str) -> list[Any]:
        value = self._get(name)
        return [] if value is None else cast("list[Any]", self._typed(name, value, list, "a list"))

    def _object(self, name: str, value: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", self._typed(name, value, dict, "an object"))

    def _typed(self, name: str, value: Any, kind: type, words: str) -> Any:
        if not isinstance(value, kind):
            raise InvalidRequest(field=self.named(name), problem=f"it must be {words}")
        return value


def count_values(data: bytes) -> int:
    """How many values a JSON text has at most, without decoding it."""
    return sum(map(data.count, (b",", b"{", b"[")))


def read_json(data: bytes) -> Fields:
    """The JSON object; InvalidRequest if it is none, has too many values, or is nested too deeply."""
    if count_values(data) > MAX_VALUES:
        raise InvalidRequest(field="body", problem=f"it has more than {MAX_VALUES} values or commas")
    try:
        value: Any = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(field="body", problem=f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(field="body", problem="it must be a JSON object")
    if _depth(value) > MAX_DEPTH:
        raise InvalidRequest(field="body", problem=f"it is nested more than {MAX_DEPTH} levels deep")
    return Fields(cast("dict[str, Any]", value))


def _depth(value: Any) -> int:
    """How deeply objects and lists are nested, up to a level beyond the limit."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        level, depth = inner, depth + 1
    return depth
