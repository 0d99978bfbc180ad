"""What a request over HTTP holds in memory, besides its body and with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.infra.admission import Admission, Place
from services.infra.http_body import Body
from services.infra.limits import Limits
from services.kit.errors import Overloaded
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry

MIB = 1024**2
LIMITS = Limits.of(Settings(max_bytes_in_flight=MIB), {})


def requested(admission: Admission, limits: Limits, content: bytes = b"") -> tuple[Place, Body]:
    """The place and the body of a new request."""

    async def receive() -> Any:
        return {"type": "http.request", "body": content}

    place = admission.enter(None, stream=False)
    headers = [(b"content-length", str(len(content)).encode())]
    scope: dict[str, Any] = {"method": "POST", "path": "/", "headers": headers}
    return place, Body(scope, receive, admission, place, limits, MemoryTelemetry())


async def test_what_a_request_gathers_waits_for_room_and_gives_it_back_when_it_ends():
    admission = Admission("gateway", LIMITS, MemoryTelemetry())
    (first, one), (second, other) = requested(admission, LIMITS), requested(admission, LIMITS)
    await one.hold(MIB - 1)
    waiting = asyncio.create_task(other.hold(2))
    await asyncio.sleep(0)
    assert (first.bytes, second.bytes) == (MIB - 1, 0)
    admission.leave(first)
    await waiting
    assert (first.bytes, second.bytes) == (0, 2)


async def test_a_body_counts_besides_what_its_request_gathers():
    admission = Admission("gateway", LIMITS, MemoryTelemetry())
    place, body = requested(admission, LIMITS, b"x" * 100)
    await body.hold(1000)
    assert await body.read(100) == b"x" * 100
    assert place.bytes == 1100
    await body.hold(10)
    assert place.bytes == 110


async def test_a_request_for_whose_answer_there_is_no_room_in_time_is_refused():
    impatient = replace(LIMITS, request_seconds=0.01)
    admission = Admission("gateway", impatient, MemoryTelemetry())
    (_, one), (second, other) = requested(admission, impatient), requested(admission, impatient)
    await one.hold(MIB)
    with pytest.raises(Overloaded, match="bytes in flight"):
        await other.hold(1)
    assert second.bytes == 0
