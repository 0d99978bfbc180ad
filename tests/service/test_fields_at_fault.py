"""Refused requests name a field that the request has, so that a program can show the fault where it is."""

from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from grpc import StatusCode

from sightline.v1 import dataset_service_pb2, evaluation_service_pb2, model_service_pb2, prediction_service_pb2
from tests.service.test_trainer import world as trainer
from tests.support import fields
from tests.support.datasets import World, running
from tests.unit.predictor.serving import serving


async def check(stub: Any, service: ServiceDescriptor) -> None:
    """Every rpc that refuses an incomplete request names a field of it."""
    refused = 0
    for method, request in fields.incomplete(service):
        error = await fields.failure(stub, method, request)
        if error is None or error.code() is not StatusCode.INVALID_ARGUMENT:
            continue
        refused += 1
        (field,) = fields.named(error)
        assert fields.has(method.input_type, field), f"{method.name} has no {field}: {error.details()}"
        assert (error.details() or "").startswith(f"{field}: "), error.details()
    assert refused >= len(service.methods) / 2


async def test_the_dataset_service_names_fields_of_the_request() -> None:
    async with running(World()) as world:
        await check(world.stub, dataset_service_pb2.DESCRIPTOR.services_by_name["DatasetService"])


async def test_the_trainer_names_fields_of_the_request() -> None:
    async with trainer() as world:
        await check(world.models, model_service_pb2.DESCRIPTOR.services_by_name["ModelService"])
        await check(world.evaluations, evaluation_service_pb2.DESCRIPTOR.services_by_name["EvaluationService"])


async def test_the_predictor_names_fields_of_the_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await check(world.stub, prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"])
