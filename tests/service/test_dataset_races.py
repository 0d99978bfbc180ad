"""Callers of two replicas change, hold and delete datasets while workers check them: no orphan, and nothing lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from services.dataset.context import WorkerContext
from services.dataset.domain import DatasetRecord, NewDataset, State
from services.dataset.settings import DatasetSettings
from services.kit.blobs import BlobInfo
from services.kit.caller_fields import Changes
from services.kit.collection import Collection
from services.kit.errors import Conflict, DatasetNotFound, LeaseLost, SightlineError
from services.kit.memory import MemoryBlobs, MemoryRecords
from services.kit.records import Record
from services.trainer.datasets import Dataset
from services.trainer.holding import Holding, holder_of
from services.vision.snapshot import AnnotationKind, read_index, read_manifest, read_record
from tests.support.datasets import World, tagged
from tests.unit.trainer.support import dataset, model

NAMES = ("a", "b")
SETS = 4  # of images, each in an upload; most of the last one's cannot be decoded


class Interleaved(MemoryBlobs):
    """Others run before and after every call, for longer or shorter, as chance has it."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    async def _others(self) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)

    async def put(self, key: str, data: bytes) -> None:
        await self._others()
        await super().put(key, data)
        await self._others()

    async def put_file(self, key: str, path: Path) -> None:
        await self._others()
        await super().put_file(key, path)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        await self._others()
        return await super().get(key, start, length)

    async def get_file(self, key: str, path: Path) -> None:
        await self._others()
        await super().get_file(key, path)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        for blob in [blob async for blob in super().list(prefix)]:
            await self._others()
            yield blob

    async def delete(self, key: str) -> None:
        await self._others()
        await super().delete(key)


