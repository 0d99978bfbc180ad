"""Messages on a pipe: length-prefixed msgpack frames.

Imports no torch, asyncio or grpc: worker and child both import this module.
"""

import struct
from collections.abc import Awaitable
from typing import BinaryIO, Protocol, TypeVar

import msgspec

from services.trainer.messages import Message, Signal, Task

MAX_FRAME_BYTES = 64 * 1024 * 1024

_HEADER = struct.Struct("!I")

T = TypeVar("T")


class Connection(Protocol):
    """The reading half of an asyncio stream, without importing asyncio."""

    def readexactly(self, n: int, /) -> Awaitable[bytes]:
        """`n` bytes; EOFError (IncompleteReadError) at the end."""
        ...


def frame(message: Task | Message | Signal) -> bytes:
    """The message as bytes: a four-byte big-endian length, then msgpack. ValueError if it is too long."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is more than {MAX_FRAME_BYTES}")
    return _HEADER.pack(len(body)) + body


def send(stream: BinaryIO, message: Task | Message) -> None:
    """Writes and flushes one frame."""
    stream.write(frame(message))
    stream.flush()


def receive_task(stream: BinaryIO) -> Task | None:
    """The next task, or None at the end of the stream; ValueError or EOFError for anything else."""
    return _receive(stream, _tasks)


def receive_signal(stream: BinaryIO) -> Signal | None:
    """The next signal, or None at the end of the stream; ValueError or EOFError for anything else."""
    return _receive(stream, _signals)


async def receive_message_async(connection: Connection) -> Message:
    """The next message; EOFError at the end of the stream, ValueError for an invalid one."""
    size = _size(await connection.readexactly(_HEADER.size))
    return _messages.decode(await connection.readexactly(size))


_tasks = msgspec.msgpack.Decoder(Task)
_messages = msgspec.msgpack.Decoder(Message)
_signals = msgspec.msgpack.Decoder(Signal)


def _receive(stream: BinaryIO, decoder: "msgspec.msgpack.Decoder[T]") -> T | None:
    header = _read_exactly(stream, _HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise EOFError("the stream ended inside a frame's header")
    size = _size(header)
    body = _read_exactly(stream, size)
    if len(body) < size:
        raise EOFError("the stream ended inside a frame")
    return decoder.decode(body)


def _size(header: bytes) -> int:
    (size,) = _HEADER.unpack(header)
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes is more than {MAX_FRAME_BYTES}")
    return size


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    """`count` bytes, fewer only at the end of the stream; one read of a pipe may return fewer."""
    parts: list[bytes] = []
    while count:
        part = stream.read(count)
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
