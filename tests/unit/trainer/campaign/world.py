"""Trainings in virtual time: the real coordinators, planner, ledger and leases over one set of records.

Everything random follows from two seeds. The first decides what trials cost and deliver, and the workers' speeds and
device factors; the second what goes wrong: which worker, child or coordinator dies, stalls or shuts down, and when, and
how far a coordinator's views are behind.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from services.kit import codec
from services.kit.clock import ManualClock
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.records import Change, Record, Table
from services.kit.telemetry import MemoryTelemetry
from services.trainer.datasets import Dataset
from services.trainer.domain import Evaluation, Model, ModelState, StopReason, Trial, granted, training_cost
from services.trainer.planner.selection import Selection
from services.trainer.reconcile.coordinator import Coordinator
from services.trainer.store import Store
from services.trainer.work import WorkState
from tests.unit.trainer.campaign.worker import Outside, Script, ScriptedWorker
from tests.unit.trainer.support import TTL, FakeDatasets

TURNS = 20_000  # a training that takes more never ends


class Killed(BaseException):
    """Raised where a coordinator dies."""


class SharedRecords(MemoryRecords):
    """The records that everybody writes."""

    @property
    def revision(self) -> int:
        """The number of the last write."""
        return self._revision

    def value(self, key: str) -> bytes:
        """The present value of a key."""
        return self._records[key].value

    def under(self, prefix: str) -> list[bytes]:
        """The values of all keys that start so, in order of keys."""
        return [record.value for key, record in sorted(self._records.items()) if key.startswith(prefix)]


class ReplicaRecords(MemoryRecords):
    """The records as one coordinator sees them: it may die at a write, and its views may be behind."""

    def __init__(self, shared: MemoryRecords) -> None:
        super().__init__()
        self._shared = shared
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._dies_at: tuple[int, bool] | None = None
        self.dead = False

    def dies_at(self, writes: int, *, after: bool) -> None:
        """It dies at the write after so many others, before or after it."""
        self._dies_at = writes, after

    def follow(self, *, closely: bool) -> None:
        """Whether its views see changes; its own writes they always see."""
        (self._flowing.set if closely else self._flowing.clear)()

    async def get(self, key: str) -> Record:
        return await self._shared.get(key)

    async def create(self, key: str, value: bytes) -> int:
        return await self._write_or_die(lambda: self._shared.create(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._write_or_die(lambda: self._shared.update(key, value, revision))

    async def delete(self, key: str, revision: int) -> int:
        return await self._write_or_die(lambda: self._shared.delete(key, revision))

    async def _write_or_die(self, write: Callable[[], Awaitable[int]]) -> int:
        left, after = self._dies_at or (1, False)
        if self._dies_at:
            self._dies_at = left - 1, after
        if self.dead or (left <= 0 and not after):
            self.dead = True
            raise Killed
        self.follow(closely=True)
        revision = await write()
        if left <= 0:
            self.dead = True
            raise Killed
        return revision

    async def watch(self, *collections: str) -> AsyncIterator[Change]:
        async for change in self._shared.watch(*collections):
            await self._flowing.wait()
            yield change


@dataclass
class Replica:
    """One coordinator."""

    records: ReplicaRecords
    coordinator: Coordinator
    views: "asyncio.Task[None]"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What there is, and what may happen to it."""

    seed: int
    models: tuple[Model, ...]
    datasets: tuple[Dataset, ...]
    workers: int
    coordinators: int = 2
    trouble_seed: int = 0
    trouble: float = 0.0  # probability, in each turn of a worker or a coordinator
    cancels: float = 0.0  # share of models that are cancelled
    factors: tuple[float, ...] = (1.0,)  # of devices


class CountingQueue(MemoryQueue):
    """A queue for whose jobs the scripted workers wait."""

    workers: tuple[ScriptedWorker, ...] = ()

    async def waiting(self, kind: str) -> int:
        return sum(worker.waits for worker in self.workers)


