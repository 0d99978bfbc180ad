"""S3 servers that accept connections and then say nothing, or too little: calls end, and free their threads."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.infra.s3 import S3Blobs, s3_client
from services.infra.threads import Threads
from services.kit.errors import Unavailable
from services.kit.settings import Settings
from tests.chaos.campaign.links import Mode, Network
from tests.support.s3 import S3Server

ANSWER_SECONDS = 0.3
GENEROUS_SECONDS = 20.0  # less than a patient client waits for a single answer
HEAD = 'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "e"\r\n\r\n'

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]  # to a request for the path


@asynccontextmanager
async def served(answer: Answer) -> AsyncGenerator[Settings]:
    """Settings for a server that answers one request of each connection like this, and keeps it open."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        await answer(head.split()[1].decode(), writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield unsigned(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def unsigned(endpoint: str) -> Settings:
    key = SecretStr("unused")
    return Settings(s3_endpoint=endpoint, s3_access_key=key, s3_secret_key=key, s3_secure=False)


def impatient(settings: Settings, threads: int = 16, seconds: float = ANSWER_SECONDS) -> S3Blobs:
    return S3Blobs(s3_client(settings), f"b-{uuid.uuid4().hex[:8]}", Threads(threads, "s3"), answer_seconds=seconds)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network("silence") as network:
        yield network


async def test_a_store_that_falls_silent_is_unavailable_until_it_speaks_again(
    s3_server: S3Server, network: Network, tmp_path: Path
) -> None:
    endpoint = f"127.0.0.1:{network.link('store', s3_server.port)}"
    blobs = impatient(s3_server.settings(s3_endpoint=endpoint), seconds=1.0)
    await blobs.ensure_bucket()
    await blobs.put("key", b"1")
    network.switch("store", Mode.HANG)
    calls = (
        *(blobs.get("key"), blobs.get_file("key", tmp_path / "out"), blobs.stat("key"), blobs.put("key", b"2")),
        *(blobs.delete("key"), blobs.ping(), anext(blobs.list(""))),
    )
    async with asyncio.timeout(GENEROUS_SECONDS):
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * len(calls)
    assert all("no answer within 1 s" in str(end) for end in ends), ends
    network.switch("store", Mode.OPEN)
    await blobs.put("other", b"3")  # not the same: a put that was given up may still arrive
    assert await blobs.get("other") == b"3"


async def test_a_call_that_waited_for_a_thread_asks_a_silent_store_no_more() -> None:
    asked: list[str] = []

    async def silence(path: str, _: asyncio.StreamWriter) -> None:
        asked.append(path)

    async with served(silence) as settings, asyncio.timeout(GENEROUS_SECONDS):
        blobs = impatient(settings, threads=2)
        ends = await asyncio.gather(*(blobs.get("key") for _ in range(40)), return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * 40
    assert len(asked) < 20  # the two that had a thread, and those that were asked while the machine was busy


async def test_a_body_that_stops_midway_is_unavailable() -> None:
    async def half(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write((HEAD % 1000).encode() + b"half")

    async with served(half) as settings, asyncio.timeout(GENEROUS_SECONDS):
        with pytest.raises(Unavailable):
            await impatient(settings).get("key")


async def test_a_file_may_take_longer_than_its_first_byte(tmp_path: Path) -> None:
    async def slow(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write((HEAD % 2).encode() + b"x")
        await writer.drain()
        await asyncio.sleep(1.5)
        writer.write(b"y")

    copy = tmp_path / "copy"
    async with served(slow) as settings:
        await impatient(settings, seconds=1.0).get_file("key", copy)
    assert copy.read_bytes() == b"xy"


async def test_a_call_that_is_cancelled_frees_its_thread_at_the_next_piece(tmp_path: Path) -> None:
    """As a call does whose caller's deadline is over."""
    begun = asyncio.Event()

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith("endless"):
            writer.write((HEAD % 10**9).encode())
            while not writer.is_closing():
                writer.write(b"x")
                begun.set()
                await asyncio.sleep(0.02)
        else:
            writer.write((HEAD % 4).encode() + b"here")

    async with served(answer) as settings, asyncio.timeout(GENEROUS_SECONDS):
        blobs = impatient(settings, threads=1, seconds=GENEROUS_SECONDS)
        call = asyncio.create_task(blobs.get_file("endless", tmp_path / "file"))
        await begun.wait()
        call.cancel()
        assert await blobs.get("key") == b"here"


async def test_a_body_may_be_taken_slowly() -> None:
    """More slowly, in all, than the store may be silent: each block counts for itself."""
    taken = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        while taken < 8 << 20:
            taken += len(await reader.read(1 << 20))
            await asyncio.sleep(0.05)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\n\r\n')

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(slow, sock=listening)
    settings = unsigned(f"127.0.0.1:{listening.getsockname()[1]}")
    await impatient(settings, seconds=2.0).put("key", bytes(8 << 20))
    assert taken == 8 << 20
    server.close()
