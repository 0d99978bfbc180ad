"""Connections that a campaign can disturb: each process reaches NATS and the store through links of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from fnmatch import fnmatchcase
from random import Random
from typing import Self

CHUNK_BYTES = 64 * 1024
CRAWL_BYTES = 1024  # a second
SPOILED_AFTER_BYTES = 4096  # at most, of a connection that is reset or cut short
SHARE = 0.2  # of the connections or chunks that a mode spoils, so that work goes on
CORRUPT_SHARE = 0.05  # fewer: bytes that are damaged each time that they are read count as damaged in the store
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class Mode(StrEnum):
    """What a link does to its connections."""

    OPEN = "open"
    CUT = "cut"  # closes them and refuses new ones: a partition that both sides notice
    HANG = "hang"  # keeps bytes back until the mode ends: a partition that nobody notices
    CRAWL = "crawl"  # a kilobyte a second
    RESET = "reset"  # breaks some off with RST
    TRUNCATE = "truncate"  # ends some in the middle of an answer, as if it were complete
    CORRUPT = "corrupt"  # flips a bit of a body
    ERRORS = "errors"  # answers some requests with 503


class Link:
    """A listening port whose connections go to `target`. `spoiled` counts what each mode did to them."""

    def __init__(self, name: str, target: int, seed: str) -> None:
        self.name, self.target = name, target
        self.port = 0
        self.spoiled: Counter[Mode] = Counter()
        self._mode = Mode.OPEN
        self._chance = Random(f"{seed}/{name}")
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def switch(self, mode: Mode) -> None:
        """The mode from now on, also of the open connections."""
        self._mode = mode
        (self._flowing.clear if mode is Mode.HANG else self._flowing.set)()
        if mode is Mode.CUT:
            for writer in list(self._writers):
                self._break(writer)

    def close(self) -> None:
        """Stops listening, and breaks off what is open."""
        if self._server:
            self._server.close()
        for writer in list(self._writers):
            self._break(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._mode is Mode.CUT:
                self.spoiled[Mode.CUT] += 1
                return self._break(writer)
            if self._mode is Mode.ERRORS and self._strikes():
                return await _refuse(reader, writer)
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(back)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, back, answers=False))
                    group.create_task(self._pump(there, writer, answers=True))
            finally:
                self._writers.discard(back)
                back.close()
        except* OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        """Copies until the end or a disturbance; then both directions end."""
        while data := await source.read(CHUNK_BYTES):
            self.spoiled[Mode.HANG] += self._mode is Mode.HANG
            await self._flowing.wait()
            if self._mode is Mode.CRAWL:
                self.spoiled[self._mode] += 1
                for start in range(0, len(data), CRAWL_BYTES):
                    sink.write(data[start : start + CRAWL_BYTES])
                    await sink.drain()
                    if self._mode is Mode.CRAWL:
                        await asyncio.sleep(1)
                continue
            if self._mode in (Mode.RESET, Mode.TRUNCATE) and answers and self._strikes():
                sink.write(data[: self._chance.randrange(min(len(data), SPOILED_AFTER_BYTES))])
                if self._mode is Mode.RESET:
                    self._break(sink)
                raise ConnectionResetError
            if self._mode is Mode.CORRUPT and self._strikes(CORRUPT_SHARE):
                data = _flipped(data, self._chance)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError

    def _strikes(self, share: float = SHARE) -> bool:
        if self._chance.random() < share:
            self.spoiled[self._mode] += 1
            return True
        return False

    def _break(self, writer: asyncio.StreamWriter) -> None:
        if found := writer.get_extra_info("socket"):
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()


def _flipped(data: bytes, chance: Random) -> bytes:
    """The data with one bit of a blob flipped; unchanged if there is only a head in it, or a list."""
    if b"application/xml" in data or b"<?xml" in data:
        return data
    head = data.rfind(b"\r\n\r\n")
    start = head + 4 if head >= 0 else 0
    if start >= len(data):
        return data
    changed = bytearray(data)
    changed[chance.randrange(start, len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


class Network:
    """All links, on an event loop in a thread of its own: `with Network(seed) as network: network.link(...)`."""

    def __init__(self, seed: str) -> None:
        self.links: dict[str, Link] = {}
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def link(self, name: str, target: int) -> int:
        """A new link to the port; returns its own port."""

        async def made() -> Link:
            link = Link(name, target, self._seed)
            await link.open()
            return link

        self.links[name] = asyncio.run_coroutine_threadsafe(made(), self._loop).result(10)
        return self.links[name].port

    def switch(self, pattern: str, mode: Mode) -> int:
        """Sets the mode of every link whose name matches a pattern like `*/store`; returns how many."""
        found = [link for name, link in self.links.items() if fnmatchcase(name, pattern)]

        async def switched() -> None:
            for link in found:
                link.switch(mode)

        asyncio.run_coroutine_threadsafe(switched(), self._loop).result(10)
        return len(found)

    @property
    def spoiled(self) -> Counter[Mode]:
        """What was done to connections, by mode."""
        return sum((link.spoiled for link in self.links.values()), Counter[Mode]())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def closed() -> None:
            for link in self.links.values():
                link.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(closed(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
