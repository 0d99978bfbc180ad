"""Batch predictions in this process: use cases and jobs over in-memory doubles, with workers driven step by step."""

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.kit.account import Account
from services.kit.accounts import Accounts
from services.kit.blobs import Blobs
from services.kit.clock import ManualClock
from services.kit.collection import Collection
from services.kit.errors import BatchPredictionNotFound, DatasetNotFound, DatasetNotReady, RecordNotFound
from services.kit.holds import Holds
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.queue import Queue, is_poison
from services.kit.quotas import UNLIMITED, Limits
from services.kit.records import Records, Table, Versioned
from services.kit.telemetry import MemoryTelemetry
from services.predictor import worker
from services.predictor.app import Limits as PredictorLimits
from services.predictor.app import Predictor
from services.predictor.batch.app import BatchPredictions, NewBatch
from services.predictor.batch.context import WorkerContext
from services.predictor.batch.datasets import Dataset
from services.predictor.batch.domain import COLLECTION, BatchRecord
from services.predictor.batch.holds import Holding, HoldKeeper
from services.predictor.batch.quotas import SERVICE, TRAINER, Quotas
from services.predictor.batch.reconcile import Reconciler
from services.predictor.batch.removal import Remover
from services.predictor.batching import Batcher, Passes
from services.predictor.cache import ModelCache
from services.predictor.domain import Bundle, ModelRunner
from services.predictor.feedback import Feedback
from services.predictor.feedback_store import FeedbackStore
from services.predictor.loaded import Loaded
from services.predictor.lookup import ModelLookup
from services.predictor.settings import PredictorSettings
from services.vision.card import CARD_FILE, ModelCard, write_card
from services.vision.decode import Decoded, decode_sizes
from services.vision.image_detections import ImageDetections
from services.vision.inputs import Views
from services.vision.snapshot import AnnotationKind, Category, Entry, Manifest, Shard, pack_into_bytes, write_index
from tests.support.decoders import InlineDecoders
from tests.unit.predictor.support import FakeModels, card, detector_card, file_of, info, make_image, number_image

PREFIX = "s3://sightline/uploads/u1/photos"
MODEL_URI = "s3://sightline/models/m/abc/trials/t1/1/bundle/"


class ByWidth:
    """A classifier or detector whose output depends on the image's width only, so that each result can be foretold."""

    sizes = (1,)

    def __init__(self, model_card: ModelCard) -> None:
        self.card = model_card
        self.is_detector = model_card.kind == "GENERIC_DETECTOR"
        self.faults: dict[int, Exception] = {}  # by width
        self.entered = 0

    def decode(self, data: bytes, name: str = "image") -> Decoded:
        return decode_sizes(data, self.sizes, name)

    def arrange(self, decoded: Decoded) -> Views:
        return (number_image(decoded.info.width),)

    def predict_prepared(self, images: Sequence[Views]) -> Sequence[Any]:
        widths = [int(image[0].flat[0]) for image in images]
        self.entered += len(widths)
        for width in widths:
            if width in self.faults:
                raise self.faults[width]
        return [self._detections(width) if self.is_detector else self._probabilities(width) for width in widths]

    def _probabilities(self, width: int) -> NDArray[np.float32]:
        first = width / 256
        return np.array([first, (1 - first) * 0.75, (1 - first) * 0.25], np.float32)

    def _detections(self, width: int) -> ImageDetections:
        boxes = np.array([[1.25, 2, width / 2, 20], [10, 10, 30, 30.5]], np.float32)
        return ImageDetections(boxes, np.array([0.9, 0.6], np.float32), np.array([1, 2]))


class FakeDatasets:
    """The dataset service as a dictionary."""

    def __init__(self) -> None:
        self.datasets: dict[str, Dataset] = {}
        self.deleting: set[str] = set()

    async def get(self, name: str) -> Dataset:
        if name not in self.datasets:
            raise DatasetNotFound(name=name)
        return self.datasets[name]

    async def revision(self, name: str) -> int:
        await self.get(name)
        if name in self.deleting:
            raise DatasetNotReady(name=name, state="DELETING")
        return 1


