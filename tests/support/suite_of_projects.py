"""The apis of all three services in this process, with tokens, calling one another over gRPC; workers step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from msgspec import structs

from services.infra.channel import open_channel
from services.infra.server import Server, Service
from services.kit.accounts import Accounts
from services.kit.clock import SystemClock
from services.kit.collection import Collection
from services.kit.errors import BatchPredictionNotFound
from services.kit.holds import Holds
from services.kit.memory import MemoryQueue
from services.kit.quotas import UNLIMITED, Limits
from services.kit.records import Table
from services.kit.telemetry import MemoryTelemetry
from services.predictor import replica
from services.predictor import worker as predictor_worker
from services.predictor.app import Predictor
from services.predictor.batch.app import BatchPredictions
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import COLLECTION as BATCHES
from services.predictor.batch.domain import BatchRecord
from services.predictor.batch.holds import Holding, HoldKeeper
from services.predictor.batch.quotas import Quotas as BatchQuotas
from services.predictor.batch.removal import Remover
from services.predictor.batch.service import Batches
from services.predictor.batching import Passes
from services.predictor.clients import DatasetsClient, TrainerModels
from services.predictor.domain import ModelInfo, ModelState
from services.predictor.inference_rpc import InferenceServicer
from services.predictor.lookup import ModelLookup
from services.predictor.rpc import PredictionServicer
from services.predictor.settings import PredictorSettings
from services.trainer.alias_rpc import ModelAliasServicer
from services.trainer.aliases import Aliases
from services.trainer.app import Models
from services.trainer.clients import GrpcDatasets
from services.trainer.estimates import Estimates
from services.trainer.evaluations import Evaluations
from services.trainer.exports import Exports
from services.trainer.projects import Projects
from services.trainer.quotas import Quotas
from services.trainer.reconcile.coordinator import Coordinator
from services.trainer.reconcile.counts import Counts
from services.trainer.rpc import EvaluationServicer, ModelServicer, ProjectServicer
from services.trainer.settings import TrainerSettings
from services.trainer.store import Store
from services.trainer.waiting import Waits
from services.vision import bundle
from services.vision.sealing import seal
from sightline.client import keys
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.connection import PROJECT, bearer
from sightline.client.transport.credentials import Credentials
from sightline.inference import open_inference_pb2
from sightline.inference import open_inference_pb2_grpc as inference_grpc
from sightline.v1 import (
    batch_prediction_pb2,
    dataset_pb2,
    dataset_service_pb2,
    evaluation_pb2,
    evaluation_service_pb2,
    model_alias_service_pb2,
    model_pb2,
    model_service_pb2,
    prediction_service_pb2,
    project_service_pb2,
)
from sightline.v1 import dataset_service_pb2_grpc as dataset_grpc
from sightline.v1 import evaluation_service_pb2_grpc as evaluation_grpc
from sightline.v1 import model_alias_service_pb2_grpc as alias_grpc
from sightline.v1 import model_service_pb2_grpc as model_grpc
from sightline.v1 import prediction_service_pb2_grpc as prediction_grpc
from sightline.v1 import project_service_pb2_grpc as project_grpc
from tests.support import datasets
from tests.unit.predictor.support import put_bundle
from tests.unit.trainer.support import QuickWorker, running

SERVICES: tuple[tuple[Any, Any], ...] = (
    (dataset_service_pb2.DESCRIPTOR.services_by_name["DatasetService"], dataset_grpc),
    (model_service_pb2.DESCRIPTOR.services_by_name["ModelService"], model_grpc),
    (model_alias_service_pb2.DESCRIPTOR.services_by_name["ModelAliasService"], alias_grpc),
    (evaluation_service_pb2.DESCRIPTOR.services_by_name["EvaluationService"], evaluation_grpc),
    (project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"], project_grpc),
    (prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"], prediction_grpc),
)
INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
RPCS: dict[str, Any] = {rpc.name: rpc for service, _ in SERVICES for rpc in service.methods}


async def never() -> None:
    """No trainer runs."""
    raise AssertionError("the suite is not running")


class Suite:
    """The running suite. Each call names its project and the key of its caller."""

    def __init__(self, folder: Path, **ports: Any) -> None:
        self.folder = folder
        self.world = datasets.World(**ports)
        self.blobs: Any = self.world.blobs
        self.keys_file = folder / "keys"
        self.tokens: dict[str, str] = {}
        self.store: Store  # the trainer's, once it runs
        self.step: Callable[[], Any] = never  # of the trainer's coordinator and worker
        self.worker: QuickWorker  # the trainer's
        self.addresses: Addresses
        self.channels: dict[str, grpc.aio.Channel] = {}
        self.addresses: Addresses  # once the suite runs
        self.limits: dict[str, Limits] = {}  # by project
        self.batch_queue = MemoryQueue()
        self.models: TrainerModels  # once the suite runs
        self.keeper: HoldKeeper  # of the holds of batch predictions
        self.batch_quotas: BatchQuotas
        self.remover: Remover  # of batch predictions
        self.predictor: Predictor
        self.trainer_telemetry = MemoryTelemetry()

    def limits_of(self, project: str) -> Limits:
        return self.limits.get(project, UNLIMITED)

    def key(self, name: str, role: str, *projects: str) -> str:
        """A new key that the services know from now on."""
        self.tokens[name], line = keys.make(name, role, projects)
        keys.append(self.keys_file, line)
        return self.tokens[name]

    async def call(self, rpc: str, request: Any, key: str, project: str = "", seconds: float = 20) -> Any:
        """The answer to the call within so many seconds, or all messages of a stream that ends."""
        described = RPCS[rpc]
        service = described.containing_service.name
        stub = getattr({s.name: module for s, module in SERVICES}[service], f"{service}Stub")
        method = getattr(stub(self.channels[service]), rpc)
        metadata = (bearer(self.tokens[key]), *([(PROJECT, project)] if project else []))
        sent = [request] if described.client_streaming and not isinstance(request, list) else request
        call = method(iter(sent) if described.client_streaming else sent, metadata=metadata, timeout=seconds)
        return [one async for one in call] if described.server_streaming else await call

    async def register(self, name: str, key: str, *, work: bool = True) -> dataset_pb2.Dataset:
        """A READY dataset of twenty images; without `work` it waits for validation."""
        described, files = datasets.tagged(20)
        uploaded = await self.upload(name, {"train.json": described, **files}, key)
        uri = next(file.uri for file in uploaded.files if file.path == "train.json")
        await self.call("CreateDataset", self.world.request(name, uris=(uri,)), key)
        if work:
            await self.world.work()
        request = dataset_service_pb2.GetDatasetRequest(name=f"datasets/{name}")
        return await self.call("GetDataset", request, key)

    async def upload(self, id_: str, files: dict[str, bytes], key: str, project: str = "") -> Any:
        """The answer of UploadFiles."""
        return await self.call("UploadFiles", datasets.upload_messages(id_, files), key, project)

    async def train(self, name: str, dataset: str, key: str) -> model_pb2.Model:
        """A model that can predict, and its evaluation `e`."""
        parameters = model_pb2.TrainingParameters(
            training_dataset=dataset, model_kind=model_pb2.TrainingParameters.GENERIC_CLASSIFIER
        )
        parameters.time_budget.FromSeconds(600)
        model = model_pb2.Model(training_parameters=parameters)
        await self.call("CreateModel", model_service_pb2.CreateModelRequest(model=model, model_id=name), key)
        found = await self._ended("GetModel", model_service_pb2.GetModelRequest(name=f"models/{name}"), key)
        info = ModelInfo(name, ModelState.SUCCEEDED, found.model_version, found.bundle_uri)
        folder = self.folder / f"{key}-{name}"
        await put_bundle(self.blobs, folder, info)
        await self._record_digest(found.bundle_uri, seal(folder))
        evaluation = evaluation_pb2.Evaluation(test_dataset=dataset)
        request = evaluation_service_pb2.CreateEvaluationRequest(
            parent=f"models/{name}", evaluation=evaluation, evaluation_id="e"
        )
        await self.call("CreateEvaluation", request, key)
        request = evaluation_service_pb2.GetEvaluationRequest(name=f"models/{name}/evaluations/e")
        await self._ended("GetEvaluation", request, key)
        return found

    async def predict_all(self, name: str, dataset: str, model: str, key: str) -> batch_prediction_pb2.BatchPrediction:
        """A batch prediction that a worker has ended."""
        await self.begin_batch(name, dataset, model, key)
        await self.work_batches()
        get = prediction_service_pb2.GetBatchPredictionRequest(name=f"batchPredictions/{name}")
        return await self.call("GetBatchPrediction", get, key)

    async def begin_batch(self, name: str, dataset: str, model: str, key: str) -> None:
        """A batch prediction that waits for a worker."""
        new = batch_prediction_pb2.BatchPrediction(model_name=model, dataset_name=dataset)
        request = prediction_service_pb2.CreateBatchPredictionRequest(batch_prediction=new, batch_prediction_id=name)
        await self.call("CreateBatchPrediction", request, key)

    async def work_batches(self) -> None:
        """A worker does all that is due for batch predictions, and the keeper looks at their holds."""
        context = WorkerContext(
            table=Table(self.world.records, BatchRecord),
            blobs=self.blobs,
            queue=self.batch_queue,
            models=self.models,
            predictor=self._use_predictor,
            clock=SystemClock(),
            telemetry=MemoryTelemetry(),
            settings=PredictorSettings(),
            holder="w1",
        )
        while deliveries := [
            (job, found)
            for job in predictor_worker.job_handlers(context)
            if (found := await self.batch_queue.fetch(job.kind, timedelta(0)))
        ]:
            for job, delivery in deliveries:
                await job.handle(delivery.body)
                await delivery.ack()
        await asyncio.sleep(0.01)
        await self.keeper.reconcile()
        await self.remover.reconcile()

    @asynccontextmanager
    async def _use_predictor(self) -> AsyncGenerator[Predictor]:
        yield self.predictor

    async def _record_digest(self, bundle_uri: str, digest: str) -> None:
        """The record of the model with this bundle gets the digest of what was put there."""
        for model in self.store.models.view.all():
            served = model.value.served
            if served and bundle_uri.endswith(served.bundle_key):
                changed = replace(served, bundle_digest=digest)
                await self.store.models.change(model.value.name, lambda now, s=changed: structs.replace(now, served=s))

    async def _ended(self, rpc: str, request: Any, key: str) -> Any:
        found: Any = None
        for _ in range(60):
            await self.step()
            found = await self.call(rpc, request, key)
            if found.DESCRIPTOR.enum_types_by_name["State"].values_by_number[found.state].name == "SUCCEEDED":
                return found
        raise AssertionError(f"it never ended: {found}")


@asynccontextmanager
async def suite(folder: Path, **ports: Any) -> AsyncGenerator[Suite]:
    """The suite, serving; with these blobs or records, if any are given."""
    made = Suite(folder, **ports)
    services = Credentials(token=made.key("services", "viewer", "*"))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(datasets.running(made.world, auth_keys=made.keys_file))
        made.channels["DatasetService"] = await stack.enter_async_context(plain(made.world.address))
        trainer = await stack.enter_async_context(_trainer(made, services))
        for service in ("ModelService", "ModelAliasService", "EvaluationService", "ProjectService"):
            made.channels[service] = await stack.enter_async_context(plain(trainer))
        batches = await stack.enter_async_context(_batches(made, trainer, services))
        predictor = await stack.enter_async_context(_predictor(made, trainer, services, batches))
        for service in ("PredictionService", "GRPCInferenceService"):
            made.channels[service] = await stack.enter_async_context(plain(predictor))
        made.addresses = Addresses(made.world.address, trainer, predictor)
        yield made


def plain(address: str) -> grpc.aio.Channel:
    """A channel without retries."""
    return grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)])


@asynccontextmanager
async def _trainer(made: Suite, services: Credentials) -> AsyncGenerator[str]:
    records, clock, queue, telemetry = made.world.records, SystemClock(), MemoryQueue(), made.trainer_telemetry
    async with running(records) as store, open_channel(made.world.address, credentials=services) as channel:
        made.store = store
        known = GrpcDatasets(dataset_grpc.DatasetServiceStub(channel), made.blobs.bucket)
        counts = Counts(store, clock, telemetry)
        coordinator = Coordinator(store, known, made.blobs, queue, clock, telemetry)
        worker = QuickWorker(records, made.blobs, queue, clock)

        async def step() -> None:
            await coordinator.reconcile()
            await worker.work_off()
            await asyncio.sleep(0.01)

        made.step, made.worker = step, worker
        quotas = Quotas(store, made.limits_of, clock)
        models = Models(store, known, made.blobs, clock, counts, quotas)
        estimates, waits = Estimates(store, known, made.blobs, clock, telemetry), Waits(store, queue, known, clock)
        exports = Exports(store, made.blobs, waits, clock, telemetry)
        servicers = (
            ModelServicer(models, estimates, exports, store, waits, made.blobs.bucket, clock),
            ModelAliasServicer(Aliases(store, clock)),
            EvaluationServicer(Evaluations(store, known, made.blobs, clock, counts, quotas), store),
            ProjectServicer(Projects(store, made.limits_of, clock), clock),
        )
        settings = TrainerSettings(port=0, drain_seconds=0.0, grace_seconds=0.5, auth_keys=made.keys_file)
        parts = [
            Service(SERVICES[1][0], model_grpc.add_ModelServiceServicer_to_server, servicers[0]),
            Service(SERVICES[2][0], alias_grpc.add_ModelAliasServiceServicer_to_server, servicers[1]),
            Service(SERVICES[3][0], evaluation_grpc.add_EvaluationServiceServicer_to_server, servicers[2]),
            Service(SERVICES[4][0], project_grpc.add_ProjectServiceServicer_to_server, servicers[3]),
        ]
        server = Server("trainer", settings, telemetry, parts)
        try:
            yield f"127.0.0.1:{await server.start()}"
        finally:
            await server.drain()


@asynccontextmanager
async def _batches(made: Suite, trainer: str, services: Credentials) -> AsyncGenerator[Batches]:
    """Batch predictions, available, with the services' own channels."""
    clock, settings, batches = SystemClock(), PredictorSettings(), Batches()
    collection = Collection(made.world.records, BatchRecord, BatchPredictionNotFound, BATCHES)
    accounts = Accounts(made.world.records, "predictor", {BATCHES: collection.view}, ("trainer",))
    quotas = BatchQuotas(collection, accounts, made.limits_of, clock)
    holds = Holds(made.world.records)
    tasks = [asyncio.create_task(view.run()) for view in (collection.view, accounts.view, holds.view)]
    async with (
        open_channel(trainer, credentials=services) as models,
        open_channel(made.world.address, credentials=services) as channel,
    ):
        made.models = TrainerModels(model_grpc.ModelServiceStub(models))
        lookup = ModelLookup(made.models, clock, 0, on_gone=lambda _: None)
        known = DatasetsClient(dataset_grpc.DatasetServiceStub(channel), made.blobs.bucket)
        holding = Holding(holds, known, clock)
        present = BatchPredictions(
            collection, made.blobs, made.batch_queue, lookup, known, holding, quotas, clock, settings
        )
        made.batch_quotas = quotas
        made.remover = Remover(collection, quotas, made.batch_queue, clock, None)
        made.keeper = HoldKeeper(collection, holding, clock)
        with batches.available(present):
            yield batches
    for task in tasks:
        task.cancel()


@asynccontextmanager
async def _predictor(made: Suite, trainer: str, services: Credentials, batches: Batches) -> AsyncGenerator[str]:
    clock, telemetry = SystemClock(), MemoryTelemetry()
    settings = PredictorSettings(port=0, drain_seconds=0.0, grace_seconds=0.5, auth_keys=made.keys_file)
    async with open_channel(trainer, credentials=services) as channel:
        models = TrainerModels(model_grpc.ModelServiceStub(channel))
        cache = made.folder / "cache"
        async with replica.running(
            settings, cache, models, made.blobs, bundle.load, Passes(), clock, telemetry
        ) as predictor:
            servicer = PredictionServicer(predictor, clock, batches)
            made.predictor = predictor
            add = prediction_grpc.add_PredictionServiceServicer_to_server
            inference = InferenceServicer(predictor, clock)
            parts = [
                Service(SERVICES[5][0], add, servicer, settings.request_bytes),
                Service(
                    INFERENCE,
                    inference_grpc.add_GRPCInferenceServiceServicer_to_server,
                    inference,
                    settings.request_bytes,
                ),
            ]
            server = Server("predictor", settings, telemetry, parts)
            try:
                yield f"127.0.0.1:{await server.start()}"
            finally:
                await server.drain()
