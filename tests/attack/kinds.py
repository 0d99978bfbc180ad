"""The attacks on a dataset api, and how attacks are registered; those by frames of HTTP/2 are in
`tests.attack.frames`, those by files in `tests.attack.files`.

To add one, decorate a function with `attack`, or `attack_on` another service, in one of these modules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from sightline.v1 import dataset_service_pb2 as pb
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tests.support.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_WINDOW,
    RESET,
    Frames,
    call_headers,
    connection,
    frame,
    message,
)

HEALTH = "/grpc.health.v1.Health/Check"
LIST = "/sightline.v1.DatasetService/ListDatasets"
HELD = "datasets/held"  # a dataset whose Watch stays open
MODEL = "models/m"  # that the predictor has
ANOTHER_HOST = "127.0.0.2"
HOLD_SECONDS = 3.0  # of a connection; the server has ended most of its calls by then
PER_CONNECTION = 50  # calls


@dataclass(frozen=True, slots=True)
class Target:
    """What is attacked, and with how many calls at once."""

    address: str
    tokens: Mapping[str, str]  # by role
    calls: int = 1250
    begun: Callable[[], None] = lambda: None  # called when the first call is about to be made

    @property
    def huge(self) -> int:
        """Bytes of a request that no rpc takes; fewer in a short attack."""
        return 23_000_000 if self.calls > 1000 else 4_000_000

    @property
    def side(self) -> int:
        """Pixels of the side of an image that is just not refused; fewer in a short attack."""
        return 7_000 if self.calls > 1000 else 1_500


Attack: TypeAlias = Callable[[Target], Awaitable[None]]
KINDS: dict[str, Attack] = {}
SERVICE_OF: dict[str, str] = {}  # which is attacked: `dataset` or `predictor`


def attack_on(service: str) -> Callable[[Attack], Attack]:
    """Registers an attack under its function's name. It goes on until it is cancelled; its docstring describes it."""

    def register(kind: Attack) -> Attack:
        KINDS[kind.__name__], SERVICE_OF[kind.__name__] = kind, service
        return kind

    return register


attack = attack_on("dataset")


async def strike(kind: str, target: Target) -> None:
    """Attacks until cancelled."""
    if SERVICE_OF[kind] == "dataset":  # those on the predictor make their images first
        target.begun()
    await KINDS[kind](target)


@attack
async def half_open_health(target: Target) -> None:
    """Health checks whose request never comes, without a token."""
    await on_connections(target, lambda link: _open(link, target, HEALTH))


@attack
async def half_open_calls(target: Target) -> None:
    """A viewer's calls whose request never comes."""
    await on_connections(target, lambda link: _open(link, target, LIST, target.tokens["viewer"]))


@attack
async def oversized_health(target: Target) -> None:
    """Health checks of 23 MB, without a token."""
    await _sending(target, HEALTH, "", target.huge, 30)


@attack
async def oversized_names(target: Target) -> None:
    """A viewer's GetDataset with names of 23 MB, and of the largest size that is read."""
    token = target.tokens["viewer"]
    async with asyncio.TaskGroup() as group:
        for size in (target.huge, 1_000_000):
            group.create_task(_sending(target, "/sightline.v1.DatasetService/GetDataset", token, size, 15))


@attack
async def unauthenticated_uploads(target: Target) -> None:
    """Streams of 1 MiB messages without a token."""
    await _sending(target, "/sightline.v1.DatasetService/UploadFiles", "", 1 << 20, 60)


@attack
async def watches(target: Target) -> None:
    """A viewer's Watch streams, opened again when they end."""
    await _holding(target, target.tokens["viewer"])


@attack
async def health_watches(target: Target) -> None:
    """Health's Watch streams without a token."""
    await on_connections(target, lambda link: _open(link, target, "/grpc.health.v1.Health/Watch", data=message(b"")))


@attack
async def slow_uploads(target: Target) -> None:
    """A trainer's uploads of one byte every half a second."""
    path, token = "/sightline.v1.DatasetService/UploadFiles", target.tokens["trainer"]
    header = pb.UploadFilesRequest(header=pb.UploadFilesHeader(upload_id="slow")).SerializeToString()

    async def drip(link: Frames) -> None:
        await _open(link, target, path, token, message(header), end=False)
        while True:
            await asyncio.sleep(0.5)
            for stream in _streams(target):
                link.writer.write(frame(DATA, 0, b"\0", stream))
            await link.writer.drain()

    await on_connections(target, drip)


