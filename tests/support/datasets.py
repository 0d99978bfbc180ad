"""A whole dataset service in this process: the real server over in-memory doubles, with workers driven step by step."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from PIL import Image

from services.dataset import worker
from services.dataset.app import Datasets
from services.dataset.context import WorkerContext
from services.dataset.domain import COLLECTION, DatasetRecord
from services.dataset.quotas import SERVICE, Quotas, SnapshotRoom
from services.dataset.reconcile import Reconciler
from services.dataset.rpc import DatasetServicer
from services.dataset.settings import DatasetSettings
from services.dataset.upload import REQUEST_BYTES, Uploads
from services.dataset.upload_records import UploadReconciler, UploadRecord, UploadRecords
from services.infra.server import Server, Service
from services.kit.accounts import Accounts
from services.kit.blobs import Blobs
from services.kit.clock import ManualClock
from services.kit.collection import Collection
from services.kit.errors import DatasetNotFound, UploadNotFound
from services.kit.holds import Holds
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.queue import Queue, is_poison
from services.kit.quotas import UNLIMITED, Limits
from services.kit.reach import UPLOADS
from services.kit.records import Records, Table
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry
from services.kit.views import View
from services.vision.decode_pool import Decoders
from sightline.v1 import dataset_pb2 as pb
from sightline.v1 import dataset_service_pb2 as service_pb
from sightline.v1 import dataset_service_pb2_grpc as service_grpc
from sightline.v1 import finding_pb2
from tests.support.decoders import InlineDecoders

COCO = "uploads/u1/train.json"
URI = f"s3://sightline/{COCO}"
DESCRIPTOR = service_pb.DESCRIPTOR.services_by_name["DatasetService"]
DatasetStub = Any  # the async stub; grpc gives it the type of the blocking one


def make_image(
    width: int = 64, height: int = 64, color: object = (200, 30, 30), form: str = "PNG", **options: object
) -> bytes:
    """An image of one colour with a black and a white corner, so that it is not blank."""
    image, out = Image.new("RGB", (width, height), color), BytesIO()  # pyright: ignore[reportArgumentType] - any colour
    image.paste("black", (0, 0, width // 4, height // 4))
    image.paste("white", (width - width // 4, height - height // 4, width, height))
    image.save(out, form, **options)
    return out.getvalue()


def rotated(width: int, height: int, orientation: int) -> bytes:
    """A JPEG that is stored as width x height and has an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return make_image(width, height, form="JPEG", exif=exif)


def coco(
    images: Sequence[Mapping[str, object]],
    annotations: Sequence[Mapping[str, object]],
    categories: Sequence[str] = ("cat", "dog"),
) -> bytes:
    """A COCO file; categories have the ids 1, 2, ..."""
    declared = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": declared}).encode()


