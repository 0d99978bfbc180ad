"""The memory of this process: what the C library has for it, and what Python's collector of cycles looks at."""

import ctypes
import gc
from collections.abc import Generator
from contextlib import contextmanager, suppress

MANY = 200_000


def trim() -> None:
    """Returns what is free to the system, where the C library is glibc, which keeps it after a peak."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class _Loading:
    """How many blocks of `loading` there are."""

    blocks = 0


@contextmanager
def loading() -> Generator[None]:
    """In the block, what is read is to stay: the collector rests and, if it was MANY objects, never looks at them.

    Otherwise it would look at all of them again and again, for seconds each time if they take hundreds of megabytes.
    Garbage in cycles that there is by the end is not collected then either.
    """
    _Loading.blocks += 1
    gc.disable()
    try:
        yield
    finally:
        _Loading.blocks -= 1
        if not _Loading.blocks:
            if gc.get_count()[0] > MANY:
                gc.freeze()
            gc.enable()