@attack
async def unread_answers(target: Target) -> None:
    """Health checks of another host whose answers its flow control keeps from being sent."""

    async def ask(link: Frames) -> None:
        await _open(link, target, HEALTH, data=message(b""))

    await on_connections(target, ask, settings=NO_WINDOW, source=ANOTHER_HOST)


@attack
async def rapid_reset(target: Target) -> None:
    """Calls that are cancelled as soon as their headers are sent."""

    async def reset(link: Frames) -> None:
        for stream in range(1, 1 << 30, 2):
            headers = call_headers(LIST, target.tokens["viewer"])
            link.writer.write(frame(HEADERS, END_HEADERS, headers, stream) + frame(RESET, 0, CANCEL, stream))
            if stream % 20 == 1:
                await link.writer.drain()
                await asyncio.sleep(0)

    await on_connections(target, reset, connections=4)


@attack
async def call_flood(target: Target) -> None:
    """A viewer's short calls, as many as it can make."""
    metadata = [("authorization", f"Bearer {target.tokens['viewer']}")]

    async def call(stub: Any) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError):
                await stub.ListDatasets(pb.ListDatasetsRequest(), metadata=metadata)

    async with channel_to(target) as channel, asyncio.TaskGroup() as group:
        for _ in range(PER_CONNECTION):
            group.create_task(call(DatasetServiceStub(channel)))


@attack
async def silent_connections(target: Target) -> None:
    """TCP connections that say nothing."""
    host, port = target.address.split(":")

    async def connect() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                with suppress(OSError):
                    await reader.read()
                writer.close()
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(500, target.calls)):
            group.create_task(connect())


def channel_to(target: Target) -> grpc.aio.Channel:
    """A connection of its own, without limits or retries."""
    options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(target.address, options=options)


def _streams(target: Target) -> range:
    return range(1, 2 * min(PER_CONNECTION, target.calls), 2)


async def _open(
    link: Frames, target: Target, path: str, token: str = "", data: bytes = b"", *, end: bool = True
) -> None:
    """As many calls as a connection has; with data, their request is sent too."""
    for stream in _streams(target):
        link.writer.write(frame(HEADERS, END_HEADERS, call_headers(path, token), stream))
        if data:
            link.writer.write(frame(DATA, END_STREAM if end else 0, data, stream))
        await link.writer.drain()


async def on_connections(
    target: Target,
    act: Callable[[Frames], Awaitable[None]],
    connections: int = 0,
    settings: bytes = b"",
    source: str = "",
) -> None:
    """Acts on as many connections as the calls need, one after the other; ends and opens each again after some time."""
    count = connections or -(-target.calls // PER_CONNECTION)

    async def keep(number: int) -> None:
        await asyncio.sleep(HOLD_SECONDS * number / count)
        while True:
            with suppress(OSError):
                async with connection(target.address, settings, source) as link:
                    reading = asyncio.create_task(link.discard())
                    acting = asyncio.ensure_future(act(link))
                    try:
                        await asyncio.wait({reading}, timeout=HOLD_SECONDS)
                    finally:
                        for task in (reading, acting):
                            task.cancel()
                        await asyncio.gather(reading, acting, return_exceptions=True)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(keep(number))


async def _sending(target: Target, path: str, token: str, size: int, calls: int) -> None:
    """Calls with requests of this size, again and again."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    data = bytes(size)

    async def send(channel: grpc.aio.Channel) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError):
                await channel.unary_unary(path)(data, metadata=metadata, timeout=30)

    async with channel_to(target) as channel, asyncio.TaskGroup() as group:
        for _ in range(min(calls, target.calls // 40)):
            group.create_task(send(channel))


async def _holding(target: Target, token: str) -> None:
    async def hold(channel: grpc.aio.Channel) -> None:
        metadata = [("authorization", f"Bearer {token}")]
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for _ in DatasetServiceStub(channel).WatchDataset(
                    pb.WatchDatasetRequest(name=HELD), metadata=metadata
                ):
                    pass
            await asyncio.sleep(0.2)

    channels = [channel_to(target) for _ in range(-(-target.calls // PER_CONNECTION))]
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(target.calls):
                group.create_task(hold(channels[number % len(channels)]))
    finally:
        for channel in channels:
            await channel.close()
