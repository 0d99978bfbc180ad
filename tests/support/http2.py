"""A client that speaks HTTP/2 frame by frame, to do what gRPC's clients never do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame of the connection itself, which is stream 0."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + bytes(4) + payload


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
async def connection(address: str) -> AsyncGenerator[Frames]:
    """A new connection to the server."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + frame(SETTINGS))
    try:
        yield Frames(reader, writer)
    finally:
        writer.close()
