"""Batch predictions as deployed: an api and workers, a real nats-server and a folder, workers killed along the way."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.infra.files import FolderBlobs
from services.kit.errors import ModelNotFound
from services.kit.status import failure_to_status
from sightline.v1 import batch_prediction_pb2 as pb
from sightline.v1 import model_pb2, model_service_pb2
from sightline.v1 import model_service_pb2_grpc as model_grpc
from sightline.v1 import prediction_service_pb2 as service_pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.support.batches import photo
from tests.support.servers import NatsServer, free_port
from tests.unit.predictor.serving import IMAGE
from tests.unit.predictor.support import info, put_bundle

NAME = "batchPredictions/b"
BUNDLE = "s3://sightline/models/m/abc/trials/t1/1/bundle/"
IMAGES = 60
ENDED = (pb.BatchPrediction.SUCCEEDED, pb.BatchPrediction.FAILED, pb.BatchPrediction.CANCELLED)


class Trainer(model_grpc.ModelServiceServicer):
    """Knows `models/m` until it is deleted."""

    def __init__(self) -> None:
        self.deleted = False

    async def GetModel(self, request: model_service_pb2.GetModelRequest, context: Any) -> model_pb2.Model:  # noqa: N802 - the contract's name
        if self.deleted:
            error = ModelNotFound(name=request.name)
            status = failure_to_status(error.failure())
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            await context.abort(grpc.StatusCode.NOT_FOUND, error.message)
        return model_pb2.Model(
            name=request.name, state=model_pb2.Model.SUCCEEDED, model_version="v1", bundle_uri=BUNDLE
        )


class Processes:
    """An api and workers, started and killed by name."""

    def __init__(self, folder: Path, nats_url: str, trainer: str) -> None:
        self.port = free_port()
        self.log = folder / "processes.log"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {
            "SIGHTLINE_NATS_URL": nats_url,
            "SIGHTLINE_STORE_DIRECTORY": str(folder / "store"),
            "SIGHTLINE_PORT": str(self.port),
            "SIGHTLINE_TRAINER_ADDRESS": trainer,
            "SIGHTLINE_DEVICE": "cpu",
            "SIGHTLINE_DRAIN_SECONDS": "0",
            "SIGHTLINE_ACK_WAIT_SECONDS": "3",
            "SIGHTLINE_BATCH_CHUNK_IMAGES": "5",
            "SIGHTLINE_BATCH_HEARTBEAT_SECONDS": "0.2",
            "SIGHTLINE_BATCH_STALL_SECONDS": "2",
            "SIGHTLINE_BATCH_RECONCILE_SECONDS": "0.5",
            "SIGHTLINE_BATCH_LEASE_SECONDS": "3",
            "SIGHTLINE_BATCH_IDLE_SECONDS": "2",
            "SIGHTLINE_DECODE_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "services.predictor", name.partition("-")[0]]
        with self.log.open("ab") as log:
            self._running[name] = subprocess.Popen(command, env=self._environment, stderr=log, stdout=log)

    def end(self, name: str, by: signal.Signals) -> int:
        process = self._running.pop(name)
        process.send_signal(by)
        return process.wait(30)

    def end_all(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


@asynccontextmanager
async def deployed(folder: Path, nats_url: str) -> AsyncGenerator[tuple[Processes, Trainer, Any, FolderBlobs]]:
    """The processes, not started yet, the trainer that they ask, and a stub of the api."""
    blobs = FolderBlobs(folder / "store")
    await blobs.ensure_bucket()
    await put_bundle(blobs, folder / "bundle", info(uri=BUNDLE))  # type: ignore[arg-type]  # any blobs will do
    for number in range(1, IMAGES + 1):
        data = b"no image" if number % 20 == 0 else photo(60 + number)
        await blobs.put(f"uploads/u/{number:03d}.png", data)
    partial: Any = Trainer  # it has the only rpc that predictors call
    server, trainer = grpc.aio.server(), partial()
    model_grpc.add_ModelServiceServicer_to_server(trainer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    processes = Processes(folder, nats_url, f"127.0.0.1:{port}")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{processes.port}") as channel:
            yield processes, trainer, PredictionServiceStub(channel), blobs
    finally:
        processes.end_all()
        await server.stop(0)


async def persistent(call: Any, request: Any) -> Any:
    """The answer, despite outages."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call(request, wait_for_ready=True, timeout=20)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
            await asyncio.sleep(0.1)


async def create(stub: Any, id_: str = "b") -> None:
    new = pb.BatchPrediction(model_name="models/m", input_uri_prefix="s3://sightline/uploads/u")
    request = service_pb.CreateBatchPredictionRequest(batch_prediction=new, batch_prediction_id=id_, request_id="one")
    await persistent(stub.CreateBatchPrediction, request)