def unlike_any_other(seed: int) -> bytes:
    """An image of 64 x 64 pixels that is not even nearly the same as that of another seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    image, out = Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST), BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def tagged(count: int, categories: int = 2) -> tuple[bytes, dict[str, bytes]]:
    """A classification set of `count` different images, with tags in turn."""
    files = {f"images/{n}.png": unlike_any_other(n) for n in range(1, count + 1)}
    images = [{"id": n, "file_name": f"images/{n}.png", "width": 64, "height": 64} for n in range(1, count + 1)]
    marks = [{"id": n, "image_id": n, "category_id": (n - 1) % categories + 1} for n in range(1, count + 1)]
    return coco(images, marks, [f"c{n}" for n in range(1, categories + 1)]), files


@dataclass
class World:
    """The service, its doubles, and a client."""

    blobs: Blobs = field(default_factory=MemoryBlobs)
    records: Records = field(default_factory=MemoryRecords)
    clock: ManualClock = field(default_factory=ManualClock)
    settings: DatasetSettings = field(default_factory=lambda: DatasetSettings(progress_seconds=0))
    telemetry: MemoryTelemetry = field(default_factory=MemoryTelemetry)
    decoders: Decoders = field(default_factory=InlineDecoders)
    queue: Queue = field(init=False)
    stub: DatasetStub = field(init=False)
    address: str = ""
    limits: Limits = UNLIMITED
    accounts: Accounts = field(init=False)
    collection: Collection[DatasetRecord] = field(init=False)
    kept: Collection[UploadRecord] = field(init=False)
    holds: Holds = field(init=False)

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(self.clock)
        self.collection = Collection(self.records, DatasetRecord, DatasetNotFound, COLLECTION)
        self.holds = Holds(self.records)
        self.kept = Collection(self.records, UploadRecord, UploadNotFound, UPLOADS)
        self.accounts = Accounts(self.records, SERVICE, {COLLECTION: self.collection.view})

    @property
    def table(self) -> Table[DatasetRecord]:
        return self.collection.table

    @property
    def view(self) -> View[DatasetRecord]:
        return self.collection.view

    def context(self, executor: ThreadPoolExecutor, holder: str = "w1") -> WorkerContext:
        ports = self.table, self.blobs, self.queue, self.clock, self.telemetry
        room = SnapshotRoom(Accounts(self.records, SERVICE, {}), self.limits_of)
        return WorkerContext(*ports, executor, self.decoders, room, Holds(self.records), holder)

    def limits_of(self, project: str) -> Limits:
        return self.limits

    def quotas(self) -> Quotas:
        return Quotas(self.collection, self.kept.view, self.accounts, self.limits_of, self.clock)

    def uploads(self) -> UploadRecords:
        return UploadRecords(self.kept, self.blobs, self.clock, self.settings, self.quotas())

    def expiry(self) -> UploadReconciler:
        return UploadReconciler(self.uploads(), self.view, self.telemetry)

    def reconciler(self) -> Reconciler:
        return Reconciler(self.collection, self.holds, self.queue, self.clock, self.telemetry, self.settings)

    def app(self) -> Datasets:
        ports = self.blobs, self.queue, self.clock, self.settings
        return Datasets(self.collection, *ports, self.uploads(), self.quotas(), self.holds)

    def views(self) -> list[View[Any]]:
        """To run."""
        return [self.view, self.kept.view, self.accounts.view, self.holds.view]

    async def put(self, coco_file: bytes, files: Mapping[str, bytes] | None = None, key: str = COCO) -> None:
        """Puts a COCO file and its images directly into the store."""
        await self.blobs.put(key, coco_file)
        folder = key.rpartition("/")[0]
        for path, data in (files or {}).items():
            await self.blobs.put(f"{folder}/{path}", data)

    async def step(self, wrap: Callable[[WorkerContext], WorkerContext] = lambda context: context) -> bool:
        """Lets a worker take one job, if any; if its handler raises, the job stays unsettled, as if the worker died."""
        with ThreadPoolExecutor(2) as executor:
            for job in worker.job_handlers(wrap(self.context(executor)), self.settings):
                delivery = await self.queue.fetch(job.kind, timedelta(0))
                if delivery:
                    await (job.poison if is_poison(delivery) else job.handle)(delivery.body)
                    await delivery.ack()
                    return True
        return False

    async def work(self) -> None:
        """Lets a worker process every due job."""
        while await self.step():
            pass

    def request(
        self, name: str = "pets", kind: str = "IMAGE_CLASSIFICATION", uris: Sequence[str] = (URI,), **fields: Any
    ) -> service_pb.CreateDatasetRequest:
        dataset = pb.Dataset(annotation_kind=pb.Dataset.AnnotationKind.Value(kind), annotation_file_uris=uris)
        return service_pb.CreateDatasetRequest(dataset=dataset, dataset_id=name, **fields)

    async def register(
        self,
        coco_file: bytes,
        files: Mapping[str, bytes] | None = None,
        name: str = "pets",
        kind: str = "IMAGE_CLASSIFICATION",
    ) -> pb.Dataset:
        """Registers a dataset and lets it be validated."""
        await self.put(coco_file, files)
        await self.stub.CreateDataset(self.request(name, kind))
        await self.work()
        return await self.get(name)

    async def get(self, name: str = "pets", **fields: Any) -> pb.Dataset:
        return await self.stub.GetDataset(service_pb.GetDatasetRequest(name=f"datasets/{name}", **fields))

    async def findings(self, name: str = "pets", **fields: Any) -> list[finding_pb2.Finding]:
        request = service_pb.ListFindingsRequest(parent=f"datasets/{name}", page_size=1000, **fields)
        return list((await self.stub.ListFindings(request)).findings)

    async def found(self, code: str, name: str = "pets") -> finding_pb2.Finding:
        """The only finding of a code."""
        listed = await self.findings(name)
        chosen = [finding for finding in listed if finding.code == code]
        assert len(chosen) == 1, [f"{finding.code}: {finding.message}" for finding in listed]
        return chosen[0]

    async def upload(self, files: Mapping[str, bytes], upload_id: str = "u1", **wrong: Any) -> Any:
        """Sends files with UploadFiles; `wrong` overrides fields of every file's header."""

        return await self.stub.UploadFiles(iter(upload_messages(upload_id, files, **wrong)))


def upload_messages(upload_id: str, files: Mapping[str, bytes], **wrong: Any) -> list[service_pb.UploadFilesRequest]:
    """The stream of UploadFiles; `wrong` overrides fields of every file's header."""
    sent = [service_pb.UploadFilesRequest(header=service_pb.UploadFilesHeader(upload_id=upload_id))]
    for path, data in files.items():
        announced: dict[str, Any] = {
            "path": path,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
        }
        sent.append(service_pb.UploadFilesRequest(file=service_pb.FileHeader(**{**announced, **wrong})))
        chunks = (data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20))
        sent += [service_pb.UploadFilesRequest(chunk=chunk) for chunk in chunks]
    return sent


@asynccontextmanager
async def running(world: World, **configured: Any) -> AsyncGenerator[World]:
    """The world with its server listening and a client connected."""
    records = world.uploads()
    datasets = world.app()
    uploads = Uploads(records, world.blobs, world.telemetry, world.settings)
    servicer = DatasetServicer(datasets, uploads, world.blobs.bucket)
    service = Service(DESCRIPTOR, service_grpc.add_DatasetServiceServicer_to_server, servicer, REQUEST_BYTES)
    chosen: dict[str, Any] = {"port": 0, "drain_seconds": 0, "grace_seconds": 0.2, **configured}
    settings = Settings(**chosen)
    server = Server("dataset", settings, world.telemetry, [service])
    world.address = f"127.0.0.1:{await server.start()}"
    keepers = [asyncio.create_task(view.run()) for view in world.views()]
    try:
        async with grpc.aio.insecure_channel(world.address) as channel:
            world.stub = service_grpc.DatasetServiceStub(channel)
            yield world
    finally:
        await server.drain()
        for keeper in keepers:
            keeper.cancel()


def reason(error: grpc.aio.AioRpcError) -> str:
    """The reason in a call's status."""
    trailers = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailers["grpc-status-details-bin"])  # pyright: ignore[reportArgumentType] - bytes in -bin
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


@asynccontextmanager
async def refused(code: grpc.StatusCode, because: str, saying: str) -> AsyncGenerator[None]:
    """The block must end with this error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = caught.value
    assert (error.code(), reason(error)) == (code, because), error.details()
    assert saying in (error.details() or ""), error.details()
