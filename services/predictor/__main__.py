"""Runs a predictor process: `python -m services.predictor [api|worker]`, or prints its settings with `--settings`."""

import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path

from services.infra import observe, processes, tls
from services.infra.broker import open_broker
from services.infra.channel import open_channel
from services.infra.jetstream import ANSWER_SECONDS, PATIENT_SECONDS
from services.infra.quota_file import limits_of
from services.infra.server import Server, Service
from services.infra.store import open_blobs
from services.kit.accounts import Accounts
from services.kit.blobs import Blobs
from services.kit.clock import SystemClock
from services.kit.collection import Collection
from services.kit.errors import BatchPredictionNotFound, Unavailable
from services.kit.folders import try_writing
from services.kit.holds import Holds
from services.kit.log import Log
from services.kit.records import Table
from services.kit.settings import load, refuse_exposure
from services.kit.tasks import alongside
from services.kit.telemetry import Telemetry
from services.predictor import replica, worker
from services.predictor.app import Predictor
from services.predictor.batch import metrics
from services.predictor.batch.app import BatchPredictions
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.domain import COLLECTION, BatchRecord
from services.predictor.batch.holds import Holding, HoldKeeper
from services.predictor.batch.lazy import LazyPredictor
from services.predictor.batch.quotas import SERVICE, TRAINER, Quotas
from services.predictor.batch.reconcile import Reconciler
from services.predictor.batch.removal import Remover
from services.predictor.batch.service import Batches
from services.predictor.clients import DatasetsClient, TrainerModels
from services.predictor.inference_rpc import InferenceServicer
from services.predictor.lookup import ModelLookup
from services.predictor.preload import Preload
from services.predictor.rpc import PredictionServicer
from services.predictor.settings import PredictorSettings, refuse_missing_engine
from services.vision.device import choose
from sightline.inference import open_inference_pb2 as inference_pb
from sightline.inference.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.model_service_pb2_grpc import ModelServiceStub
from sightline.v1.prediction_service_pb2_grpc import add_PredictionServiceServicer_to_server

INFERENCE = inference_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
DESCRIPTOR = pb.DESCRIPTOR.services_by_name["PredictionService"]
RECONNECT_SECONDS = 2.0

_log = Log("services.predictor")  # as a program its name is `__main__`, whose lines are not logged


class Role(StrEnum):
    """What the process does."""

    API = "api"
    WORKER = "worker"


def main() -> None:
    """Runs until SIGTERM or SIGINT, then finishes what is in flight."""
    settings = load(PredictorSettings)
    if "--settings" in sys.argv[1:]:
        sys.stdout.write(settings.masked() + "\n")
        return
    if len(sys.argv) > 2 or sys.argv[1:] not in ([], *([role] for role in Role)):
        raise SystemExit(f"usage: python -m services.predictor [{'|'.join(Role)}] | --settings")
    role = Role(sys.argv[1]) if sys.argv[1:] else Role.API
    if role is Role.API:
        refuse_exposure(settings)
    refuse_missing_engine(settings)
    observe.configure_logging("predictor" if role is Role.API else "predictor-worker", settings.log_level)
    processes.run(lambda stop: (serve if role is Role.API else work)(settings, stop))


async def serve(settings: PredictorSettings, stop: asyncio.Event) -> None:
    """Runs the replica and its server, ready as soon as it listens: loaded models need neither store nor trainer."""
    choose(settings.device)  # a device that is missing ends the process, whatever else is missing
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(observe.measured("predictor", settings, metrics.API))
        models, blobs = await _trainer(settings, stack), await open_blobs(settings, telemetry, ANSWER_SECONDS)
        predictor = await stack.enter_async_context(_replica(Role.API, settings, stack, models, blobs, telemetry)())
        batches = Batches(enabled=settings.batch_predictions)
        servicer = PredictionServicer(predictor, clock, batches)
        checks = {"AnalyzeImage": predictor.check, "ModelInfer": predictor.check}
        service = Service(DESCRIPTOR, add_PredictionServiceServicer_to_server, servicer, settings.request_bytes, checks)
        preload = Preload(predictor, settings.preloaded, clock)
        inference = InferenceServicer(predictor, clock, preload.ready)
        served = [
            service,
            Service(INFERENCE, add_GRPCInferenceServiceServicer_to_server, inference, settings.request_bytes, checks),
        ]
        server = Server("predictor", settings, telemetry, served, preload.ready, ready_every_seconds=0.5)
        background = {"preload": preload.run()}
        if settings.batch_predictions:
            datasets = await stack.enter_async_context(
                open_channel(settings.dataset_address, credentials=tls.caller(settings))
            )
            reader = DatasetsClient(DatasetServiceStub(datasets), blobs.bucket)
            background["batches"] = _keep_available(batches, settings, models, blobs, reader, telemetry)
        async with alongside(**background):
            await server.start()
            gc.freeze()  # what is here stays; to scan it again would hold all calls up for 40 ms, now and then
            await server.run_until(stop)


