"""What a real server takes of a call, from its headers to the last byte of its response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.infra.connections import Connections
from services.kit import errors
from services.kit.callers import current
from sightline.client import keys
from sightline.client.errors import MessageTooLarge, RequestTimedOut, SightlineError, Throttled
from sightline.client.grpc_errors import error_from, with_file
from sightline.client.transport.channel import status_of
from sightline.client.transport.connection import bearer
from sightline.v1 import dataset_service_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.http2 import DATA, END_HEADERS, HEADERS, NO_WINDOW, call_headers, connection, frame, message
from tests.support.logs import events
from tests.support.runtime import bare_channel, serving
from tests.support.servers import free_port
from tests.support.waiting import eventually

GET = dataset_service_pb2.GetDatasetRequest(name="datasets/birds")
PATH = "/sightline.v1.DatasetService/GetDataset"
LABELS = {"grpc_type": "unary", "grpc_service": "sightline.v1.DatasetService", "grpc_method": "GetDataset"}


async def failure(call: Any) -> SightlineError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from(status_of(caught.value))


async def silence() -> AsyncIterator[bytes]:
    """A request that never comes."""
    await asyncio.Event().wait()
    yield b""


def half_open(channel: grpc.aio.Channel, path: str = PATH) -> Any:
    return asyncio.ensure_future(channel.stream_unary(path)(silence()))


@pytest.fixture
def viewer(tmp_path: Path) -> str:
    """The key of a viewer, in the file `keys`."""
    key, line = keys.make("viewer", "viewer")
    keys.append(tmp_path / "keys", line)
    return key


async def test_a_call_whose_request_never_comes_is_counted_and_ended_and_logged(log_stream: Any) -> None:
    async with serving(request_seconds=0.3) as running, bare_channel(running.address) as channel:
        call = half_open(channel)
        await eventually(lambda: running.metric("grpc_server_started_total", **LABELS) == 1)
        error = await failure(call)
        assert isinstance(error, RequestTimedOut)
        assert "within 0.3 s" in error.message
        assert running.metric("sightline_server_refused_total", limit="time", whose="request") == 1
    assert [line["reason"] for line in events(log_stream, "call")] == ["RequestTimedOut"]


async def test_the_time_for_the_request_is_not_the_time_for_the_answer() -> None:
    async with (
        serving(lambda *_: asyncio.sleep(0.6), request_seconds=0.2) as running,
        bare_channel(running.address) as channel,
    ):
        assert (await DatasetServiceStub(channel).GetDataset(GET)).name == GET.name


async def test_a_call_without_a_request_is_the_callers_error() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    async with serving() as running, bare_channel(running.address) as channel:
        error = await failure(channel.stream_unary(PATH)(nothing()))
    assert (error.reason, error.message) == ("InvalidRequest", "request: the call has none.")


async def test_half_open_health_checks_keep_nobody_from_health() -> None:
    async with serving(max_open_calls=4) as running, bare_channel(running.address) as channel:
        calls = [half_open(channel, "/grpc.health.v1.Health/Check") for _ in range(20)]
        health: Any = HealthStub(channel)
        for _ in range(10):
            await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert running.metric("sightline_server_refused_total", limit="calls", whose="open") >= 18
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_a_stream_of_requests_ends_when_its_caller_pauses_for_too_long() -> None:
    async def requests() -> AsyncIterator[Any]:
        yield dataset_service_pb2.UploadFilesRequest(chunk=b"x")
        await asyncio.Event().wait()

    async with (
        serving(request_seconds=0.1, stream_idle_seconds=4.5) as running,
        bare_channel(running.address) as channel,
    ):
        error = await failure(DatasetServiceStub(channel).UploadFiles(requests()))
        assert isinstance(error, RequestTimedOut)
        assert "within 4.5 s" in error.message


@pytest.mark.parametrize("size", [70_000, 1_000_000])
async def test_a_request_larger_than_its_rpc_takes_is_refused_whatever_others_take(size: int) -> None:
    async with serving() as running, bare_channel(running.address) as channel:
        request = dataset_service_pb2.GetDatasetRequest(name="x" * size)
        error = await failure(DatasetServiceStub(channel).GetDataset(request))
        assert isinstance(error, MessageTooLarge)
        assert error.code == errors.Code.RESOURCE_EXHAUSTED
        assert not error.retryable
        assert len(error.message) < 200
        assert running.metric("sightline_server_refused_total", limit="size", whose="request") == 1
        await PredictionServiceStub(channel).AnalyzeImage(prediction_service_pb2.AnalyzeImageRequest(image=bytes(size)))


async def test_a_message_that_grpc_itself_refuses_is_the_same_error_to_our_client() -> None:
    async with serving(image_bytes=2 << 20) as running, bare_channel(running.address) as channel:
        request = prediction_service_pb2.AnalyzeImageRequest(image=bytes(3 << 20))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await PredictionServiceStub(channel).AnalyzeImage(request)
        error = error_from(with_file(status_of(caught.value), "cat.jpg"))
        assert isinstance(error, MessageTooLarge)
        assert error.message.startswith("cat.jpg: ")
        assert "scale it down" in error.fix
        await DatasetServiceStub(channel).GetDataset(GET)  # the connection still serves


async def test_a_caller_with_its_share_of_calls_is_throttled_and_another_is_not(viewer: str, tmp_path: Path) -> None:
    other, line = keys.make("other", "viewer")
    keys.append(tmp_path / "keys", line)

    async def act(_request: object, _context: object) -> None:
        caller = current.get()
        if caller and caller.subject == "viewer":
            await asyncio.Event().wait()

    async with (
        serving(act, auth_keys=tmp_path / "keys", max_calls=8) as running,
        bare_channel(running.address) as channel,
    ):
        stub = DatasetServiceStub(channel)
        calls = [asyncio.ensure_future(stub.GetDataset(GET, metadata=[bearer(viewer)])) for _ in range(3)]
        (done,), _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        error = await failure(done)
        assert isinstance(error, Throttled)
        assert error.retryable
        assert "SIGHTLINE_CALLER_SHARE" in error.message
        await stub.GetDataset(GET, metadata=[bearer(other)])
        assert running.metric("sightline_server_refused_total", limit="calls", whose="caller") == 1
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: running.metric("sightline_server_calls_in_flight", kind="unary") == 0)


async def test_a_response_that_its_caller_does_not_take_keeps_its_place() -> None:
    async with serving(max_calls=2) as running:
        async with connection(running.address, NO_WINDOW) as link:
            request = message(GET.SerializeToString())
            for stream in (1, 3):
                link.writer.write(frame(HEADERS, END_HEADERS, call_headers(PATH), stream))
                link.writer.write(frame(DATA, 1, request, stream))
            await eventually(lambda: running.metric("grpc_server_handled_total", **LABELS, grpc_code="OK") == 2)
            async with bare_channel(running.address) as channel:
                assert (await failure(DatasetServiceStub(channel).GetDataset(GET))).reason == "Overloaded"
        async with bare_channel(running.address) as channel:
            await eventually(lambda: running.metric("sightline_server_calls_in_flight", kind="unary") == 0)
            await DatasetServiceStub(channel).GetDataset(GET)


async def test_the_probe_port_takes_small_requests_and_ends_calls_whose_request_never_comes() -> None:
    port = free_port()
    async with serving(probe_port=port, request_seconds=0.2), bare_channel(f"127.0.0.1:{port}") as channel:
        health: Any = HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await health.Check(health_pb2.HealthCheckRequest(service="x" * 100_000))
        assert isinstance(await failure(half_open(channel, "/grpc.health.v1.Health/Check")), RequestTimedOut)


async def test_a_connection_that_says_nothing_and_one_without_calls_end() -> None:
    short = Connections(age_seconds=0.2, handshake_seconds=0.2)
    async with serving(connections=short) as running, asyncio.timeout(10):
        host, port = running.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await reader.read()
        writer.close()
        async with connection(running.address) as link:
            await link.discard()


async def test_connections_beyond_the_limit_are_closed() -> None:
    async with (
        serving(max_connections=2) as running,
        asyncio.timeout(10),
        connection(running.address) as first,
        connection(running.address) as second,
    ):
        await first.pings(1)
        await second.pings(1)
        async with connection(running.address) as third:
            await third.discard()
        await first.pings(1)


async def test_a_callers_text_in_an_error_is_bounded_in_message_metadata_and_record() -> None:
    error = errors.InvalidRequest(field="name", problem="x" * 1_000_000)
    assert len(error.message) < 5000
    assert len(error.failure().metadata["problem"]) == errors.MAX_VARIABLE
    assert error.metadata["problem"].endswith("…")
