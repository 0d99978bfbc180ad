"""The predictor's client of the trainer's ModelService, over real gRPC."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.infra.channel import open_channel
from services.infra.server import Server, Service
from services.kit.errors import ModelNotFound, SightlineError, Unavailable
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from services.predictor import clients
from services.predictor.clients import TrainerModels
from services.predictor.domain import ModelInfo, ModelState
from sightline.v1 import model_pb2, model_service_pb2
from sightline.v1.model_service_pb2_grpc import ModelServiceStub, add_ModelServiceServicer_to_server

MODEL = model_pb2.Model(
    name="models/m",
    state=model_pb2.Model.TRAINING,
    training_parameters=model_pb2.TrainingParameters(model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER),
    model_version="t0.1",
    bundle_uri="s3://sightline/models/m/u1/trials/t0/1/",
)


class Trainer:
    """Responds to GetModel with the given model or error."""

    def __init__(self, answer: model_pb2.Model | SightlineError) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        return None  # no other rpc is called

    async def GetModel(  # noqa: N802 - the contract's name
        self, request: model_service_pb2.GetModelRequest, context: Any
    ) -> model_pb2.Model:
        if isinstance(self._answer, SightlineError):
            raise self._answer
        return self._answer


@asynccontextmanager
async def trainer(answer: model_pb2.Model | SightlineError) -> AsyncGenerator[TrainerModels]:
    settings = Settings(port=0, drain_seconds=0, grace_seconds=1)
    descriptor = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
    service = Service(descriptor, add_ModelServiceServicer_to_server, Trainer(answer))
    server = Server("trainer", settings, MemoryTelemetry(), [service])
    port = await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield TrainerModels(ModelServiceStub(channel))
    await server.drain()


async def test_a_model_has_its_state_version_and_uri():
    async with trainer(MODEL) as models:
        found = await models.get("models/m")
    uri = "s3://sightline/models/m/u1/trials/t0/1/"
    assert found == ModelInfo("models/m", ModelState.TRAINING, "t0.1", uri)


async def test_a_missing_model_is_not_found():
    async with trainer(ModelNotFound(name="models/m")) as models:
        with pytest.raises(ModelNotFound, match="models/m"):
            await models.get("models/m")


async def test_an_error_of_the_trainer_counts_as_unavailable():
    async with trainer(SightlineError(message="broken")) as models:
        with pytest.raises(Unavailable, match="broken"):
            await models.get("models/m")


async def test_an_unknown_state_of_a_newer_trainer_counts_as_unavailable():
    async with trainer(model_pb2.Model(name="models/m")) as models:
        with pytest.raises(Unavailable, match="STATE_UNSPECIFIED"):
            await models.get("models/m")


async def test_a_trainer_that_does_not_listen_is_unavailable_within_the_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clients, "TIMEOUT_SECONDS", 0.3)
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable):
            await TrainerModels(ModelServiceStub(channel)).get("models/m")
