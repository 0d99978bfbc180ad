"""Connections to a real server: pings, age, new replicas, and the names of gRPC's options."""

from __future__ import annotations

import ast
import asyncio
import json
import mmap
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from services.infra.channel import open_channel
from services.infra.connections import STANDARD, Connections
from services.infra.limits import Limits
from services.kit.settings import Settings
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.channel import OPTIONS
from sightline.client.transport.credentials import Credentials
from sightline.client.uploads import LocalFile
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.http2 import connection
from tests.support.name_server import NameServer
from tests.support.runtime import serving

ROOT = Path(__file__).parents[2]
STORY = ROOT / "tests/e2e/node/story.js"  # the client in another language that docs/api.md shows
COMPOSE = ROOT / "deploy/compose.yaml"
PRODUCT = ("sightline", "services", "bench", "tests")
WATCH = dataset_service_pb2.WatchDatasetRequest(name="datasets/d")
GET = dataset_service_pb2.GetDatasetRequest(name="datasets/d")
LIMITS = Limits.of(Settings(), {})
SHORT = Connections(ping_seconds=0.2, age_seconds=0.1)


async def test_an_idle_caller_may_ping_at_the_limit_and_is_disconnected_with_a_reason_above_it():
    async with serving(connections=Connections(ping_seconds=0.1)) as running:
        async with connection(running.address) as caller:
            await caller.pings(8, pause_seconds=0.12)
        async with connection(running.address) as caller:
            with pytest.raises(ConnectionError, match="too_many_pings"):
                await caller.pings(8)


def test_the_limit_leaves_room_for_pings_at_the_documented_interval():
    promised = re.search(
        r"accept pings \(gRPC's keepalive\) every (\d+) s or less often", (ROOT / "docs/api.md").read_text()
    )
    assert promised
    assert STANDARD.ping_seconds <= int(promised[1]) / 2
    options = dict(STANDARD.options(LIMITS, 1000))
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == STANDARD.ping_seconds * 1000
    own = next(value for name, value in OPTIONS if name == "grpc.keepalive_time_ms")
    assert int(own) >= int(promised[1]) * 1000


async def test_our_channels_pings_are_accepted_while_a_stream_is_silent():
    """Once a second, the maximum for gRPC's clients, on a stream that sends nothing for five seconds."""
    options = [*((n, v) for n, v in OPTIONS if n != "grpc.keepalive_time_ms"), ("grpc.keepalive_time_ms", 300)]
    options.append(("grpc.http2.max_pings_without_data", 0))

    async def wait(_request: object, _context: object) -> None:
        await asyncio.sleep(5)

    async with (
        serving(wait, connections=Connections(ping_seconds=0.2)) as running,
        grpc.aio.insecure_channel(running.address, options=options) as channel,
    ):
        answers = [answer async for answer in DatasetServiceStub(channel).WatchDataset(WATCH)]
        assert len(answers) == 2


async def test_no_call_fails_when_connections_reach_their_maximum_age():
    """Unary calls, response streams and bidirectional ones, which last much longer than a connection may."""

    async def act(request: object, _context: object) -> None:
        await asyncio.sleep(1.5 if isinstance(request, dataset_service_pb2.WatchDatasetRequest) else 0.002)

    async with serving(act, connections=SHORT) as running, open_channel(running.address) as channel:
        datasets, predictions = DatasetServiceStub(channel), PredictionServiceStub(channel)
        until = time.monotonic() + 1.5

        async def ask() -> int:
            asked = 0
            while time.monotonic() < until:
                await datasets.GetDataset(GET)
                asked += 1
            return asked

        async def watch() -> int:
            return len([answer async for answer in datasets.WatchDataset(WATCH)])

        async def stream() -> int:
            async def requests():
                for number in range(30):
                    yield prediction_service_pb2.AnalyzeImagesRequest(id=str(number))
                    await asyncio.sleep(0.04)

            return len([answer async for answer in predictions.AnalyzeImages(requests())])

        asked, watched, streamed = await asyncio.gather(ask(), watch(), stream())
    assert asked > 50
    assert watched == 2
    assert streamed == 30


