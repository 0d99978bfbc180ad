"""A worker that dies at any call to store, records or queue loses nothing, whether the call took effect or not."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from services.dataset import metrics
from services.dataset.context import WorkerContext
from services.dataset.domain import ADVANCE, CHECK, DatasetRecord, NewDataset, State
from services.dataset.settings import DatasetSettings
from services.kit.errors import DatasetInUse, LeaseLost, SightlineError
from services.kit.holds import Holder, Holds
from services.kit.jobs import Job, publish
from services.kit.leases import leased
from services.kit.records import Table
from services.vision.decode import Decoded
from services.vision.decode_pool import Decoders, Inspected
from services.vision.snapshot import AnnotationKind
from tests.support.datasets import URI, World, tagged

NAME = "datasets/pets"
T = TypeVar("T")


class Killed(Exception):
    """Raised by every call of a dead process."""


class Mortal:
    """Forwards calls until the fatal one; after that the process is dead, and no call has an effect."""

    def __init__(self, fatal: int, *, takes_effect: bool) -> None:
        self.calls = 0
        self._fatal = fatal
        self._takes_effect = takes_effect

    async def _call(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        self.calls += 1
        if self.calls == self._fatal and self._takes_effect:
            await call(*args)
        if self.calls >= self._fatal:
            raise Killed
        return await call(*args)

    def around(self, port: Any) -> Any:
        mortal = self

        class Around:
            def __getattr__(self, name: str) -> Any:
                found = getattr(port, name)
                if not inspect.iscoroutinefunction(found):
                    return found
                return lambda *args: mortal._call(found, *args)

        return Around()

    def context(self, context: WorkerContext, records: Any) -> WorkerContext:
        return replace(
            context,
            table=Table(self.around(records), DatasetRecord),
            blobs=self.around(context.blobs),
            queue=self.around(context.queue),
            holds=Holds(self.around(records)),
        )


@pytest.fixture
async def reference() -> DatasetRecord:
    """The dataset's record if no worker dies."""
    async with viewed() as world:
        await create(world)
        await world.work()
        return (await world.table.get(NAME)).value


class viewed:  # noqa: N801 - a context manager
    """A world whose view is kept current, without a server."""

    async def __aenter__(self) -> World:
        self.world = World(settings=DatasetSettings(chunk_images=2, progress_seconds=0))
        views = self.world.views()
        self._keepers = [asyncio.create_task(view.run()) for view in views]
        for view in views:
            await view.synced()
        return self.world

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()


async def create(world: World) -> None:
    described, files = tagged(6)
    await world.put(described, files)
    await world.app().create(NewDataset("pets", AnnotationKind.IMAGE_CLASSIFICATION, (URI,)))


async def until_dead(world: World, mortal: Mortal) -> bool:
    """Works until the worker dies (True) or nothing is left to do."""
    try:
        while await world.step(lambda context: mortal.context(context, world.records)):
            pass
    except Killed:
        return True
    return False


async def recover(world: World) -> None:
    """Time passes, the reconciler runs, and another worker does what is due."""
    world.clock.advance(60)
    await asyncio.sleep(0)
    await world.reconciler().reconcile()
    await world.work()


@pytest.mark.parametrize("takes_effect", [False, True])
async def test_a_validation_whose_worker_dies_at_its_nth_call_has_the_same_result(
    reference: DatasetRecord, takes_effect: bool
) -> None:
    fatal = 0
    dies = True
    while dies:
        fatal += 1
        async with viewed() as world:
            await create(world)
            dies = await until_dead(world, Mortal(fatal, takes_effect=takes_effect))
            await recover(world)
            record = (await world.table.get(NAME)).value
            assert record.state is State.READY, (fatal, record)
            assert record.snapshot_digest == reference.snapshot_digest
            assert (record.stats, record.finding_counts) == (reference.stats, reference.finding_counts)
            assert record.images_done == 6
    assert fatal > 50


class Counting:
    """Counts the images that are decoded."""

    is_ready = True

    def __init__(self, inner: Decoders) -> None:
        self.count = 0
        self._inner = inner

    async def decode(self, data: bytes, name: str, sizes: Sequence[int], use: Callable[[Decoded], T]) -> T:
        return await self._inner.decode(data, name, sizes, use)

    async def repack(self, data: bytes, name: str, caller: str) -> Inspected:
        self.count += 1
        return await self._inner.repack(data, name, caller)