async def get(stub: Any, name: str = NAME) -> pb.BatchPrediction:
    return await persistent(stub.GetBatchPrediction, service_pb.GetBatchPredictionRequest(name=name))


async def until(stub: Any, holds: Any, name: str = NAME) -> pb.BatchPrediction:
    async with asyncio.timeout(120):
        while True:
            batch = await get(stub, name)
            if holds(batch):
                return batch
            await asyncio.sleep(0.05)


def ended(batch: pb.BatchPrediction) -> bool:
    return batch.state in ENDED


async def read(stub: Any, file_name: str) -> bytes:
    request = service_pb.ReadBatchPredictionFileRequest(name=NAME, file_name=file_name)
    return b"".join([message.chunk async for message in stub.ReadBatchPredictionFile(request)])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_workers_that_are_killed_again_and_again_lose_and_double_no_image(
    own_nats_server: NatsServer, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    async with deployed(tmp_path, own_nats_server.url) as (processes, _, stub, _blobs):
        processes.start("api")
        processes.start("worker-0")
        processes.start("worker-1")
        await create(stub)
        kills = 0
        for number in range(2, 8):
            seen = (await get(stub)).progress.images_done
            batch = await until(stub, lambda one, seen=seen: ended(one) or one.progress.images_done > seen)
            if ended(batch):
                break
            await asyncio.sleep(chance.random() / 4)
            processes.end(chance.choice([f"worker-{number - 2}", f"worker-{number - 1}"]), signal.SIGKILL)
            kills += 1
            alive = next(name for name in processes._running if name.startswith("worker"))
            processes._running[f"worker-{number - 1}"] = processes._running.pop(alive)
            processes.start(f"worker-{number}")
        batch = await until(stub, ended)
        assert batch.state == pb.BatchPrediction.SUCCEEDED, batch.error
        assert (batch.progress.images_done, batch.progress.images_failed) == (57, 3)
        assert kills, "the workers were faster than the test"
        lines = [json.loads(line) for line in (await read(stub, "results.jsonl")).splitlines()]
        assert [line["id"] for line in lines] == list(range(1, IMAGES + 1))
        assert [line["id"] for line in lines if "error" in line] == [20, 40, 60]
        assert len(json.loads(await read(stub, "results.json"))) == 57 * 3
        assert timedelta() < batch.cost.ToTimedelta() < timedelta(minutes=5)


@pytest.mark.timeout(200)
async def test_a_model_deleted_in_mid_run_fails_it_and_a_cancelled_one_keeps_what_it_has(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    async with deployed(tmp_path, own_nats_server.url) as (processes, trainer, stub, _):
        processes.start("api")
        processes.start("worker-0")
        await create(stub)
        await until(stub, lambda batch: batch.progress.images_done > 0)
        trainer.deleted = True
        batch = await until(stub, ended)
        assert batch.state == pb.BatchPrediction.FAILED
        assert "models/m does not exist" in batch.error.message
        assert len(json.loads(await read(stub, "images.json"))["images"]) == batch.progress.images_done


@pytest.mark.timeout(200)
async def test_while_nats_is_away_images_are_analyzed_and_afterwards_batches_go_on(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    url = own_nats_server.url
    own_nats_server.kill()
    async with deployed(tmp_path, url) as (processes, _, stub, _blobs):
        processes.start("api")
        analyze = service_pb.AnalyzeImageRequest(model_name="models/m", image=IMAGE)
        assert (await stub.AnalyzeImage(analyze, wait_for_ready=True, timeout=60)).model_version == "v1"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListBatchPredictions(service_pb.ListBatchPredictionsRequest(), timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        own_nats_server.start()
        processes.start("worker-0")
        await create(stub)
        await until(stub, lambda batch: batch.progress.images_done > 0)
        cancelled = service_pb.CancelBatchPredictionRequest(name=NAME)
        await persistent(stub.CancelBatchPrediction, cancelled)
        batch = await until(stub, ended)
        assert batch.state == pb.BatchPrediction.CANCELLED
        images = json.loads(await read(stub, "images.json"))["images"]
        assert len(images) == batch.progress.images_done < IMAGES
        async with asyncio.timeout(60):  # without work it starts over, in the same process
            while b"worker_renewed" not in processes.log.read_bytes():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.2)
        assert processes._running["worker-0"].poll() is None
        await create(stub, "b2")
        await until(stub, ended, name="batchPredictions/b2")
        assert processes.end("worker-0", signal.SIGTERM) == 0
        assert processes.end("api", signal.SIGTERM) == 0
