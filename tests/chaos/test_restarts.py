"""A service with two replicas is restarted repeatedly under load, and no call of the client fails.

`SIGHTLINE_RESTARTS` is the number of restarts; half are by SIGTERM, half by SIGKILL, at random times.
"""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.infra.files import FolderBlobs
from sightline.client.stubs import Stubs
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.credentials import Credentials
from sightline.client.uploads import CHUNK_BYTES, LocalFile
from sightline.v1 import dataset_service_pb2 as service
from sightline.v1.dataset_pb2 import Dataset
from tests.support.servers import NatsServer, free_port

RESTARTS = int(os.environ.get("SIGHTLINE_RESTARTS", "8"))
SEED = 20261123
CALLERS = 4
PAUSE_SECONDS = 0.01  # between two calls of a caller
REPLICAS = 2
URI = "s3://sightline/uploads/u/coco.json"
READY_SECONDS = 90.0
END_SECONDS = 45.0  # for a drain, on a busy machine
SIGNALS = (signal.SIGTERM, signal.SIGKILL)

log = logging.getLogger(__name__)
pytestmark = pytest.mark.slow


class Replica:
    """One process of the dataset api, on a fixed port."""

    def __init__(self, number: int, folder: Path, nats_url: str) -> None:
        self.port = free_port()
        self._log = folder / f"replica-{number}.log"
        self._environment = os.environ | {
            "SIGHTLINE_NATS_URL": nats_url,
            "SIGHTLINE_STORE_DIRECTORY": str(folder / "store"),
            "SIGHTLINE_PORT": str(self.port),
            "SIGHTLINE_MAX_PROJECT_DATASETS": "1000000",  # no worker removes those that were deleted
            "PYTHONFAULTHANDLER": "1",
        }
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "services.dataset", "api"]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, env=self._environment, stderr=output)

    def end(self, by: signal.Signals) -> None:
        self._process.send_signal(by)
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # faulthandler dumps every thread's stack
            status = self._process.wait(END_SECONDS)
        assert status == (0 if by is signal.SIGTERM else -by), f"status {status}:\n{self._log.read_text()[-6000:]}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self) -> None:
        """Returns once it reports SERVING."""
        deadline = time.monotonic() + READY_SECONDS
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline:
                try:
                    request = health_pb2.HealthCheckRequest()
                    answer = health.Check(request, timeout=5, wait_for_ready=True)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass
                time.sleep(0.05)
        raise AssertionError(f"{self._log} does not serve:\n{self._log.read_text()[-6000:]}")


@dataclass
class Load:
    """Callers that create, read, update and delete datasets until `over` is set.

    Another one repeatedly uploads a file and opens a watch.
    """

    client: Stubs
    file: LocalFile
    calls: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, caller: int) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            self._story(f"d{caller}-{number}", request_id=f"{caller}/{number}" if number % 2 else "")

    def stream(self) -> None:
        watched = Dataset(annotation_kind=Dataset.IMAGE_CLASSIFICATION, annotation_file_uris=[URI])
        self.client.datasets.CreateDataset(service.CreateDatasetRequest(dataset_id="watched", dataset=watched))
        while not self.over.is_set():
            self._call("UploadFiles", lambda: self.client.upload_files([self.file]))
            self._call("WatchDataset", lambda: next(self.client.watch_dataset("datasets/watched")))

    def _story(self, own: str, request_id: str) -> None:
        stub, name = self.client.datasets, f"datasets/{own}"
        wanted = Dataset(annotation_kind=Dataset.IMAGE_CLASSIFICATION, annotation_file_uris=[URI])
        create = service.CreateDatasetRequest(dataset_id=own, dataset=wanted, request_id=request_id)
        self._call("CreateDataset", lambda: stub.CreateDataset(create))
        self._call("GetDataset", lambda: stub.GetDataset(service.GetDatasetRequest(name=name)))
        update = service.UpdateDatasetRequest(
            dataset=Dataset(name=name, display_name="new"), update_mask=FieldMask(paths=["display_name"])
        )
        self._call("UpdateDataset", lambda: stub.UpdateDataset(update))
        self._call("ListDatasets", lambda: stub.ListDatasets(service.ListDatasetsRequest(page_size=10)))
        self._call("DeleteDataset", lambda: stub.DeleteDataset(service.DeleteDatasetRequest(name=name)))

    def _call(self, rpc: str, call: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            call()
        except grpc.RpcError as error:
            self.failed.append(f"{rpc} after {time.monotonic() - began:.2f} s: {error}")
        self.calls[rpc] += 1
        self.seconds.append(time.monotonic() - began)
        time.sleep(PAUSE_SECONDS)


@pytest.mark.timeout(60 + 20 * RESTARTS)
async def test_restarts_of_a_service_with_two_replicas_fail_no_call(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    blobs = FolderBlobs(tmp_path / "store")
    await blobs.ensure_bucket()
    await blobs.put(URI.removeprefix("s3://sightline/"), b"{}")
    load, seconds = await asyncio.to_thread(_under_load, own_nats_server.url, tmp_path)
    slowest = sorted(load.seconds)[-len(load.seconds) // 1000 :]
    report = {
        "restarts": RESTARTS,
        "calls": sum(load.calls.values()),
        "failed": len(load.failed),
        "seconds": round(seconds, 1),
        "median_ms": round(1000 * sorted(load.seconds)[len(load.seconds) // 2], 2),
        "p999_s": round(slowest[0], 2),
        "longest_s": round(slowest[-1], 2),
    }
    log.warning("%s", json.dumps(report))
    if where := os.environ.get("SIGHTLINE_RESTARTS_REPORT"):
        await asyncio.to_thread(Path(where).write_text, json.dumps(report))
    assert not load.failed, f"{report}\n" + "\n".join(load.failed[:10])
    assert load.calls.total() > 20 * RESTARTS, "there was hardly any load"


def _under_load(nats_url: str, folder: Path) -> tuple[Load, float]:
    chance = random.Random(SEED)
    replicas = [Replica(number, folder, nats_url) for number in range(REPLICAS)]
    try:
        for replica in replicas:
            replica.wait()
        addresses = ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)
        with Stubs(Addresses(dataset=f"ipv4:{addresses}"), Credentials()) as client:
            (folder / "file").write_bytes(os.urandom(2 * CHUNK_BYTES))
            load = Load(client, LocalFile("file", folder / "file"))
            with ThreadPoolExecutor(CALLERS + 1) as callers:
                running = [callers.submit(load.stream)]
                running += [callers.submit(load.run, caller) for caller in range(CALLERS)]
                began = time.monotonic()
                try:
                    for number in range(RESTARTS):
                        time.sleep(chance.uniform(0.0, 0.5))
                        replica, by = replicas[number % REPLICAS], SIGNALS[number // REPLICAS % 2]
                        replica.end(by)
                        replica.start()
                        replica.wait()
                finally:
                    load.over.set()
                for caller in running:
                    caller.result()
            return load, time.monotonic() - began
    finally:
        for replica in replicas:
            replica.kill()