class InterleavedRecords(MemoryRecords):
    """The same for records."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    async def _others(self) -> None:
        for _ in range(self._random.randrange(3)):
            await asyncio.sleep(0)

    async def get(self, key: str) -> Record:
        await self._others()
        found = await super().get(key)
        await self._others()
        return found

    async def create(self, key: str, value: bytes) -> int:
        await self._others()
        revision = await super().create(key, value)
        await self._others()
        return revision

    async def update(self, key: str, value: bytes, revision: int) -> int:
        await self._others()
        written = await super().update(key, value, revision)
        await self._others()
        return written

    async def delete(self, key: str, revision: int) -> int:
        await self._others()
        deleted = await super().delete(key, revision)
        await self._others()
        return deleted


@dataclass(frozen=True, slots=True)
class SeenByTrainer:
    """The dataset service as the trainer sees it."""

    collection: Collection[DatasetRecord]

    async def get(self, name: str) -> Dataset:
        found = await self.collection.get(name)
        return dataset(name, state=found.value.state, manifest_key=found.value.prefix, revision=found.revision)


class Race:
    """The doubles that all replicas and workers share."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.done = Counter[str]()
        settings = DatasetSettings(chunk_images=2, progress_seconds=0)
        records = InterleavedRecords(self.random)
        self.world = World(blobs=Interleaved(self.random), records=records, settings=settings)
        self.replicas = [replace(self.world) for _ in range(2)]  # the same stores, each with its own view
        for replica in self.replicas:
            replica.queue = self.world.queue
        self.busy = True

    async def fill(self) -> None:
        """Puts the images into uploads, which are kept as long as a dataset names them."""
        for number in range(SETS):
            described, files = tagged(4 + number)
            if number == SETS - 1:
                files |= dict.fromkeys(list(files)[2:], b"none")
            await self.world.put(described, files, key=f"uploads/u{number}/train.json")
            await self.replicas[0].uploads().begin(f"v{number}")

    async def caller(self, world: World, steps: int) -> None:
        """Creates, revises, renames and deletes at random; being refused is part of it."""
        app = world.app()
        for _ in range(steps):
            name, number = self.random.choice(NAMES), self.random.randrange(SETS)
            uri = f"s3://sightline/uploads/u{number}/train.json"
            new = NewDataset(name, AnnotationKind.IMAGE_CLASSIFICATION, (uri,))
            what = self.random.choice(("create", "revise", "rename", "delete", "delete"))
            try:
                if what == "delete":
                    etag = (await app.get(f"datasets/{name}")).etag if self.random.randrange(2) else ""
                    await app.delete(f"datasets/{name}", etag)
                elif what == "rename":
                    changes: Changes = {"display_name": str(self.random.random())}
                    await app.update(f"datasets/{name}", changes, "")
                else:
                    await app.create(new, new_version=what == "revise")
                self.done[what] += 1
            except SightlineError:
                self.done["refused"] += 1
            for _ in range(self.random.randrange(60)):
                await asyncio.sleep(0)

    async def trainings(self, world: World, name: str, steps: int) -> None:
        """Holds a dataset for one training after the other; what is held is never deleted."""
        holding = Holding(world.holds, SeenByTrainer(world.collection), world.clock)
        for number in range(steps):
            training = model(name, uid=str(number), training_dataset=f"datasets/{self.random.choice(NAMES)}")
            try:
                held = await holding.hold(training, training.training_dataset)
            except SightlineError:
                self.done["hold refused"] += 1
            else:
                self.done["held"] += 1
                for _ in range(self.random.randrange(12)):
                    found = (await world.collection.get(training.training_dataset)).value
                    assert (found.prefix, found.state is State.DELETING) == (held.manifest_key, False)
                await world.holds.remove(training.training_dataset, holder_of(training))
            for _ in range(self.random.randrange(30)):
                await asyncio.sleep(0)

    async def worker(self, world: World, holder: str) -> None:
        """Takes jobs; one that fails is delivered again later."""

        def named(context: WorkerContext) -> WorkerContext:
            return replace(context, holder=holder)

        while self.busy:
            with suppress(SightlineError):
                await world.step(named)
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Time passes, the reconcilers run, and a worker does what is due, until nothing is."""
        for _ in range(10):
            self.world.clock.advance(60)
            await asyncio.sleep(0)
            await self.replicas[0].reconciler().reconcile()
            with suppress(LeaseLost, Conflict):
                await self.replicas[0].work()


async def require_whole(race: Race) -> set[str]:
    """Every image of every version of every dataset can be read; returns the prefixes of what there is."""
    prefixes: set[str] = set()
    for name in NAMES:
        try:
            record = (await race.replicas[1].collection.get(f"datasets/{name}")).value
        except DatasetNotFound:
            continue
        assert record.state in (State.READY, State.FAILED), record
        prefixes.add(f"{record.prefix}/")
        current = [record.manifest_key] if record.state is State.READY else []
        for key in (*current, *(version.manifest_key for version in record.versions)):
            manifest = read_manifest(await race.world.blobs.get(key))
            for shard in manifest.shards:
                pack = await race.world.blobs.get(shard.key)
                for one in read_index(await race.world.blobs.get(shard.index_key)).records:
                    read_record(pack, one, verify=True)
    return prefixes


async def run(race: Race) -> None:
    """Everyone at once; then nobody, until all is settled."""
    keepers = [asyncio.create_task(view.run()) for one in race.replicas for view in one.views()]
    workers: list[asyncio.Task[None]] = []
    try:
        await race.fill()
        workers = [asyncio.create_task(race.worker(one, f"w{n}")) for n, one in enumerate(race.replicas)]
        async with asyncio.TaskGroup() as callers:
            for replica in (*race.replicas, *race.replicas):
                callers.create_task(race.caller(replica, 12))
            for number, replica in enumerate(race.replicas):
                callers.create_task(race.trainings(replica, f"models/m{number}", 12))
        race.busy = False
        await asyncio.gather(*workers)
        await race.settle()
        prefixes = await require_whole(race)
        orphans = [
            blob.key async for blob in race.world.blobs.list("datasets/") if not blob.key.startswith(tuple(prefixes))
        ]
        assert orphans == []
    finally:
        for task in (*keepers, *workers):
            task.cancel()


@pytest.mark.parametrize("first_seed", range(0, 40, 10))
async def test_no_orphan_stays_and_nothing_that_is_live_is_lost(first_seed: int) -> None:
    done = Counter[str]()
    for seed in range(first_seed, first_seed + 10):
        race = Race(seed)
        try:
            await run(race)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        done += race.done
    # In one race, chance and the machine's pace may leave any of them out.
    assert min(done["create"] + done["revise"], done["delete"], done["held"]) > 0, done
