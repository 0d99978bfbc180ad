"""A real gRPC server in this process, whose handlers a test writes as plain functions."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from services.dataset.upload import REQUEST_BYTES
from services.infra.connections import STANDARD, Connections
from services.infra.observe import PrometheusTelemetry
from services.infra.server import Ready, Server, Service
from services.kit.settings import Settings
from services.kit.tracing import Tracer
from sightline.client.transport.channel import MAX_MESSAGE_BYTES
from sightline.v1 import dataset_pb2, dataset_service_pb2, prediction_pb2, prediction_service_pb2
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceServicer, add_DatasetServiceServicer_to_server
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceServicer, add_PredictionServiceServicer_to_server

Act = Callable[[Any, Any], Awaitable[object]]


async def succeed(_request: Any, _context: Any) -> None:
    """What a handler does by default before it answers: nothing."""


class Datasets(DatasetServiceServicer):
    """Three of the four types of rpc, and a deletion; each awaits `act` with its request, then answers."""

    def __init__(self, act: Act) -> None:
        self._act = act

    async def GetDataset(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        await self._act(request, context)
        return dataset_pb2.Dataset(name=request.name)

    async def DeleteDataset(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        await self._act(request, context)
        return Empty()

    async def WatchDataset(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the contract's name
        yield dataset_service_pb2.WatchDatasetResponse(dataset=dataset_pb2.Dataset(name=request.name))
        await self._act(request, context)
        yield dataset_service_pb2.WatchDatasetResponse(dataset=dataset_pb2.Dataset(name=request.name))

    async def UploadFiles(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        async for request in request_iterator:
            await self._act(request, context)
        return dataset_service_pb2.UploadFilesResponse()


class Predictions(PredictionServiceServicer):
    """The fourth type of rpc, and the one with large requests."""

    def __init__(self, act: Act) -> None:
        self._act = act

    async def AnalyzeImage(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        await self._act(request, context)
        return prediction_pb2.AnalyzeImageResponse(model_version=str(len(request.image)))

    async def AnalyzeImages(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the contract's name
        async for request in request_iterator:
            await self._act(request, context)
            yield prediction_service_pb2.AnalyzeImagesResponse(id=request.id)


@dataclass
class Serving:
    """A running server, and its metrics as a scrape sees them."""

    server: Server
    address: str
    telemetry: PrometheusTelemetry
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value; 0 if there is none."""
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(
    act: Act = succeed,
    ready: Ready | None = None,
    patience_seconds: float = 10.0,
    connections: Connections = STANDARD,
    image_bytes: int = MAX_MESSAGE_BYTES,
    name: str = "test",
    more: Sequence[Service] = (),
    tracer: Tracer | None = None,
    **settings: Any,
) -> AsyncGenerator[Serving]:
    """Both services, and more, on a free port; drained at the end, or when the test sets `stop`."""
    telemetry = PrometheusTelemetry("test", tracer)
    services = [
        *more,
        Service(
            dataset_service_pb2.DESCRIPTOR.services_by_name["DatasetService"],
            add_DatasetServiceServicer_to_server,
            Datasets(act),  # pyright: ignore[reportAbstractUsage] - the other rpcs are not called
            REQUEST_BYTES,
        ),
        Service(
            prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"],
            add_PredictionServiceServicer_to_server,
            Predictions(act),  # pyright: ignore[reportAbstractUsage] - likewise, the others are not called
            dict.fromkeys(("AnalyzeImage", "AnalyzeImages"), image_bytes),
        ),
    ]
    chosen: dict[str, Any] = {"port": 0, "drain_seconds": 0.0, "grace_seconds": 0.5, **settings}
    server = Server(name, Settings(**chosen), telemetry, services, ready, 0.01, patience_seconds, connections)
    port = await server.start()
    running = Serving(server, f"127.0.0.1:{port}", telemetry)
    task = asyncio.create_task(server.run_until(running.stop))
    try:
        yield running
    finally:
        running.stop.set()
        await task


def bare_channel(address: str) -> grpc.aio.Channel:
    """A plain gRPC channel: no retries, no interceptors, no limit of messages sent."""
    return grpc.aio.insecure_channel(
        address, options=[("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1)]
    )
