"""Files that others replace while a process runs: certificates, keys, tokens."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")
State = tuple[tuple[int, int, int], ...]  # of each file: modification time, size, inode
SETTLED_SECONDS = 0.05  # a file modified more recently may change again with the same modification time


class ReloadingFiles(Generic[T]):
    """What `load` makes of the files' contents, made again as soon as one of them changes.

    Law: the files are read together, so that certificate and key match, or not at all: if they cannot be read or used
    (`load` raises ValueError), the former value stays in force and `on_error` receives each such error once. The value
    stays the same object while the contents do. The first load raises instead. Thread-safe; `get` costs a stat per
    file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Callable[[list[bytes]], T],
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._on_error = on_error
        self._lock = Lock()
        self._reported = ""
        state = self._state()
        self._contents = self._read()
        self._value = load(self._contents)
        self._seen = state if _is_settled(state) else ()

    def get(self) -> T:
        """The value for the files as they are now, or for their last usable state."""
        with self._lock:
            try:
                self._look()
            except (ValueError, OSError) as error:
                if str(error) != self._reported:
                    self._reported = str(error)
                    self._on_error(error)
            return self._value

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        settled = _is_settled(state)
        contents = self._read()
        try:
            value = self._value if contents == self._contents else self._load(contents)
        except ValueError:
            self._seen = state if settled else ()
            raise
        if self._state() == state:  # otherwise they are being written right now: the next call sees the result
            self._contents, self._value, self._reported = contents, value, ""
            self._seen = state if settled else ()

    def _read(self) -> list[bytes]:
        return [path.read_bytes() for path in self._paths]

    def _state(self) -> State:
        found = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)


def _is_settled(state: State) -> bool:
    """Whether a further change would certainly show."""
    newest = max((changed for changed, _, _ in state), default=0)
    return not 0 <= time.time() - newest / 1e9 <= SETTLED_SECONDS
