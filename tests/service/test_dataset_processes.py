"""The dataset service as deployed: its two processes, a real nats-server and a folder, all killed along the way."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc

from services.infra.files import FolderBlobs
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from sightline.v1 import dataset_service_pb2_grpc as service_grpc
from tests.support.datasets import URI, World, tagged, upload_messages
from tests.support.servers import NatsServer, free_port


class Processes:
    """An api and a worker, started and killed by name."""

    def __init__(self, nats_url: str, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self._log = folder / "processes.log"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {
            "SIGHTLINE_NATS_URL": nats_url,
            "SIGHTLINE_STORE_DIRECTORY": str(folder / "store"),
            "SIGHTLINE_PORT": str(self.port),
            "SIGHTLINE_DRAIN_SECONDS": "0",
            "SIGHTLINE_CHUNK_IMAGES": "10",
            "SIGHTLINE_STALL_SECONDS": "2",
            "SIGHTLINE_RECONCILE_SECONDS": "0.5",
            "SIGHTLINE_LEASE_SECONDS": "3",
            **settings,
        }

    def start(self, role: str) -> None:
        command = [sys.executable, "-m", "services.dataset", role]
        with self._log.open("ab") as log:
            self._running[role] = subprocess.Popen(command, env=self._environment, stderr=log)

    def end(self, role: str, by: signal.Signals) -> int:
        process = self._running.pop(role)
        process.send_signal(by)
        return process.wait(30)

    def end_all(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


async def until(port: int, *states: pb.Dataset.State.ValueType) -> pb.Dataset:
    """The dataset once it is in one of the states, despite outages."""
    async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_grpc.DatasetServiceStub(channel)
        while True:
            try:
                request = service_pb.GetDatasetRequest(name="datasets/pets")
                dataset: pb.Dataset = await stub.GetDataset(request, wait_for_ready=True, timeout=20)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
            else:
                if dataset.state in states:
                    return dataset
            await asyncio.sleep(0.05)


async def test_a_registration_survives_the_death_of_every_process(own_nats_server: NatsServer, tmp_path: Path) -> None:
    processes = Processes(own_nats_server.url, tmp_path)
    blobs = FolderBlobs(tmp_path / "store")
    await blobs.ensure_bucket()
    world = World(blobs=blobs)
    await world.put(*tagged(40))
    try:
        processes.start("api")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{processes.port}") as channel:
            stub = service_grpc.DatasetServiceStub(channel)
            await stub.CreateDataset(world.request(), wait_for_ready=True, timeout=30)
        processes.end("api", signal.SIGKILL)
        own_nats_server.kill()
        own_nats_server.start()
        processes.start("worker")
        processes.start("api")
        dataset = await until(processes.port, pb.Dataset.READY, pb.Dataset.FAILED)
        assert dataset.state == pb.Dataset.READY, dataset.error
        assert (dataset.stats.image_count, list(dataset.annotation_file_uris)) == (40, [URI])
        assert processes.end("worker", signal.SIGTERM) == 0
        assert processes.end("api", signal.SIGTERM) == 0
    finally:
        processes.end_all()


async def test_uploads_that_nobody_registered_expire_and_the_others_stay(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """Also those from before the server was killed."""
    age = {"SIGHTLINE_UPLOAD_EXPIRY_HOURS": str(3 / 3600)}
    processes = Processes(own_nats_server.url, tmp_path, **age)
    blobs = FolderBlobs(tmp_path / "store")
    await blobs.ensure_bucket()
    described, files = tagged(4)
    try:
        processes.start("api")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{processes.port}") as channel:
            stub = service_grpc.DatasetServiceStub(channel)
            for upload in ("u1", "forgotten"):
                sent = upload_messages(upload, {"train.json": described, **files})
                await stub.UploadFiles(iter(sent), wait_for_ready=True, timeout=30)
            await stub.CreateDataset(World().request(), timeout=30)
            processes.end("api", signal.SIGKILL)
            processes.start("api")
            async with asyncio.timeout(60):
                while True:
                    found = await stub.ListUploads(service_pb.ListUploadsRequest(), wait_for_ready=True, timeout=30)
                    if "uploads/forgotten" not in [upload.name for upload in found.uploads]:
                        break
                    await asyncio.sleep(0.1)
        assert [upload.name for upload in found.uploads] == ["uploads/u1"]
        assert [blob.key async for blob in blobs.list("uploads/forgotten/")] == []
        processes.start("worker")
        dataset = await until(processes.port, pb.Dataset.READY, pb.Dataset.FAILED)
        assert (dataset.state, dataset.stats.image_count) == (pb.Dataset.READY, 4)
    finally:
        processes.end_all()
