"""Memory that is free goes back to the system."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

from services.kit import heap

PIECE = 64 << 10


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="it reads /proc, and other systems have another malloc"
)
def test_free_memory_below_memory_in_use_goes_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(PIECE) for _ in range(2000)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    *most, last = pieces
    for piece in most:
        libc.free(piece)
    before = resident()
    heap.trim()
    libc.free(last)
    assert before - resident() > 1000 * PIECE