@dataclass
class World:
    """The models of a setting, until all have ended."""

    setting: Setting
    records: SharedRecords = field(default_factory=SharedRecords)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    clock: ManualClock = field(default_factory=ManualClock)
    replicas: list[Replica] = field(default_factory=list[Replica])
    most_at_once: int = 0  # trials of one model
    checked: int = 0  # revision

    def __post_init__(self) -> None:
        setting, fixed = self.setting, Random(self.setting.seed)
        self.luck = Random(f"{setting.seed}/{setting.trouble_seed}")
        self.queue, self.script = CountingQueue(self.clock), Script(setting.seed)
        outside = Outside(self.script, self.records, self.blobs, self.queue, self.clock, self.luck)
        self.workers = tuple(
            ScriptedWorker(number, outside, fixed.choice(setting.factors), fixed.uniform(0.6, 1.6), setting.trouble)
            for number in range(setting.workers)
        )
        self.queue.workers = self.workers
        cancelled = [model.name for model in setting.models if self.luck.random() < setting.cancels]
        self.cancel_at = {name: 2.5 * TTL.total_seconds() + self.luck.expovariate(1 / 60) for name in cancelled}
        self.datasets = FakeDatasets(*setting.datasets)

    async def run(self) -> None:
        """Until every model has ended; AssertionError as soon as anything is wrong."""
        try:
            while self.clock.monotonic() < 2 * TTL.total_seconds():  # until the coordinators have counted the workers
                await self._turn()
            for model in self.setting.models:
                await Table(self.records, Model).create(model.name, model)
            for _ in range(TURNS):
                await self._turn()
                if all(self.model(model.name).ended for model in self.setting.models):
                    break
            else:
                raise AssertionError("it never ends")
            for model in self.setting.models:
                await self._check_end(self.model(model.name))
        finally:
            for replica in self.replicas:
                replica.views.cancel()
            await asyncio.gather(*(replica.views for replica in self.replicas), return_exceptions=True)

    async def _turn(self) -> None:
        self.clock.advance(self.luck.uniform(1, 4))
        for worker in self.luck.sample(self.workers, len(self.workers)):
            await worker.turn()
            self._check()
        for name, moment in tuple(self.cancel_at.items()):
            if self.clock.monotonic() >= moment:
                del self.cancel_at[name]
                await Table(self.records, Model).change(name, self._cancelled)
        await self._coordinate()
        self._check()

    def _cancelled(self, model: Model) -> Model:
        if model.ended:
            return model
        return model.moved(ModelState.CANCELLING, self.clock.now(), stop_reason=StopReason.CANCELLED_BY_CALLER)

    # Coordinators.

    async def _coordinate(self) -> None:
        while len(self.replicas) < self.setting.coordinators:
            self.replicas.append(await self._replica())
        awake = [replica for replica in self.replicas if self.luck.random() < 0.8]
        for replica in awake:
            if self.luck.random() < self.setting.trouble:
                replica.records.dies_at(self.luck.randint(0, 3), after=self.luck.random() < 0.5)
        await asyncio.gather(*(self._reconcile(replica) for replica in awake))
        for replica in self.replicas:
            replica.records.follow(closely=len(self.replicas) < 2 or self.luck.random() < 0.7)
        for _ in range(8):
            await asyncio.sleep(0)  # the views follow

    async def _replica(self) -> Replica:
        records = ReplicaRecords(self.records)
        store = Store.over(records)
        views = asyncio.create_task(store.run())
        await store.synced()
        telemetry = MemoryTelemetry()
        coordinator = Coordinator(store, self.datasets, self.blobs, self.queue, self.clock, telemetry, TTL)
        return Replica(records, coordinator, views)

    async def _reconcile(self, replica: Replica) -> None:
        try:
            await replica.coordinator.reconcile()
        except Killed:
            replica.records.dead = True
            replica.views.cancel()
            self.replicas.remove(replica)

    # What must hold.

    def model(self, name: str) -> Model:
        """The model as it is now."""
        return codec.decode(self.records.value(name), Model)

    def trials(self, name: str) -> list[Trial]:
        """The trials of a model, by number."""
        return [codec.decode(value, Trial) for value in self.records.under(f"{name}/trials/")]

    def final(self, name: str) -> Evaluation | None:
        """The final evaluation of a model."""
        return next((codec.decode(value, Evaluation) for value in self.records.under(f"{name}/evaluations/")), None)

    def _check(self) -> None:
        if self.records.revision == self.checked:
            return
        self.checked = self.records.revision
        for model in self.setting.models:
            trials, final = self.trials(model.name), self.final(model.name)
            assert granted(trials, final) <= model.budget, "the allowances exceed the budget"
            assert [trial.number for trial in trials] == list(range(len(trials))), "a trial is missing"
            names = [trial.recipe.name for trial in trials]
            assert len(set(names)) == len(names), f"a trial is repeated: {names}"
            assert final is None or all(trial.work.ended for trial in trials), "a trial runs beside the evaluation"
            for record in (*trials, *([final] if final else [])):
                self._check_charges(record)
            running = sum(trial.work.state is WorkState.RUNNING for trial in trials)
            self.most_at_once = max(self.most_at_once, running)

    def _check_charges(self, record: Trial | Evaluation) -> None:
        """Work is charged once: what it needs or, if that is less, its allowance; not less if it succeeded."""
        work, needs = record.work, self.script.needs(record)
        limit = min(needs, work.allowance)
        assert work.charged <= (work.allowance if work.state is WorkState.STOPPED else limit), "it was charged twice"
        if work.state is WorkState.SUCCEEDED:
            assert work.charged >= limit - timedelta(milliseconds=1), "it was not charged for all of its work"

    async def _check_end(self, model: Model) -> None:
        trials, final = self.trials(model.name), self.final(model.name)
        assert all(trial.work.ended for trial in trials), "a trial outlives its model"
        assert final is None or final.work.ended, "the evaluation outlives its model"
        assert model.training_cost == training_cost(trials, final) <= model.budget
        best = await Selection(self.blobs).best(trials)
        if model.state is ModelState.SUCCEEDED:
            assert best is not None
            assert model.served is not None
            assert model.served.trial == best.name, "the best trial is not served"
        elif model.state is ModelState.FAILED:
            assert best is None, f"{best} was not used"