async def test_a_client_uploads_and_calls_while_connections_reach_their_maximum_age(tmp_path: Path):
    file = tmp_path / "a"
    file.write_bytes(bytes(20 << 20))

    async def act(_request: object, _context: object) -> None:
        await asyncio.sleep(0.02)

    async with serving(act, connections=SHORT) as running:

        def use() -> None:
            addresses = Addresses(running.address, running.address, running.address)
            with Stubs(addresses, Credentials()) as client:
                client.upload_files([LocalFile("a", file)])
                for _ in range(50):
                    client.datasets.GetDataset(GET)

        await asyncio.to_thread(use)
        name = {"grpc_service": "sightline.v1.DatasetService", "grpc_method": "UploadFiles"}
        assert running.metric("grpc_server_started_total", grpc_type="client_stream", **name) == 1  # not repeated


def test_a_connections_grace_is_longer_than_any_stream_and_fits_into_grpcs_integers():
    endless = Limits.of(Settings(max_stream_seconds=1e9), {})
    assert dict(STANDARD.options(LIMITS, 1000))["grpc.max_connection_age_grace_ms"] > 3_600_000
    assert dict(STANDARD.options(endless, 1000))["grpc.max_connection_age_grace_ms"] == 2**31 - 1
    assert 60 <= STANDARD.age_seconds <= 120


async def test_a_new_replica_gets_calls_once_connections_reach_their_maximum_age():
    async with serving(connections=SHORT) as first, NameServer() as names:
        port = int(first.address.rpartition(":")[2])
        names.addresses = ["127.0.0.1"]
        options = (*OPTIONS, ("grpc.dns_min_time_between_resolutions_ms", 1))
        target = f"dns://127.0.0.1:{names.port}/replicas.test:{port}"
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            await DatasetServiceStub(channel).GetDataset(GET)
            async with serving(connections=SHORT, host="127.0.0.2", port=port, insecure=True) as second:
                names.addresses = ["127.0.0.1", "127.0.0.2"]
                labels = {"grpc_service": "sightline.v1.DatasetService", "grpc_method": "GetDataset"}
                async with asyncio.timeout(20):
                    while not second.metric("grpc_server_started_total", grpc_type="unary", **labels):
                        await DatasetServiceStub(channel).GetDataset(GET)


@cache
def _core() -> mmap.mmap:
    with Path(cygrpc.__file__).open("rb") as library:
        return mmap.mmap(library.fileno(), 0, access=mmap.ACCESS_READ)


def _is_known(option: str) -> bool:
    """Whether gRPC's compiled core has the string: it silently ignores unknown options."""
    return _core().find(option.encode() + b"\0") >= 0


def _options_of(source: str) -> Iterator[str]:
    """The names in pairs `("grpc....", value)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[0], ast.Constant):
            name = node.elts[0].value
            if isinstance(name, str) and name.startswith("grpc."):
                yield name


def test_every_option_is_known_to_grpc():
    used = {
        name: str(file)
        for folder in PRODUCT
        for file in (ROOT / folder).rglob("*.py")
        if "v1" not in file.parts
        for name in _options_of(file.read_text())
    }
    for file in (STORY, COMPOSE):
        used |= dict.fromkeys(re.findall(r'"(grpc\.[\w.]+)"', file.read_text()), str(file))
    assert {"grpc.max_connection_age_ms", "grpc.keepalive_time_ms", "grpc.enable_http_proxy"} <= used.keys()
    assert {name: file for name, file in used.items() if not _is_known(name)} == {}
    assert {name for name, _ in (*OPTIONS, *STANDARD.options(LIMITS, 1))} <= used.keys()  # none is assembled elsewhere
    assert not _is_known("grpc.http2.min_recv_ping_interval_without_data_ms")
    assert json.loads(str(dict(OPTIONS)["grpc.service_config"]))["loadBalancingConfig"] == [{"round_robin": {}}]