@pytest.mark.parametrize("takes_effect", [False, True])
async def test_after_a_death_only_the_chunk_that_was_in_work_is_checked_again(takes_effect: bool) -> None:
    fatal, dies, most = 0, True, 0
    while dies:
        fatal += 1
        async with viewed() as world:
            world.decoders = counting = Counting(world.decoders)
            await create(world)
            dies = await until_dead(world, Mortal(fatal, takes_effect=takes_effect))
            await recover(world)
            assert (await world.table.get(NAME)).value.state is State.READY
            most = max(most, counting.count)
    assert most == 6 + 2  # images, and those of a chunk


@pytest.mark.parametrize("takes_effect", [False, True])
async def test_a_deletion_whose_worker_dies_at_its_nth_call_is_completed(takes_effect: bool) -> None:
    fatal = 0
    dies = True
    while dies:
        fatal += 1
        async with viewed() as world:
            await create(world)
            await world.work()
            await world.app().delete(NAME, "")
            dies = await until_dead(world, Mortal(fatal, takes_effect=takes_effect))
            await recover(world)
            assert [blob.key async for blob in world.blobs.list("datasets/")] == [], fatal
            assert world.view.find(NAME) is None
    assert fatal > 10


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
async def test_however_many_workers_there_are_and_die_the_digest_is_the_same(
    reference: DatasetRecord, workers: int, seed: int
) -> None:
    random, deaths = Random(seed), 0
    async with viewed() as world:
        await create(world)

        async def work(holder: str) -> None:
            nonlocal deaths
            while world.view.find(NAME) is None or (await world.table.get(NAME)).value.state is State.VALIDATING:
                fatal = random.randrange(1, 12) if deaths < 4 else 1000  # after five in a row, work is given up
                mortal = Mortal(fatal, takes_effect=random.random() < 0.5)
                name = f"{holder}-{deaths}"

                def context(found: WorkerContext, mortal: Mortal = mortal, name: str = name) -> WorkerContext:
                    return replace(mortal.context(found, world.records), holder=name)

                try:
                    if not await world.step(context):
                        world.clock.advance(20)
                        await world.reconciler().reconcile()
                except Killed:
                    deaths += 1
                except SightlineError:
                    pass
                await asyncio.sleep(0)

        await asyncio.gather(*(work(f"w{number}") for number in range(workers)))
        record = (await world.table.get(NAME)).value
        assert (record.state, record.snapshot_digest) == (State.READY, reference.snapshot_digest)
        assert (record.stats, record.finding_counts) == (reference.stats, reference.finding_counts)
    assert deaths > 0


async def test_losing_the_whole_queue_loses_nothing(reference: DatasetRecord) -> None:
    async with viewed() as world:
        await create(world)
        for _ in range(3):
            world.queue.jobs.clear()  # type: ignore[attr-defined]  # an attribute of the double
            world.clock.advance(60)
            await asyncio.sleep(0)
            await world.reconciler().reconcile()
            assert await world.step()
        assert world.telemetry.value(metrics.REPUBLISHED) == 3
        await recover(world)
        await recover(world)
        assert (await world.table.get(NAME)).value.snapshot_digest == reference.snapshot_digest


async def test_work_that_kills_every_worker_fails_with_a_reason() -> None:
    async with viewed() as world:
        await create(world)
        assert await world.step()
        for _ in range(5):
            for _chunk in range(3):
                delivery = await world.queue.fetch(CHECK, timedelta(0))
                assert delivery
            world.clock.advance(60)
        await world.work()
        record = (await world.table.get(NAME)).value
        assert record.state is State.FAILED
        assert record.error
        assert "given up after 5 attempts" in record.error.message
        assert "checking chunk 0 of its images" in record.error.message


async def test_progress_within_a_chunk_is_visible_and_survives_its_worker() -> None:
    async with viewed() as world:
        world.settings = DatasetSettings(chunk_images=100, progress_seconds=0, images_in_flight=1)
        await create(world)
        assert await world.step()
        done = list[int]()
        world.clock.monotonic = lambda: 0.0
        fatal = 12
        while len(done) < 4:
            await until_dead(world, Mortal(fatal, takes_effect=True))
            done.append((await world.table.get(NAME)).value.images_done)
            fatal += 4
            world.clock.advance(60)
        assert done == sorted(done)
        assert 0 < done[0] < 6


