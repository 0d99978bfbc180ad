"""What a process that decodes is asked, and what it answers: small messages beside a shared buffer.

The buffer has the file's bytes while the process reads them, and afterwards the result's.
"""

import fcntl
import mmap
import os
import socket
import tempfile
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.vision.decode import ImageInfo
from services.vision.fingerprint import Fingerprint
from sightline.images.faults import Note

BUFFER_BYTES = 1 << 30  # of addresses; memory only where something was written
_LENGTH_BYTES = 4
_RECEIVED_BYTES = 1 << 16


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Decode the image for each `at_least` of `sizes`."""

    sizes: tuple[int, ...]


class Repack(msgspec.Struct, frozen=True, tag=True):
    """Decode the image, and encode it again if a pack needs that."""


class Request(msgspec.Struct, frozen=True):
    """A task with its limits; the file is at the start of the buffer."""

    task: Decode | Repack
    name: str
    size_bytes: int
    memory_bytes: int
    cpu_seconds: float


class Pixels(msgspec.Struct, frozen=True, tag=True):
    """Arrays [height, width, 3] in the buffer: `at_least`, where it starts, height, width."""

    info: ImageInfo
    arrays: tuple[tuple[int, int, int, int], ...]


class Repacked(msgspec.Struct, frozen=True, tag=True):
    """The image as a pack holds it; its bytes are in the buffer if they are not the file's own."""

    info: ImageInfo
    width: int
    height: int
    extension: str
    size_bytes: int | None  # None: the file's own bytes
    fingerprint: Fingerprint
    notes: tuple[Note, ...] = ()


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why the image cannot be used; the header if that could be read."""

    kind: Literal["format", "size", "memory"]
    problem: str
    info: ImageInfo | None = None


Answer = Pixels | Repacked | Refused


def send(connection: socket.socket, body: bytes) -> None:
    """Sends one message; OSError if the other end is gone."""
    connection.sendall(len(body).to_bytes(_LENGTH_BYTES, "little") + body)


def receive(connection: socket.socket) -> bytes:
    """The next message; empty if the other end is gone."""
    received = b""
    while len(received) < _LENGTH_BYTES or len(received) < _LENGTH_BYTES + int.from_bytes(
        received[:_LENGTH_BYTES], "little"
    ):
        try:
            more = connection.recv(_RECEIVED_BYTES)
        except ConnectionError:
            return b""
        if not more:
            return b""
        received += more
    return received[_LENGTH_BYTES:]


encoder = msgspec.msgpack.Encoder()
request_decoder = msgspec.msgpack.Decoder(Request)
answer_decoder = msgspec.msgpack.Decoder(Answer)


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that two processes share; it cannot be cut off under the other's feet where the system has seals."""

    file: int  # descriptor
    memory: mmap.mmap

    @classmethod
    def create(cls) -> "Buffer":
        """A new one."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("sightline-decode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(file, BUFFER_BYTES)
            _seal(file)
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
            os.ftruncate(file, BUFFER_BYTES)
        return cls.of(file)

    @classmethod
    def of(cls, file: int) -> "Buffer":
        """The one that another process created."""
        return cls(file, mmap.mmap(file, BUFFER_BYTES))

    def pixels(self, place: int, height: int, width: int) -> NDArray[np.uint8]:
        """An array [height, width, 3] in the buffer, from `place` on; ValueError if it does not fit."""
        return np.frombuffer(self.memory, np.uint8, height * width * 3, place).reshape(height, width, 3)

    def forget(self, size_bytes: int) -> None:
        """Gives the memory of the first bytes back to the system."""
        if hasattr(mmap, "MADV_REMOVE"):
            self.memory.madvise(mmap.MADV_REMOVE, 0, -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)

    def close(self) -> None:
        """Ends this process's use of it."""
        self.memory.close()
        os.close(self.file)


def _seal(file: int) -> None:
    fcntl.fcntl(file, 1033, 0x0002 | 0x0004)  # F_ADD_SEALS: F_SEAL_SHRINK, F_SEAL_GROW
