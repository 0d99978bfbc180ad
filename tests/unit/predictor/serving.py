"""A predictor that serves real gRPC in this process, with doubles of its ports."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from services.infra.channel import open_channel
from services.infra.server import Server, Service
from services.kit.clock import SystemClock
from services.kit.memory import MemoryBlobs
from services.kit.telemetry import MemoryTelemetry
from services.predictor import metrics, replica
from services.predictor.app import Predictor
from services.predictor.batch.service import OFF, Batches
from services.predictor.batching import Passes
from services.predictor.domain import Loader
from services.predictor.inference_rpc import InferenceServicer
from services.predictor.rpc import PredictionServicer
from services.predictor.settings import PredictorSettings
from services.vision import bundle as bundles
from services.vision.classifier import Classifier
from services.vision.detector import Detector
from services.vision.inputs import Views
from sightline.inference import open_inference_pb2 as inference_pb
from sightline.inference.open_inference_pb2_grpc import (
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)
from sightline.v1 import prediction_pb2
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub, add_PredictionServiceServicer_to_server
from tests.support.waiting import eventually
from tests.unit.predictor.support import (
    FakeClassifier,
    FakeModels,
    card,
    file_of,
    info,
    make_image,
    put_bundle,
    put_files,
)

INFERENCE = inference_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
DESCRIPTOR = pb.DESCRIPTOR.services_by_name["PredictionService"]
IMAGE = file_of(make_image())


class Fixed(FakeClassifier):
    """Returns the same output for every image."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.card = card()
        self._probabilities = probabilities

    def predict_prepared(self, images: Sequence[Views]) -> NDArray[np.float32]:
        return np.array([self._probabilities] * len(images), np.float32)


class Running:
    """A serving predictor, its doubles and a client."""

    def __init__(self, predictor: Predictor, models: FakeModels, blobs: MemoryBlobs, folder: Path) -> None:
        self.predictor, self.models, self.blobs, self.folder = predictor, models, blobs, folder
        self.telemetry = MemoryTelemetry()
        self.address = ""
        self.stub: Any = None
        self.inference: Any = None

    async def analyze(self, image: bytes = IMAGE, **fields: Any) -> prediction_pb2.AnalyzeImageResponse:
        source: dict[str, Any] = {} if "uri" in fields else {"image": image}
        values: dict[str, Any] = {"model_name": "models/m", **source, **fields}
        request = pb.AnalyzeImageRequest(**values)
        return await self.stub.AnalyzeImage(request, timeout=20)

    async def loaded(self) -> list[prediction_pb2.LoadedModel]:
        return list((await self.stub.ListLoadedModels(pb.ListLoadedModelsRequest())).loaded_models)

    @asynccontextmanager
    async def thread_held_up(self) -> AsyncGenerator[asyncio.Task[prediction_pb2.AnalyzeImageResponse]]:
        """Within the block, the thread is in the pass of a single image, whose answer is given."""
        await self.predictor.load_model("models/m")
        (entry,) = self.predictor._cache._entries.values()
        entered, gate, predict = threading.Event(), threading.Event(), entry.runner.predict_prepared

        def held(images: Sequence[Any]) -> Any:
            entered.set()
            assert gate.wait(10)
            return predict(images)

        with patch.object(entry.runner, "predict_prepared", held):
            first = asyncio.create_task(self.analyze())
            try:
                assert await asyncio.to_thread(entered.wait, 10)
                yield first
            finally:
                gate.set()

    async def waiting(self, images: int) -> None:
        """Returns once `images` images are waiting for a forward pass."""
        await eventually(lambda: self.telemetry.value(metrics.QUEUE_LENGTH) >= images)


@asynccontextmanager
async def serving(
    tmp_path: Path,
    loader: Loader = bundles.load,
    network: Classifier | Detector | None = None,
    batches: Batches = OFF,
    **changes: Any,
) -> AsyncGenerator[Running]:
    """A replica whose trainer knows `models/m`: the given network, or a tiny random classifier."""
    values: dict[str, Any] = {"port": 0, "drain_seconds": 0.0, "grace_seconds": 1.0, "model_fresh_seconds": 0.0}
    settings = PredictorSettings(**{**values, **changes})
    models, blobs, clock, telemetry = FakeModels(info()), MemoryBlobs(), SystemClock(), MemoryTelemetry()
    if network:
        await put_files(blobs, tmp_path / "m", info(), network)
    else:
        await put_bundle(blobs, tmp_path / "m", info())
    folder = tmp_path / "cache"
    async with replica.running(
        settings, folder, models, blobs, loader, Passes(1, settings.max_batch), clock, telemetry
    ) as predictor:
        running = Running(predictor, models, blobs, folder)
        running.telemetry = telemetry
        servicer = PredictionServicer(predictor, clock, batches)
        inference = InferenceServicer(predictor, clock)
        checks = {"AnalyzeImage": predictor.check, "ModelInfer": predictor.check}
        services = [
            Service(DESCRIPTOR, add_PredictionServiceServicer_to_server, servicer, settings.request_bytes, checks),
            Service(INFERENCE, add_GRPCInferenceServiceServicer_to_server, inference, settings.request_bytes, checks),
        ]
        server = Server("predictor", settings, telemetry, services)
        running.address = f"127.0.0.1:{await server.start()}"
        try:
            async with open_channel(running.address) as channel:
                running.stub, running.inference = PredictionServiceStub(channel), GRPCInferenceServiceStub(channel)
                yield running
        finally:
            await server.drain()


def confidences(response: prediction_pb2.AnalyzeImageResponse) -> dict[str, float]:
    return {tag.name: tag.confidence for tag in response.custom_model_result.tags_result.values}