async def work(settings: PredictorSettings, stop: asyncio.Event) -> None:
    """Runs a worker, which predicts the images of batch predictions.

    Without work for a while it starts over, in the same process: neither an engine's libraries nor what the allocator
    keeps would otherwise leave memory, hundreds of megabytes for an engine of torch.
    """
    done = asyncio.Event()
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(observe.measured("predictor-worker", settings, metrics.WORKER))
        models, blobs = await _trainer(settings, stack), await open_blobs(settings, telemetry)
        records, queue = await stack.enter_async_context(
            open_broker(settings, "predictor-worker", telemetry, PATIENT_SECONDS)
        )
        predictor = LazyPredictor(
            _replica(Role.WORKER, settings, stack, models, blobs, telemetry), settings.batch_idle_seconds
        )
        context = WorkerContext(
            table=Table(records, BatchRecord),
            blobs=blobs,
            queue=queue,
            models=models,
            predictor=predictor.use,
            clock=SystemClock(),
            telemetry=telemetry,
            settings=settings,
            holder=processes.identity(),
        )
        async with alongside(predictor=predictor.run(), end=_set_after_any(done, stop, predictor.ended)):
            await worker.run(context, done)
    if not stop.is_set():
        _log.info("worker_renewed")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - its own command, without a shell


async def _set_after_any(event: asyncio.Event, *others: asyncio.Event) -> None:
    """Sets the event once any of the others is set."""
    waits = [asyncio.ensure_future(other.wait()) for other in others]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    event.set()


async def _trainer(settings: PredictorSettings, stack: AsyncExitStack) -> TrainerModels:
    channel = await stack.enter_async_context(open_channel(settings.trainer_address, credentials=tls.caller(settings)))
    return TrainerModels(ModelServiceStub(channel))


def _replica(
    role: Role,
    settings: PredictorSettings,
    stack: AsyncExitStack,
    models: TrainerModels,
    blobs: Blobs,
    telemetry: Telemetry,
) -> Callable[[], AbstractAsyncContextManager[Predictor]]:
    """Starts a predictor with the engine that the settings ask for."""
    directory = settings.model_cache_directory or Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-bundles-"))
    )
    try_writing(directory)

    def running() -> AbstractAsyncContextManager[Predictor]:
        from services.predictor import engines  # noqa: PLC0415 - an idle worker does without any

        device = choose(settings.device)
        _log.info("device_chosen", device=device.kind, name=device.name, problem=device.problem)
        passes = settings.passes(device.kind)
        load_bundle = partial(
            engines.load,
            device=device.kind,
            threads=settings.forward_threads,
            cpu_engine=settings.cpu_engine,
            passes=passes.at_once,
        )
        ports = models, blobs, load_bundle, passes, SystemClock(), telemetry
        return replica.running(settings, directory / "bundles", *ports, expires_feedback=role is Role.API)

    return running


async def _keep_available(
    batches: Batches,
    settings: PredictorSettings,
    models: TrainerModels,
    blobs: Blobs,
    datasets: DatasetsClient,
    telemetry: Telemetry,
) -> None:
    """Connects to NATS until cancelled, again whenever the connection is lost for good."""
    clock = SystemClock()
    lookup = ModelLookup(models, clock, settings.model_fresh_seconds, on_gone=lambda _: None)
    while True:
        try:
            async with open_broker(settings, "predictor", telemetry) as (records, queue):
                collection = Collection(records, BatchRecord, BatchPredictionNotFound, COLLECTION)
                accounts = Accounts(records, SERVICE, {COLLECTION: collection.view}, (TRAINER,))
                quotas = Quotas(collection, accounts, limits_of(settings), clock)
                holding = Holding(Holds(records), datasets, clock)
                present = BatchPredictions(collection, blobs, queue, lookup, datasets, holding, quotas, clock, settings)
                async with alongside(
                    view=collection.view.run(),
                    accounts=accounts.view.run(),
                    holds=holding.holds.view.run(),
                    quotas=quotas.run(),
                    keeper=HoldKeeper(collection, holding, clock).run(),
                    remover=Remover(collection, quotas, queue, clock, settings.batches_kept).run(),
                    reconciler=Reconciler(collection.view, queue, clock, telemetry, settings).run(),
                ):
                    await collection.view.synced()
                    await accounts.view.synced()
                    with batches.available(present):
                        await asyncio.Event().wait()
        except Unavailable as error:
            batches.problem = error.metadata["problem"]
            _log.warning("batch_predictions_unavailable", problem=error.message)
        await clock.sleep(RECONNECT_SECONDS)


if __name__ == "__main__":
    main()
