"""A client that speaks HTTP/2 frame by frame, to do what gRPC's clients never do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
CANCEL = (8).to_bytes(4, "big")
NO_WINDOW = (4).to_bytes(2, "big") + bytes(4)  # SETTINGS_INITIAL_WINDOW_SIZE = 0: the peer may send no data


def frame(kind: int, flags: int = 0, payload: bytes = b"", stream: int = 0) -> bytes:
    """A frame; of the connection itself, which is stream 0, unless another is given."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def call_headers(path: str, token: str = "") -> bytes:
    """The headers of a gRPC call in HPACK, without compression."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    headers |= {"content-type": "application/grpc"} | ({"authorization": f"Bearer {token}"} if token else {})
    return b"".join(_header(name, value) for name, value in headers.items())


def repeated(name: str, value: str, least_bytes: int) -> bytes:
    """A header, as often as fills so many bytes."""
    header = _header(name, value)
    return header * -(-least_bytes // len(header))


def remembered(name: str, value: str) -> bytes:
    """A header that the server keeps: from then on, the byte 0xbe stands for it."""
    return b"\x40" + _text(name) + _text(value)


def _header(name: str, value: str) -> bytes:
    return b"\0" + _text(name) + _text(value)


def message(data: bytes) -> bytes:
    """A gRPC message, which DATA frames carry."""
    return b"\0" + len(data).to_bytes(4, "big") + data


def _text(text: str) -> bytes:
    """HPACK's string: its length as an integer with a prefix of seven bits, and its bytes."""
    data, rest = text.encode(), len(text) - 127
    if rest < 0:
        return bytes((len(data),)) + data
    length = bytearray((127,))
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes((*length, rest)) + data


@dataclass
class Frames:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def pings(self, count: int, pause_seconds: float = 0.0) -> None:
        """Sends pings one after the other; ConnectionError with the server's message if it sends GOAWAY."""
        for _ in range(count):
            await asyncio.sleep(pause_seconds)
            await self._ping()

    async def discard(self) -> None:
        """Reads what comes until the server closes the connection."""
        try:
            while True:
                await self._read()
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def _ping(self) -> None:
        self.writer.write(frame(PING, payload=b"12345678"))
        while True:
            kind, flags, payload = await self._read()
            if kind == GOAWAY:
                raise ConnectionError(payload[8:].decode())
            if kind == PING and flags & ACK:
                return

    async def _read(self) -> tuple[int, int, bytes]:
        """The next frame, already acknowledged if it must be."""
        head = await self.reader.readexactly(9)
        kind, flags, payload = head[3], head[4], await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind == SETTINGS and not flags & ACK:
            self.writer.write(frame(SETTINGS, ACK))
        if kind == PING and not flags & ACK:
            self.writer.write(frame(PING, ACK, payload))
        return kind, flags, payload


@asynccontextmanager
async def connection(address: str, settings: bytes = b"", source: str = "") -> AsyncGenerator[Frames]:
    """A new connection to the server, which is told the settings; from the source, if one is given."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0) if source else None)
    writer.write(PREFACE + frame(SETTINGS, payload=settings))
    try:
        yield Frames(reader, writer)
    finally:
        writer.close()
