"""The processes that are attacked, and what a good caller does with each."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.infra.files import FolderBlobs
from sightline.client import keys
from sightline.client.transport.channel import OPTIONS
from sightline.client.transport.connection import bearer
from sightline.v1 import dataset_pb2, model_pb2
from sightline.v1 import dataset_service_pb2 as pb
from sightline.v1 import prediction_service_pb2 as predictions
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from tests.attack.kinds import HELD, MODEL, SERVICE_OF, Target
from tests.support.processes import descendants
from tests.support.servers import NatsServer, free_port, stop
from tests.unit.predictor.support import file_of, info, make_image, put_bundle

PREPARE_SECONDS = 90.0
IMAGE = file_of(make_image())


@dataclass(frozen=True)
class Api:
    """A running service."""

    target: Target
    pid: int
    calls_per_second: int
    good_call: Callable[[grpc.aio.Channel, str, int], Awaitable[None]]  # its channel, an admin's token, its number

    def memory_mib(self) -> float:
        """What it and its children use now."""
        return sum(_kib(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in (self.pid, *descendants(self.pid))) / 1024

    def peak_mib(self) -> float:
        """The most that it alone, without children, has used so far."""
        return _kib(f"/proc/{self.pid}/status", "VmHWM:") / 1024


@asynccontextmanager
async def running(kind: str, source: Path, folder: Path) -> AsyncGenerator[Api]:
    """The service that the attack is on, of this source, once good calls succeed."""
    made = {role: keys.make(role, role) for role in keys.ROLES}
    (folder / "keys").write_text("\n".join(line for _, line in made.values()) + "\n")
    tokens = {role: key for role, (key, _) in made.items()}
    opened = _predictor if SERVICE_OF[kind] == "predictor" else _dataset
    async with opened(source, folder, tokens) as api:
        await _until_it_serves(api)
        yield api


@asynccontextmanager
async def _dataset(source: Path, folder: Path, tokens: dict[str, str]) -> AsyncGenerator[Api]:
    """With the dataset that attackers watch, which no worker checks."""
    coco = folder / "store" / "uploads" / "u" / "coco.json"
    coco.parent.mkdir(parents=True)
    coco.write_text("{}")
    with (
        NatsServer(folder / "nats") as nats,
        _process(source, folder, "services.dataset", "api", SIGHTLINE_NATS_URL=nats.url) as (address, pid),
    ):
        api = Api(Target(address, tokens), pid, 50, _get_dataset)
        await _create_held(api)
        yield api


async def _get_dataset(channel: grpc.aio.Channel, token: str, number: int) -> None:
    await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest(name=HELD), metadata=[bearer(token)], timeout=5)
    if number % 10 == 0:
        health: Any = HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=5)


async def _create_held(api: Api) -> None:
    async with grpc.aio.insecure_channel(api.target.address, options=OPTIONS) as channel:
        dataset = dataset_pb2.Dataset(
            annotation_kind=dataset_pb2.Dataset.IMAGE_CLASSIFICATION,
            annotation_file_uris=["s3://sightline/uploads/u/coco.json"],
        )
        request = pb.CreateDatasetRequest(dataset_id=HELD.removeprefix("datasets/"), dataset=dataset)
        await DatasetServiceStub(channel).CreateDataset(
            request, metadata=[bearer(api.target.tokens["admin"])], timeout=60, wait_for_ready=True
        )


class _Trainer(ModelServiceServicer):
    """Knows one model."""

    async def GetModel(self, request: Any, context: Any) -> model_pb2.Model:  # noqa: N802 - the contract's name
        known = info()
        return model_pb2.Model(
            name=MODEL, state=model_pb2.Model.SUCCEEDED, model_version=known.version, bundle_uri=known.bundle_uri
        )


@asynccontextmanager
async def _predictor(source: Path, folder: Path, tokens: dict[str, str]) -> AsyncGenerator[Api]:
    """With a model that is small, so that images decide what it does."""
    blobs: Any = FolderBlobs(folder / "store", "sightline")
    await blobs.ensure_bucket()
    await put_bundle(blobs, folder / "bundle", info())
    trainer = grpc.aio.server()
    add_ModelServiceServicer_to_server(_Trainer(), trainer)  # pyright: ignore[reportAbstractUsage] - no other is called
    address = f"127.0.0.1:{trainer.add_insecure_port('127.0.0.1:0')}"
    await trainer.start()
    try:
        with _process(source, folder, "services.predictor", SIGHTLINE_TRAINER_ADDRESS=address) as (address, pid):
            yield Api(Target(address, tokens), pid, 10, _analyze)
    finally:
        await trainer.stop(0)


async def _analyze(channel: grpc.aio.Channel, token: str, number: int) -> None:
    request = predictions.AnalyzeImageRequest(model_name=MODEL, image=IMAGE)
    await PredictionServiceStub(channel).AnalyzeImage(request, metadata=[bearer(token)], timeout=5)


@contextmanager
def _process(source: Path, folder: Path, module: str, *words: str, **settings: str) -> Generator[tuple[str, int]]:
    """Its address and id."""
    port = free_port()
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "SIGHTLINE_PORT": str(port),
        "SIGHTLINE_STORE_DIRECTORY": str(folder / "store"),
        "SIGHTLINE_AUTH_KEYS": str(folder / "keys"),
        "SIGHTLINE_AUDIT": str(folder / "audit"),
        **settings,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *words], cwd=source, env=environment, stderr=log)
        try:
            yield f"127.0.0.1:{port}", process.pid
        finally:
            stop(process)


async def _until_it_serves(api: Api) -> None:
    async with (
        asyncio.timeout(PREPARE_SECONDS),
        grpc.aio.insecure_channel(api.target.address, options=OPTIONS) as channel,
    ):
        while True:
            try:
                return await api.good_call(channel, api.target.tokens["admin"], 0)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)


def _kib(file: str, field: str) -> float:
    """A field of a file of /proc; 0 if the process is gone."""
    with suppress(OSError, StopIteration):
        lines = Path(file).read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])
    return 0.0
