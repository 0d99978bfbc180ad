"""How many workers are free: several are counted, and one that is restarted never counts as two."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from msgspec.structs import replace

from services.kit.clock import ManualClock
from services.kit.errors import Unavailable
from services.kit.memory import MemoryQueue, MemoryRecords
from services.trainer.domain import Trial
from services.trainer.estimate import Estimate
from services.trainer.recipe import Recipe
from services.trainer.reconcile.workers import BLINK_SECONDS, Present, Workers
from services.trainer.store import Store
from services.trainer.work import Work
from tests.unit.trainer.support import START, TTL, model, running, snapshot

LEASE = TTL.total_seconds()


class Waiting(MemoryQueue):
    """A queue for whose jobs so many workers wait; None in an outage."""

    count: int | None = 0

    async def waiting(self, kind: str) -> int:
        if self.count is None:
            raise Unavailable(what="the queue", problem="it is down")
        return self.count


@dataclass
class World:
    store: Store
    queue: Waiting
    clock: ManualClock
    workers: Workers

    async def later(self, seconds: float, waiting: int | None) -> int:
        """How many are free after so many seconds of so many waiting workers."""
        self.queue.count = waiting
        for _ in range(int(seconds)):
            self.clock.advance(1)
            await self.workers.count()
        return self.workers.free

    async def estimate(self) -> Estimate:
        """One that a worker measures."""
        work = Work(create_time=START, allowance=timedelta(minutes=5))
        found = Estimate(
            name="estimates/e",
            model=model(),
            fewest=9,
            work=work.taken("e", "prober", self.clock.now(), timedelta(hours=1)),
            update_time=START,
        )
        return (await self.store.estimates.create(found)).value

    async def trial(self, number: int = 0, *, taken: bool = True, holder: str = "") -> Trial:
        work = Work(create_time=START, allowance=timedelta(minutes=5))
        holder = holder or f"worker-{number}"
        found = Trial(
            name=f"models/m/trials/t{number:03d}",
            model_uid="uid1",
            number=number,
            training=snapshot(),
            recipe=Recipe(name="r", rung=0, backbones=("mobilenet_v2",)),
            holdout_fraction=0.2,
            seed=0,
            work=work.taken("t", holder, self.clock.now(), timedelta(hours=1)) if taken else work,
            update_time=START,
        )
        return (await self.store.trials.create(found)).value

    async def end(self, trial: Trial) -> None:
        ended = trial.work.failed(self.clock.now(), Unavailable(what="it", problem="?").failure())
        await self.store.trials.change(trial.name, lambda found: replace(found, work=ended))


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    clock = ManualClock(START)
    async with running(MemoryRecords()) as store:
        queue = Waiting(clock)
        yield World(store, queue, clock, Workers(store, queue, clock, LEASE))


async def test_workers_count_once_they_are_there_for_longer_than_a_lease() -> None:
    async with world() as at:
        assert await at.later(LEASE, 3) == 0
        assert await at.later(2, 3) == 3


async def test_busy_workers_and_work_that_waits_for_one_are_not_free() -> None:
    async with world() as at:
        await at.later(60, 3)
        await at.trial(0)
        assert await at.later(10, 2) == 2
        await at.trial(1, taken=False)
        assert at.workers.free == 1
        with at.workers.claimed():
            assert at.workers.free == 0
        assert at.workers.free == 1


async def test_a_worker_that_measures_for_an_estimate_is_there_but_not_free() -> None:
    async with world() as at:
        assert await at.later(60, 2) == 2
        estimate = await at.estimate()
        assert await at.later(10, 1) == 1
        await at.store.estimates.delete(estimate.name)
        assert at.workers.free == 2
        assert await at.later(BLINK_SECONDS - 1, 2) == 2


async def test_a_worker_whose_former_lease_is_still_live_counts_once() -> None:
    async with world() as at:
        await at.later(60, 2)
        await at.trial(0, holder="worker")
        await at.trial(1, holder="worker")
        assert await at.later(60, 1) == 0
        assert (await Present.counted(at.store, at.queue, at.clock)).total == 2


async def test_a_worker_between_two_jobs_is_still_there() -> None:
    async with world() as at:
        busy = await at.trial(0)
        assert await at.later(60, 1) == 1
        await at.end(busy)
        assert at.workers.free == 2
        assert await at.later(BLINK_SECONDS - 1, 1) == 2
        assert await at.later(BLINK_SECONDS, 2) == 2


async def test_workers_that_leave_are_no_longer_counted() -> None:
    async with world() as at:
        assert await at.later(60, 3) == 3
        assert await at.later(BLINK_SECONDS + 1, 2) == 2
        assert await at.later(BLINK_SECONDS + 1, 1) == 0


async def test_one_worker_that_is_restarted_while_its_lease_is_live_never_counts_as_two() -> None:
    async with world() as at:
        await at.later(60, 1)
        for number in range(5):
            trial = await at.trial(number)
            assert await at.later(10, 0) == 0
            assert await at.later(LEASE - 1, 1) == 0, "it waits, and the lease of its predecessor is still live"
            await at.end(trial)
            assert await at.later(4, 1) == 0


async def test_an_outage_of_the_queue_changes_nothing() -> None:
    async with world() as at:
        await at.later(60, 2)
        assert await at.later(60, None) == 2
