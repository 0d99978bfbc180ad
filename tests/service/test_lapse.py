"""Streams whose token expires, or whose key is withdrawn, while they are open."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.infra import lapse
from services.infra.static_keys import StaticKeys
from services.kit.callers import Caller
from sightline.client import keys
from sightline.client.client_aio import AsyncClient
from sightline.client.errors import Unauthenticated
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.channel import describe
from sightline.client.transport.connection import bearer
from sightline.client.transport.credentials import Credentials
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.certificates import replace
from tests.support.runtime import bare_channel, serving
from tests.support.tokens import Issuer, publish, settings
from tests.support.waiting import eventually

GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
WATCH = dataset_service_pb2.WatchDatasetRequest(name="datasets/birds")
ISSUER = Issuer()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lapse, "CHECK_SECONDS", 0.02)


class Held:
    """A handler that says when it has a call, and keeps it until it is cancelled or the test lets go."""

    def __init__(self) -> None:
        self.begun, self.done = asyncio.Event(), asyncio.Event()

    async def __call__(self, _request: Any, _context: Any) -> None:
        self.begun.set()
        await self.done.wait()


async def forever(message: Any) -> Any:
    yield message
    await asyncio.Event().wait()


def stream(rpc: str, channel: grpc.aio.Channel, metadata: Any) -> Any:
    """An open call of the rpc."""
    datasets: Any = DatasetServiceStub(channel)
    predictions: Any = PredictionServiceStub(channel)
    if rpc == "WatchDataset":
        return datasets.WatchDataset(WATCH, metadata=metadata)
    if rpc == "UploadFiles":
        return datasets.UploadFiles(forever(dataset_service_pb2.UploadFilesRequest()), metadata=metadata)
    return predictions.AnalyzeImages(forever(prediction_service_pb2.AnalyzeImagesRequest()), metadata=metadata)


async def ended(call: Any) -> tuple[str, str]:
    """How the call ends: code and message."""
    try:
        async with asyncio.timeout(15):
            if hasattr(call, "__aiter__"):
                async for _ in call:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, describe(error).message
    return "OK", ""


@pytest.mark.parametrize("rpc", ["WatchDataset", "UploadFiles", "AnalyzeImages"])
async def test_a_stream_ends_when_its_key_is_removed_from_the_file(tmp_path: Path, rpc: str) -> None:
    key, line = keys.make("bob", "admin")
    _, other = keys.make("eve", "admin")
    file, held = replace(tmp_path / "keys", line.encode()), Held()
    async with serving(held, auth_keys=file) as running, bare_channel(running.address) as channel:
        call = stream(rpc, channel, [bearer(key)])
        waiting = asyncio.create_task(ended(call))
        await held.begun.wait()
        replace(file, other.encode())
        code, message = await waiting
    assert (code, "not among those" in message, rpc in message) == ("UNAUTHENTICATED", True, True)


async def test_a_stream_ends_when_its_key_loses_the_role(tmp_path: Path) -> None:
    key, line = keys.make("bob", "predictor")
    file, held = replace(tmp_path / "keys", line.encode()), Held()
    async with serving(held, auth_keys=file) as running, bare_channel(running.address) as channel:
        waiting = asyncio.create_task(ended(stream("AnalyzeImages", channel, [bearer(key)])))
        await held.begun.wait()
        replace(file, line.replace("predictor", "viewer").encode())
        assert (await waiting)[0] == "PERMISSION_DENIED"


async def test_a_stream_ends_when_its_token_expires(tmp_path: Path) -> None:
    jwks, held = publish(tmp_path / "jwks.json", ISSUER), Held()
    async with (
        serving(held, **settings(jwks, auth_leeway_seconds=0)) as running,
        bare_channel(running.address) as channel,
    ):
        token = ISSUER.token("viewer", exp=int(time.time()) + 2)
        code, message = await ended(stream("WatchDataset", channel, [bearer(token)]))
    assert (code, "expired" in message) == ("UNAUTHENTICATED", True)


async def test_a_stream_ends_when_the_issuer_withdraws_the_key_of_its_token(tmp_path: Path) -> None:
    jwks, held = publish(tmp_path / "jwks.json", ISSUER), Held()
    async with serving(held, **settings(jwks)) as running, bare_channel(running.address) as channel:
        waiting = asyncio.create_task(ended(stream("WatchDataset", channel, [bearer(ISSUER.token("viewer"))])))
        await held.begun.wait()
        publish(jwks, Issuer("second"))
        code, message = await waiting
    assert (code, "does not publish" in message) == ("UNAUTHENTICATED", True)


async def test_a_stream_whose_token_stays_valid_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, line = keys.make("bob", "viewer")
    file, held, asked = replace(tmp_path / "keys", line.encode()), Held(), [0]
    find = StaticKeys.caller

    def counted(self: StaticKeys, token: str) -> Caller | None:
        asked[0] += 1
        return find(self, token)

    monkeypatch.setattr(StaticKeys, "caller", counted)
    async with serving(held, auth_keys=file) as running, bare_channel(running.address) as channel:
        waiting = asyncio.create_task(ended(stream("WatchDataset", channel, [bearer(key)])))
        await held.begun.wait()
        await eventually(lambda: asked[0] > 5)
        held.done.set()
        assert await waiting == ("OK", "")
        after = asked[0]
        assert (await ended(DatasetServiceStub(channel).GetDataset(GET, metadata=[bearer(key)])))[0] == "OK"
        assert asked[0] == after + 1, "an ended stream is no longer checked"


async def test_the_client_reopens_a_stream_with_its_new_token_and_gives_up_without_one(tmp_path: Path) -> None:
    first, line = keys.make("bob", "viewer")
    second, other = keys.make("bob", "viewer")
    file, held = replace(tmp_path / "keys", line.encode()), Held()
    token = replace(tmp_path / "token", first.encode())

    async def watch(address: str) -> int:
        async with AsyncClient(Addresses(dataset=address), Credentials(token_file=str(token))) as client:
            return len([one async for one in client.datasets.watch("birds")])

    async with serving(held, auth_keys=file) as running:
        watching = asyncio.create_task(watch(running.address))
        await held.begun.wait()
        held.begun.clear()
        replace(token, second.encode())
        replace(file, other.encode())
        await held.begun.wait()
        held.done.set()
        assert await watching == 3, "one message of the first stream, two of the second"
        held.done.clear()
        held.begun.clear()
        watching = asyncio.create_task(watch(running.address))
        await held.begun.wait()
        replace(file, line.encode())
        with pytest.raises(Unauthenticated):
            await watching


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({}, "OK"),
        ({"exp": 4000}, "UNAUTHENTICATED"),
        ({"iat": None, "exp": 3000}, "OK"),
        ({"iat": None, "exp": 4000}, "UNAUTHENTICATED"),
        ({"iat": -4000}, "UNAUTHENTICATED"),
    ],
)
async def test_a_token_that_lives_too_long_is_refused(tmp_path: Path, claims: dict[str, Any], code: str) -> None:
    now = int(time.time())
    token = ISSUER.token("viewer", **{name: value if value is None else now + value for name, value in claims.items()})
    jwks, held = publish(tmp_path / "jwks.json", ISSUER), Held()
    held.done.set()
    async with (
        serving(held, **settings(jwks, auth_max_token_seconds=3600)) as running,
        bare_channel(running.address) as channel,
    ):
        got, message = await ended(stream("WatchDataset", channel, [bearer(token)]))
    assert got == code
    assert got == "OK" or "3600 s" in message