class OneModel:
    """The cache's source: one runner."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.error: Exception | None = None

    async def size_bytes(self, bundle: Bundle) -> int:
        return 1

    async def load(self, bundle: Bundle) -> Loaded:
        if self.error:
            raise self.error
        return Loaded(self.runner, Path())

    def discard(self, loaded: Loaded) -> None:
        return


@dataclass
class Batches:
    """The use cases, their doubles, and workers."""

    detector: bool = False
    blobs: Blobs = field(default_factory=MemoryBlobs)
    records: Records = field(default_factory=MemoryRecords)
    clock: ManualClock = field(default_factory=ManualClock)
    telemetry: MemoryTelemetry = field(default_factory=MemoryTelemetry)
    settings: PredictorSettings = field(
        default_factory=lambda: PredictorSettings(batch_chunk_images=3, batch_heartbeat_seconds=0.01)
    )
    limits: Limits = UNLIMITED
    queue: Queue = field(init=False)
    models: FakeModels = field(default_factory=lambda: FakeModels(info(uri=MODEL_URI)))
    datasets: FakeDatasets = field(default_factory=FakeDatasets)
    source: OneModel = field(init=False)
    runner: ByWidth = field(init=False)
    app: BatchPredictions = field(init=False)
    holding: Holding = field(init=False)
    predictor: Predictor = field(init=False)

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(self.clock)
        self.runner = ByWidth(detector_card((0.5, 0.5, 0.5)) if self.detector else card())
        self.source = OneModel(self.runner)

    def context(self, holder: str = "w1") -> WorkerContext:
        return WorkerContext(
            table=Table(self.records, BatchRecord),
            blobs=self.blobs,
            queue=self.queue,
            models=self.models,
            predictor=self._use,
            clock=self.clock,
            telemetry=self.telemetry,
            settings=self.settings,
            holder=holder,
        )

    @asynccontextmanager
    async def _use(self) -> AsyncGenerator[Predictor]:
        yield self.predictor

    async def put(self, files: Mapping[str, bytes], prefix: str = "uploads/u1/photos/") -> None:
        for name, data in files.items():
            await self.blobs.put(prefix + name, data)

    async def create(self, id_: str = "b", *, validate_only: bool = False, **fields: Any) -> Versioned[BatchRecord]:
        if not fields.get("dataset_name"):
            fields.setdefault("input_uri_prefix", PREFIX)
        new = NewBatch(id=id_, model_name=fields.pop("model_name", "models/m"), **fields)
        return await self.app.create(new, validate_only=validate_only)

    async def get(self, id_: str = "b") -> BatchRecord:
        return (await self.app.get(f"batchPredictions/{id_}")).value

    async def step(self, context: WorkerContext | None = None) -> bool:
        """Lets a worker take one job, if any; if its handler raises, the job stays unsettled, as if the worker died."""
        for job in worker.job_handlers(context or self.context()):
            delivery = await self.queue.fetch(job.kind, timedelta(0))
            if delivery:
                await (job.poison if is_poison(delivery) else job.handle)(delivery.body)
                await delivery.ack()
                return True
        return False

    async def work(self, context: WorkerContext | None = None) -> None:
        """Lets a worker process every due job."""
        while await self.step(context):
            pass

    async def recover(self) -> None:
        """What follows the death of a worker: its lease and its jobs run out, and others do what is due."""
        for _ in range(4):
            self.clock.advance(200)
            await self.reconciler().reconcile()
            await self.work()
            await self.remover().reconcile()

    def reconciler(self) -> Reconciler:
        return Reconciler(self.app.batches.view, self.queue, self.clock, self.telemetry, self.settings)

    def remover(self) -> Remover:
        return Remover(self.app.batches, self.app.quotas, self.queue, self.clock, self.settings.batches_kept)

    async def keys(self, prefix: str = "batchPredictions/") -> list[str]:
        """Of all blobs."""
        return [blob.key async for blob in self.blobs.list(prefix)]

    def keeper(self) -> HoldKeeper:
        return HoldKeeper(self.app.batches, self.holding, self.clock)

    async def write_account(self, account: Account) -> None:
        """What another service publishes, which the view then shows."""
        table = Table(self.records, Account)
        try:
            written = await table.change(account.name, lambda _: account)
        except RecordNotFound:
            written = await table.create(account.name, account)
        await self.app.quotas.accounts.view.caught_up(written.revision)

    async def file(self, name: str, id_: str = "b") -> bytes:
        return b"".join([piece async for piece in self.app.read_file(f"batchPredictions/{id_}", name, 0)])

    async def json(self, name: str, id_: str = "b") -> Any:
        return json.loads(await self.file(name, id_))

    async def files(self, id_: str = "b") -> dict[str, bytes]:
        return {output.file_name: await self.file(output.file_name, id_) for output in (await self.get(id_)).outputs}

    async def put_dataset(self, ids: Sequence[int], categories: Mapping[str, int]) -> None:
        """A READY dataset `datasets/d` in two shards, whose images are `width` = 60 + id pixels wide."""
        named = tuple(
            Category(id=id_, name=name, image_count=0, annotation_count=0) for name, id_ in categories.items()
        )
        shards = list[Shard]()
        for part in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
            items = [
                (Entry(image_id=id_, file_name=f"{id_}.png", width=60 + id_, height=60), photo(60 + id_), "png")
                for id_ in part
            ]
            tar, index = pack_into_bytes(items)
            key = f"datasets/d/xyz/packs/{len(shards)}"
            await self.blobs.put(f"{key}.tar", tar)
            await self.blobs.put(f"{key}.json", write_index(index))
            shards.append(
                Shard(
                    key=f"{key}.tar",
                    index_key=f"{key}.json",
                    sha256=index.sha256,
                    size_bytes=index.size_bytes,
                    record_count=len(items),
                )
            )
        kind = AnnotationKind.OBJECT_DETECTION if self.detector else AnnotationKind.IMAGE_CLASSIFICATION
        manifest = Manifest(kind=kind, categories=named, shards=tuple(shards), image_count=len(ids), digest="")
        await self.blobs.put("datasets/d/xyz/manifest.json", manifest.encode())
        self.datasets.datasets["datasets/d"] = Dataset("datasets/d", 3, "datasets/d/xyz/manifest.json", len(ids))


def photo(width: int, height: int = 60) -> bytes:
    """An image that is told by its width."""
    return file_of(make_image(width, height, seed=width))


def photos(count: int) -> dict[str, bytes]:
    """Images of different widths, in the order of their names."""
    return {f"{number:03d}.png": photo(60 + number) for number in range(1, count + 1)}


@asynccontextmanager
async def running(batches: Batches) -> AsyncGenerator[Batches]:
    """The use cases with their views current, and a predictor for the workers."""
    blobs, clock, telemetry = batches.blobs, batches.clock, batches.telemetry
    await blobs.put(MODEL_URI.removeprefix("s3://sightline/") + CARD_FILE, write_card(batches.runner.card))
    lookup = ModelLookup(batches.models, clock, 0, on_gone=lambda _: None)
    cache = ModelCache(batches.source, 1000, clock, telemetry)
    batcher = Batcher(clock, telemetry, Passes(max_images=4))
    limits = PredictorLimits(1000, 100, 100, 1)
    feedback = Feedback(FeedbackStore(blobs, timedelta(days=1)), batches.settings.feedback, clock, telemetry)
    batches.predictor = Predictor(lookup, cache, batcher, blobs, InlineDecoders(), feedback, clock, telemetry, limits)
    collection = Collection(batches.records, BatchRecord, BatchPredictionNotFound, COLLECTION)
    accounts = Accounts(batches.records, SERVICE, {COLLECTION: collection.view}, (TRAINER,))
    quotas = Quotas(collection, accounts, lambda _: batches.limits, clock)
    batches.holding = Holding(Holds(batches.records), batches.datasets, clock)
    batches.app = BatchPredictions(
        collection, blobs, batches.queue, lookup, batches.datasets, batches.holding, quotas, clock, batches.settings
    )
    views = collection.view, accounts.view, batches.holding.holds.view
    tasks = [asyncio.create_task(each) for each in (view.run() for view in views)]
    try:
        for view in views:
            await view.synced()
        yield batches
    finally:
        await cache.close()
        batcher.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Killed(BaseException):
    """The worker died here."""


class Mortal:
    """A port whose n-th call, counted over all ports of a `Life`, kills the worker, before or after its effect."""

    def __init__(self, port: Any, life: "Life") -> None:
        self._port, self._life = port, life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            return await self._life.spend(lambda: found(*arguments, **options))

        return call


class Life:
    """Ends at the n-th call of a port; with `after`, once the call has had its effect."""

    def __init__(self, calls: int, *, after: bool) -> None:
        self._calls, self._after = calls, after
        self.ended = False

    async def spend(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._calls -= 1
        if self._calls > 0:
            return await call()
        if self._after and not self.ended:
            await call()
        self.ended = True
        raise Killed

    def of(self, context: WorkerContext, records: Records) -> WorkerContext:
        """The context of a worker that lives it."""
        mortal: Any = Mortal(records, self)
        table = Table[BatchRecord](mortal, BatchRecord)
        return replace(context, table=table, blobs=Mortal(context.blobs, self), queue=Mortal(context.queue, self))


async def live(batches: Batches, life: Life, holder: str = "dying") -> None:
    """Works until the worker dies, or everything is done."""
    with suppress(Killed, BaseExceptionGroup):
        await batches.work(life.of(batches.context(holder), batches.records))


class Stuck:
    """A store that never answers a request for an image."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key.endswith(".png"):
            await asyncio.Event().wait()
        return await self._blobs.get(key, start, length)
