"""What is kept in memory to be used again, within a limit."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key. Law: their sizes add up to the limit at most; the least recently used go first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._found: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, if it is kept."""
        if key not in self._found:
            return None
        self._found.move_to_end(key)
        return self._found[key][0]

    def put(self, key: K, value: V, size: int = 1) -> None:
        """Keeps a value, in place of the one that the key had."""
        _, before = self._found.pop(key, (None, 0))
        self._found[key] = value, size
        self._size += size - before
        while self._size > self._limit:
            self._size -= self._found.popitem(last=False)[1][1]