async def test_two_workers_on_one_chunk_do_no_harm(reference: DatasetRecord) -> None:
    async with viewed() as world:
        await create(world)
        assert await world.step()
        for job in list(world.queue.jobs[CHECK]):  # type: ignore[attr-defined]  # an attribute of the double
            await world.queue.publish(CHECK, job.body)

        async def one() -> None:
            while await world.step():
                pass

        await asyncio.gather(one(), one(), one())
        assert (await world.table.get(NAME)).value.snapshot_digest == reference.snapshot_digest


async def test_a_worker_that_lost_its_lease_can_no_longer_write() -> None:
    async with viewed() as world:
        await create(world)
        ttl = world.settings.lease
        async with leased(world.table, NAME, "w1", world.clock, ttl) as slow:
            world.clock.advance(60)
            async with leased(world.table, NAME, "w2", world.clock, ttl) as quick:
                with pytest.raises(LeaseLost):
                    await slow.write(lambda record: replace(record, display_name="late"))
                assert (await quick.write(lambda record: replace(record, display_name="mine"))).display_name == "mine"
        assert (await world.table.get(NAME)).value.display_name == "mine"


async def test_a_worker_that_loses_its_lease_while_working_stops_within_a_heartbeat() -> None:
    async with viewed() as world:
        await create(world)
        ttl = timedelta(milliseconds=40)

        async def work_too_long() -> None:
            async with leased(world.table, NAME, "w1", world.clock, ttl):
                world.clock.advance(60)
                await world.table.change(NAME, lambda record: record.taken("w2", world.clock.now(), ttl))
                await asyncio.sleep(10)

        with pytest.raises(LeaseLost):
            await work_too_long()
        assert (await world.table.get(NAME)).value.lease.holder == "w2"


async def test_a_lease_lost_by_a_stalled_worker_is_counted() -> None:
    async with viewed() as world:
        await create(world)
        get_file = world.blobs.get_file

        async def slow(key: str, path: Path) -> None:
            world.clock.advance(60)
            await world.table.change(NAME, lambda record: record.taken("w2", world.clock.now(), timedelta(hours=1)))
            await get_file(key, path)

        world.blobs.get_file = slow
        await world.step()
        assert world.telemetry.value(metrics.LEASES_LOST) == 1


async def test_a_deletion_that_waits_for_a_worker_continues_as_soon_as_the_lease_is_released() -> None:
    async with viewed() as world:
        await create(world)
        reading = asyncio.Event()
        get_file = world.blobs.get_file

        async def slow(key: str, path: Path) -> None:
            reading.set()
            await asyncio.sleep(0.1)
            await get_file(key, path)

        world.blobs.get_file = slow
        step = asyncio.create_task(world.step())
        await reading.wait()
        await world.app().delete(NAME, "")
        await step
        await world.work()
        await asyncio.sleep(0)
        assert world.view.find(NAME) is None
        assert [blob.key async for blob in world.blobs.list("datasets/")] == []


async def test_a_worker_that_stood_still_touches_nothing_of_a_later_dataset_of_the_name() -> None:
    """It goes on with a deletion that another worker has completed since."""
    async with viewed() as world:
        await create(world)
        await world.work()
        await world.app().delete(NAME, "")
        standing, go_on, delete = asyncio.Event(), asyncio.Event(), world.blobs.delete

        async def still(key: str) -> None:
            standing.set()
            await go_on.wait()
            await delete(key)

        world.blobs.delete = still
        zombie = asyncio.create_task(world.step(lambda context: replace(context, holder="zombie")))
        await standing.wait()
        world.blobs.delete = delete
        world.clock.advance(60)
        await publish(world.queue, ADVANCE, Job(NAME))
        await world.work()
        await create(world)
        await world.work()
        training = Holder("models/m", "u")
        await world.holds.add(NAME, training)
        before = [blob.key async for blob in world.blobs.list("datasets/")]
        go_on.set()
        with suppress(SightlineError):
            await zombie
        assert [blob.key async for blob in world.blobs.list("datasets/")] == before
        assert (await world.collection.get(NAME)).value.state is State.READY
        with pytest.raises(DatasetInUse):
            await world.app().delete(NAME, "")
