"""Runs a predictor replica: `python -m services.predictor`, or prints its settings with `--settings`."""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from services.infra import observe, processes, tls
from services.infra.channel import open_channel
from services.infra.server import Server, Service
from services.infra.store import open_blobs
from services.kit.clock import SystemClock
from services.kit.log import Log
from services.kit.settings import load, refuse_exposure
from services.kit.tasks import alongside
from services.predictor import engines, metrics, replica
from services.predictor.clients import TrainerModels
from services.predictor.inference_rpc import InferenceServicer
from services.predictor.preload import Preload
from services.predictor.rpc import PredictionServicer
from services.predictor.settings import PredictorSettings
from services.vision.device import choose
from sightline.inference import open_inference_pb2 as inference_pb
from sightline.inference.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.model_service_pb2_grpc import ModelServiceStub
from sightline.v1.prediction_service_pb2_grpc import add_PredictionServiceServicer_to_server

INFERENCE = inference_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
DESCRIPTOR = pb.DESCRIPTOR.services_by_name["PredictionService"]


def main() -> None:
    """Serves until SIGTERM or SIGINT, then finishes the calls in flight."""
    settings = load(PredictorSettings)
    if "--settings" in sys.argv[1:]:
        sys.stdout.write(settings.masked() + "\n")
        return
    refuse_exposure(settings)
    engines.refuse_missing(settings.cpu_engine)
    observe.configure_logging("predictor", settings.log_level)
    processes.run(lambda stop: serve(settings, stop))


async def serve(settings: PredictorSettings, stop: asyncio.Event) -> None:
    """Runs the replica and its server, ready as soon as it listens: loaded models need neither store nor trainer."""
    device = choose(settings.device)
    Log(__name__).info("device_chosen", device=device.kind, name=device.name, problem=device.problem)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(observe.measured("predictor", settings, metrics.ALL))
        channel = await stack.enter_async_context(
            open_channel(settings.trainer_address, credentials=tls.caller(settings))
        )
        directory = settings.model_cache_directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-bundles-"))
        )
        models, blobs = TrainerModels(ModelServiceStub(channel)), await open_blobs(settings, telemetry)
        passes = settings.passes(device.kind)
        load_bundle = partial(
            engines.load,
            device=device.kind,
            threads=settings.forward_threads,
            cpu_engine=settings.cpu_engine,
            passes=passes.at_once,
        )
        predictor = await stack.enter_async_context(
            replica.running(settings, directory / "bundles", models, blobs, load_bundle, passes, clock, telemetry)
        )
        servicer = PredictionServicer(predictor, clock)
        service = Service(DESCRIPTOR, add_PredictionServiceServicer_to_server, servicer, settings.request_bytes)
        preload = Preload(predictor.load_model, settings.preloaded, clock)
        ready = preload.ready if settings.preloaded else None
        inference = InferenceServicer(predictor, clock, ready)
        served = [
            service,
            Service(INFERENCE, add_GRPCInferenceServiceServicer_to_server, inference, settings.request_bytes),
        ]
        server = Server("predictor", settings, telemetry, served, ready, ready_every_seconds=0.5)
        async with alongside(preload=preload.run()):
            await server.start()
            await server.run_until(stop)


if __name__ == "__main__":
    main()
