"""A worker by script: takes jobs and leases, commits and delivers as a real one does, but computes nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from random import Random

import msgspec

from services.kit import codec
from services.kit.clock import ManualClock
from services.kit.errors import Diverged, LeaseLost
from services.kit.jobs import Job
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.queue import Delivery
from services.kit.records import Table
from services.trainer.domain import Evaluation, Trial
from services.trainer.ledger import ZERO, scaled
from services.trainer.performance import Source
from services.trainer.planner.costs import expected_seconds
from services.trainer.recipe import is_linear
from services.trainer.reconcile import jobs
from services.trainer.reconcile.workers import BLINK_SECONDS
from services.trainer.work import Work
from services.trainer.worker.attempt import Attempt, CancelRequested
from services.vision.card import ModelKind
from tests.unit.trainer.support import TTL, detections, detector_result, performance, predictions, result

FEW = 20  # images in the predictions of a trial, which are compared in every training


@dataclass(frozen=True)
class Script:
    """What trials need and deliver: the same in every run of a seed."""

    seed: int

    def needs(self, record: Trial | Evaluation) -> timedelta:
        """Ledger time from the beginning to the end."""
        if isinstance(record, Evaluation):
            return timedelta(seconds=1)
        expected = expected_seconds(record.recipe, record.training.image_count)
        return timedelta(seconds=expected * self._random(record).uniform(0.2, 1.8))

    def ends(self, record: Trial | Evaluation) -> str:
        """How it ends; one that "offers nothing" has no result when its allowance is used up."""
        if isinstance(record, Evaluation) or not record.number:
            return "delivers"
        return self._random(record).choices(["delivers", "fails", "offers nothing"], [0.8, 0.1, 0.1])[0]

    def right(self, trial: Trial) -> int:
        """How many images it classifies correctly."""
        return self._random(trial).randint(FEW // 3, FEW - 1)

    def _random(self, trial: Trial) -> Random:
        return Random(f"{self.seed}/{trial.recipe.name}")


@dataclass
class Outside:
    """What workers share; `saved` is what the checkpoint of each piece of work contains, in ledger time."""

    script: Script
    records: MemoryRecords
    blobs: MemoryBlobs
    queue: MemoryQueue
    clock: ManualClock
    luck: Random
    saved: dict[str, timedelta] = field(default_factory=dict[str, timedelta])


@dataclass
class _Running:
    attempt: Attempt[Trial] | Attempt[Evaluation]
    delivery: Delivery
    began_with: timedelta
    whole: timedelta  # on the device, from here to the end
    allowed: timedelta  # on the device
    used: timedelta = ZERO  # on the device


class ScriptedWorker:
    """One worker; `trouble` is the probability of trouble in each turn in which it is busy."""

    def __init__(self, number: int, outside: Outside, factor: float, speed: float, trouble: float) -> None:
        self._number, self._lives = number, 0
        self._outside = outside
        self._factor, self._speed, self._trouble = factor, speed, trouble
        self._running: _Running | None = None
        self._back = 0.0  # when it is there again after its death
        self._stalled = 0.0

    @property
    def waits(self) -> bool:
        """Whether it is there and waits for a job."""
        return self._running is None and self._outside.clock.monotonic() >= self._back

    async def turn(self) -> None:
        """Takes a job, or works on it for a moment."""
        if self._outside.clock.monotonic() < max(self._back, self._stalled):
            return
        if self._running is None:
            await self._take()
            return
        try:
            if self._outside.luck.random() < self._trouble:
                await self._suffer(self._running)
            else:
                await self._work(self._running)
        except CancelRequested:
            await self._end(self._running, lambda work: work.cancelled(self._outside.clock.now()))
        except LeaseLost:
            await self._free(self._running)

    async def _take(self) -> None:
        at = self._outside
        delivery = await at.queue.fetch(jobs.KIND, ZERO)
        if delivery is None:
            return
        name = codec.decode(delivery.body, Job).name
        rest = (name, f"w{self._number}.{self._lives}", at.clock, TTL, self._factor)
        attempt: Attempt[Trial] | Attempt[Evaluation] | None
        if "/trials/" in name:
            attempt = await Attempt[Trial].begin(Table(at.records, Trial), *rest)
        else:
            attempt = await Attempt[Evaluation].begin(Table(at.records, Evaluation), *rest)
        if attempt is None:
            await delivery.ack()
            return
        saved = at.saved.get(name, ZERO)
        whole = scaled(at.script.needs(attempt.record) - saved, 1 / Fraction(self._factor))
        self._running = _Running(attempt, delivery, saved, whole, attempt.allowance)

    async def _work(self, running: _Running) -> None:
        """A second or two of the device; then a report, a commit or the end."""
        attempt, record, ends = (
            running.attempt,
            running.attempt.record,
            self._outside.script.ends(running.attempt.record),
        )
        limit = min(running.whole, running.allowed)
        running.used = min(limit, running.used + timedelta(seconds=self._outside.luck.uniform(0.5, 4) * self._speed))
        if running.used < limit:
            if isinstance(record, Trial) and not is_linear(record.recipe) and self._outside.luck.random() < 0.4:
                await attempt.commit(running.used, f"{record.blob_prefix}{record.work.attempt}/{running.used}/")
                self._outside.saved[record.name] = running.began_with + scaled(running.used, Fraction(self._factor))
            else:
                await attempt.beat(running.used, 0.5, "train")
        elif ends == "fails" and running.whole <= running.allowed:
            failure = Diverged(trial=record.name, loss="nan", step=3, learning_rate=0.1, retries=3).failure()
            await self._end(running, lambda work: work.failed(self._outside.clock.now(), failure))
        elif ends == "offers nothing" and running.whole > running.allowed:
            await self._end(running, lambda work: work.stopped(self._outside.clock.now()))
        else:
            await self._deliver(running)
            await self._free(running)

    async def _deliver(self, running: _Running) -> None:
        record = running.attempt.record
        if isinstance(record, Evaluation):
            brought = performance(0.9, Source.TEST_DATASET)
            await running.attempt.succeed(running.used, performance=brought, performance_key="p")
            return
        right = self._outside.script.right(record)
        if record.recipe.kind is ModelKind.GENERIC_CLASSIFIER:
            found, predicted = result(record, 4 * right), predictions(right, FEW)
        else:
            found, predicted = detector_result(record, 4 * right), detections(right, 0 if record.recipe.refit else FEW)
        await self._outside.blobs.put(found.predictions_key, msgspec.msgpack.encode(predicted))
        await running.attempt.succeed(running.used, result=found)

    async def _suffer(self, running: _Running) -> None:
        at = self._outside
        now = at.clock.monotonic()
        match at.luck.choice(["dies", "dies", "stalls", "child dies", "shuts down"]):
            case "dies":  # it tells nobody: its job and its lease expire
                self._running, self._lives = None, self._lives + 1
                self._back = now + BLINK_SECONDS + at.luck.uniform(4, 30)
            case "stalls":
                self._stalled = now + at.luck.uniform(1, 40)
            case "child dies":
                await self._end(running, lambda work: work.lost(at.clock.now(), running.attempt.name, "it died"))
            case _:
                await self._end(running, lambda work: work.released(at.clock.now()))

    async def _end(self, running: _Running, how: Callable[[Work], Work]) -> None:
        with suppress(LeaseLost):
            await running.attempt.end(how)
        await self._free(running)

    async def _free(self, running: _Running) -> None:
        await running.delivery.ack()
        self._running = None
