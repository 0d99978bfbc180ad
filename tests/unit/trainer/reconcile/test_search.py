"""A search by several replicas and on several workers: one decision at a time, by whoever is not behind."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from services.kit.clock import ManualClock
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.telemetry import MemoryTelemetry
from services.trainer.domain import Model, ModelState, Trial, granted
from services.trainer.planner.plan import plan
from services.trainer.planner.selection import Selection
from services.trainer.planner.steps import StartTrial
from services.trainer.recipe import Recipe
from services.trainer.reconcile.coordinator import Coordinator
from services.trainer.reconcile.search import Search
from services.trainer.store import Store
from services.trainer.used_weights import UsedWeights
from services.trainer.work import Work
from services.vision.card import ModelKind, WeightsSource
from tests.unit.trainer.support import (
    START,
    TTL,
    FakeDatasets,
    QuickWorker,
    dataset,
    model,
    running,
    snapshot,
    training,
)

NAME = "models/m"
ALLOWANCE = timedelta(seconds=60)


class Waiting(MemoryQueue):
    """A queue for whose jobs so many workers wait."""

    count = 0

    async def waiting(self, kind: str) -> int:
        return self.count


@dataclass
class World:
    records: MemoryRecords
    blobs: MemoryBlobs
    clock: ManualClock
    queue: Waiting
    worker: QuickWorker
    store: Store
    datasets: FakeDatasets

    def search(self, store: Store | None = None) -> Search:
        async def announce(name: str, work: Work) -> None:
            pass

        return Search(store or self.store, Selection(self.blobs), self.clock, announce)

    def coordinator(self) -> Coordinator:
        return Coordinator(self.store, self.datasets, self.blobs, self.queue, self.clock, MemoryTelemetry(), TTL)

    async def model(self, name: str = NAME) -> Model:
        return (await self.store.models.get(name)).value

    async def trial(self, number: int) -> Trial:
        """A trial that waits for a worker."""
        recipe = Recipe(name=f"r{number}", rung=0, backbones=("mobilenet_v2",))
        work = Work(create_time=START, allowance=ALLOWANCE)
        name = f"{NAME}/trials/t{number:03d}"
        found = Trial(
            name=name,
            model_uid="uid1",
            number=number,
            training=snapshot(),
            recipe=recipe,
            holdout_fraction=0.2,
            seed=0,
            work=work,
            update_time=START,
        )
        return (await self.store.trials.create(found)).value

    async def handle(self, name: str) -> None:
        await self.worker.handle(name)
        for _ in range(20):
            await asyncio.sleep(0)  # the views follow

    async def see(self, coordinator: Coordinator, waiting: int, seconds: int = 20) -> None:
        """So many workers wait for some time."""
        self.queue.count = waiting
        for _ in range(seconds):
            self.clock.advance(1)
            await coordinator.reconcile()


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    records, blobs, clock = MemoryRecords(), MemoryBlobs(), ManualClock(START)
    queue = Waiting(clock)
    worker = QuickWorker(records, blobs, queue, clock)
    async with running(records) as store:
        boxes = dataset("datasets/boxes", annotation_kind="OBJECT_DETECTION")
        datasets = FakeDatasets(dataset(), dataset("datasets/test", image_count=20), boxes)
        yield World(records, blobs, clock, queue, worker, store, datasets)


def step() -> StartTrial:
    found = plan(training(), [], None)
    assert isinstance(found, StartTrial)
    return found


async def test_later_trials_must_use_the_packs_that_the_first_ones_used() -> None:
    async with world() as at:
        await at.store.models.create(training())
        first = UsedWeights(network="a", source=WeightsSource.STORE, sha256="1")
        local = UsedWeights(network="a", source=WeightsSource.FOLDER, sha256="2")
        other = UsedWeights(network="b", source=WeightsSource.STORE, sha256="3")
        for number, weights in enumerate([(first,), (local, other), (replace(first, sha256="4"),)]):
            name = (await at.trial(number)).name
            await at.handle(name)

            def bring(trial: Trial, weights: tuple[UsedWeights, ...] = weights) -> Trial:
                assert trial.result
                return replace(trial, result=dataclasses.replace(trial.result, weights=weights))

            await at.store.trials.change(name, bring)
        await at.search().start_trial(await at.model(), at.store.trials_of(NAME), step())
        planned = (await at.model()).planned
        assert planned
        assert planned.weights == (first, local, other)


async def test_a_trial_that_ends_after_a_later_one_was_served_is_still_compared() -> None:
    async with world() as at:
        right = {0: 60, 1: 90, 2: 75}
        at.worker.score = lambda trial: right[trial.number]
        await at.store.models.create(training())
        names = [(await at.trial(number)).name for number in right]
        for number, best in ((0, 0), (2, 2), (1, 1)):
            await at.handle(names[number])
            await at.search().serve_best(await at.model(), at.store.trials_of(NAME))
            served = (await at.model()).served
            assert served is not None
            assert served.trial == names[best]


async def test_a_model_has_the_warnings_of_its_start_and_of_what_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as at:
        brought = at.worker._brought

        def warned(trial: Trial) -> Any:
            result, found = brought(trial)
            return dataclasses.replace(result, warnings=("both", f"of t{trial.number}")), found

        monkeypatch.setattr(at.worker, "_brought", warned)
        at.worker.score = lambda trial: 60 + 10 * trial.number
        await at.store.models.create(training(warnings=("start",)))
        for number in range(3):
            await at.handle((await at.trial(number)).name)
            found = await at.search().serve_best(await at.model(), at.store.trials_of(NAME))
            assert found.served is not None
            assert found.served.trial == f"{NAME}/trials/t{number:03d}"
            assert found.warnings == ("start", "both", f"of t{number}")


async def test_a_refit_s_model_keeps_the_warnings_of_the_trial_that_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as at:
        measured, refit = await at.trial(0), await at.trial(1)
        again = replace(refit.recipe, refit=True)
        await at.store.trials.change(refit.name, lambda found: replace(found, recipe=again, parent_trial=measured.name))
        for trial in (measured, refit):
            await at.handle(trial.name)

            def warned(found: Trial) -> Trial:
                assert found.result
                return replace(found, result=dataclasses.replace(found.result, warnings=(f"of t{found.number}",)))

            await at.store.trials.change(trial.name, warned)
        for _ in range(20):
            await asyncio.sleep(0)  # the views follow
        trials = at.store.trials_of(NAME)

        async def best(self: Selection, _trials: list[Trial]) -> Trial:
            return trials[1]

        monkeypatch.setattr(Selection, "best", best)
        await at.store.models.create(training())
        found = await at.search().serve_best(await at.model(), trials)
        assert found.warnings == ("of t0", "of t1")


async def test_what_is_served_does_not_depend_on_the_order_in_which_trials_end() -> None:
    chosen: set[str] = set()
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
        async with world() as at:
            at.worker.score = lambda trial: (60, 90, 75, 89)[trial.number]
            await at.store.models.create(training())
            names = [(await at.trial(number)).name for number in range(4)]
            for number in order:
                await at.handle(names[number])
                await at.search().serve_best(await at.model(), at.store.trials_of(NAME))
            served = (await at.model()).served
            assert served is not None
            assert served.compared == 4
            chosen.add(served.trial)
    assert len(chosen) == 1


async def test_a_replica_that_has_seen_fewer_results_never_reverts_the_choice_even_if_it_was_only_confirmed() -> None:
    async with world() as at:
        at.worker.score = lambda trial: (60, 80, 20)[trial.number]
        await at.store.models.create(training())
        names = [(await at.trial(number)).name for number in range(3)]
        await at.handle(names[0])
        behind = await at.search().serve_best(await at.model(), at.store.trials_of(NAME))
        seen = at.store.trials_of(NAME)[:1]
        for number in (1, 2):
            await at.handle(names[number])
            await at.search().serve_best(await at.model(), at.store.trials_of(NAME))
        served = (await at.model()).served
        assert served is not None
        assert (served.trial, served.compared) == (names[1], 3)
        await at.search().serve_best(replace(behind, served=None), seen)
        assert (await at.model()).served == served


async def test_no_trial_starts_once_the_search_has_ended() -> None:
    async with world() as at:
        await at.store.models.create(training(test=snapshot("datasets/test", 20)))
        behind = await at.model()
        await at.handle((await at.trial(0)).name)
        trials = at.store.trials_of(NAME)
        current = await at.search().serve_best(await at.model(), trials)
        await at.search().start_final(current, trials, timedelta(seconds=5))
        await at.search().start_trial(behind, trials, step())
        assert at.store.trials_of(NAME) == trials
        assert at.store.final_of(NAME) is not None


async def test_the_search_does_not_end_while_a_trial_is_planned_that_the_replica_has_not_seen() -> None:
    async with world() as at:
        await at.store.models.create(training(test=snapshot("datasets/test", 20)))
        await at.handle((await at.trial(0)).name)
        seen = at.store.trials_of(NAME)
        behind = await at.search().serve_best(await at.model(), seen)
        await at.search().start_trial(await at.model(), seen, step())
        await at.search().start_final(behind, seen, timedelta(seconds=5))
        assert at.store.final_of(NAME) is None
        assert not (await at.model()).search_ended
        await at.coordinator()._move(behind, seen, ModelState.SUCCEEDED)
        assert (await at.model()).state is ModelState.TRAINING


async def test_a_trial_planned_by_a_replica_that_died_is_created_by_another_and_cancelled_with_its_model() -> None:
    async with world() as at:
        await at.store.models.create(training())
        await at.search().start_trial(await at.model(), [], step())
        planned = (await at.model()).planned
        assert planned is not None
        await at.store.trials.delete(planned.name)  # as if it had not been created yet
        await at.coordinator().reconcile()
        assert [trial.recipe for trial in at.store.trials_of(NAME)] == [planned.recipe]
        await at.store.trials.delete(planned.name)
        await at.store.models.change(NAME, lambda found: replace(found, state=ModelState.CANCELLING))
        await at.coordinator().reconcile()
        assert (await at.model()).state is ModelState.CANCELLING, "the trial is created first, and then cancelled"
        await at.coordinator().reconcile()
        assert (await at.model()).state is ModelState.CANCELLED
        assert all(trial.work.ended for trial in at.store.trials_of(NAME))


def detector(name: str, **changes: Any) -> Model:
    kind = ModelKind.GENERIC_DETECTOR
    found = model(name, model_kind=kind, training_dataset="datasets/boxes", budget=timedelta(hours=1))
    return replace(found, **changes)


async def test_one_free_worker_gets_one_further_trial_though_two_models_have_some() -> None:
    async with world() as at:
        names = ("models/a", "models/b")
        for name in names:
            await at.store.models.create(detector(name))
        coordinator = at.coordinator()
        await at.see(coordinator, 3)
        for name in names:
            await at.handle(f"{name}/trials/t000")
        await at.see(coordinator, 3, seconds=5)
        assert sum(len(at.store.trials_of(name)) for name in names) == 2 + 3
        for name in names:
            assert granted(at.store.trials_of(name), None) < timedelta(hours=1)


async def test_no_further_trial_is_planned_while_other_work_waits_for_a_worker() -> None:
    async with world() as at:
        await at.store.models.create(detector("models/a"))
        coordinator = at.coordinator()
        await at.see(coordinator, 2)
        await at.store.models.create(detector("models/b"))
        await coordinator.reconcile()
        await at.handle("models/a/trials/t000")
        await at.see(coordinator, 2)
        assert [len(at.store.trials_of(name)) for name in ("models/a", "models/b")] == [2, 1]
