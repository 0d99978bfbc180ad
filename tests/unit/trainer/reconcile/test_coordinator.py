"""The coordinator: moves a model through its training by records alone, with any replicas, dying at any time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from msgspec.structs import replace

from services.kit import codec
from services.kit.clock import ManualClock
from services.kit.errors import CategoriesUnknown, Unavailable
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.records import MAX_RECORD_BYTES, Table
from services.kit.telemetry import MemoryTelemetry
from services.trainer import metrics
from services.trainer.domain import Evaluation, Hyperparameters, Model, ModelState, StopReason, Trial, training_cost
from services.trainer.performance import Coverage, UnknownCategory
from services.trainer.reconcile import jobs
from services.trainer.reconcile.coordinator import Coordinator
from services.trainer.store import Store
from services.trainer.work import Work, WorkState
from services.trainer.worker.attempt import Attempt
from tests.unit.trainer.support import (
    START,
    TTL,
    FakeDatasets,
    QuickWorker,
    dataset,
    exists,
    model,
    running,
    training,
)

NAME = "models/m"
T0 = "models/m/trials/t000"


class Crash(BaseException):
    """Raised where the process dies."""


class CrashingRecords(MemoryRecords):
    """Dies at the n-th write, before or after writing."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.after = False

    def _write(self, key: str, value: bytes | None) -> int:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                if self.after:
                    super()._write(key, value)
                raise Crash
        return super()._write(key, value)


@dataclass
class World:
    """Everything that outlives a coordinator."""

    records: MemoryRecords
    blobs: MemoryBlobs
    clock: ManualClock
    queue: MemoryQueue
    datasets: FakeDatasets
    worker: QuickWorker
    store: Store
    telemetry: MemoryTelemetry = field(default_factory=MemoryTelemetry)

    def coordinator(self, store: Store | None = None) -> Coordinator:
        return Coordinator(store or self.store, self.datasets, self.blobs, self.queue, self.clock, self.telemetry)

    async def create(self, found: Model) -> None:
        await self.store.models.create(found)

    async def model(self) -> Model:
        return (await self.store.models.get(NAME)).value

    async def trial(self, name: str = T0) -> Trial:
        return (await self.store.trials.get(name)).value

    async def settle(self) -> None:
        """Returns once the views have what others have written."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def work(self) -> int:
        done = await self.worker.work_off()
        await self.settle()
        return done

    async def finish(self, coordinator: Coordinator | None = None) -> Model:
        """Reconciles and works until the training is over."""
        coordinator = coordinator or self.coordinator()
        for _ in range(60):
            await coordinator.reconcile()
            if (found := await self.model()).ended:
                return found
            await self.work()
            self.clock.advance(1)
        raise AssertionError(f"it never ended: {await self.model()}")


@asynccontextmanager
async def world(records: MemoryRecords | None = None) -> AsyncGenerator[World]:
    records, blobs, clock = records or MemoryRecords(), MemoryBlobs(), ManualClock(START)
    queue = MemoryQueue(clock)
    worker = QuickWorker(records, blobs, queue, clock)
    datasets = FakeDatasets(dataset(), dataset("datasets/test", image_count=20))
    async with running(records) as store:
        yield World(records, blobs, clock, queue, datasets, worker, store)


async def test_an_ended_training_is_counted_once_with_its_cost() -> None:
    async with world() as at:
        await at.create(model())
        found = await at.finish()
        for _ in range(3):
            await at.coordinator().reconcile()
        assert at.telemetry.value(metrics.MODELS_ENDED, state="SUCCEEDED") == 1
        assert at.telemetry.value(metrics.MODELS_COST_SECONDS) == found.training_cost.total_seconds() > 0


async def test_a_training_ends_with_the_best_bundle_and_a_ledger_that_adds_up() -> None:
    async with world() as at:
        at.worker.score = lambda trial: 60 + 10 * trial.number
        await at.create(model())
        found = await at.finish()
        assert found.state is ModelState.SUCCEEDED
        assert found.served is not None
        trials = at.store.trials_of(NAME)
        assert found.served.trial == trials[-1].name
        assert await exists(at.blobs, f"{found.served.bundle_key}card.json")
        assert found.training_cost == training_cost(trials, None) == len(trials) * at.worker.spends
        assert found.training_cost <= found.budget
        assert found.stop_reason is StopReason.LADDER_COMPLETED
        assert found.categories == ("owl", "wren")


async def test_categories_that_look_alike_are_a_warning_of_the_model() -> None:
    async with world() as at:
        at.datasets.put(dataset(categories=(("Owl", 50, 50), ("owl", 50, 50))))
        await at.create(model())
        (warning,) = (await at.finish()).warnings
        assert "'Owl', 'owl' differ only in case" in warning


async def test_the_performance_on_the_test_dataset_is_the_final_one() -> None:
    async with world() as at:
        await at.create(model(test_dataset="datasets/test"))
        found = await at.finish()
        assert found.served is not None
        assert found.served.performance.source == "TEST_DATASET"
        final = at.store.final_of(NAME)
        assert final is not None
        assert found.training_cost == training_cost(at.store.trials_of(NAME), final)
        assert all(trial.holdout_fraction == 0 for trial in at.store.trials_of(NAME))


async def test_what_the_test_dataset_could_not_measure_stays_on_the_model() -> None:
    async with world() as at:
        unknown = UnknownCategory(name="Wren", image_count=4, similar="wren")
        at.worker.coverage = Coverage(
            image_count=20, measured_image_count=16, unknown_image_count=4, unknown_categories=(unknown,)
        )
        await at.create(model(test_dataset="datasets/test", warnings=("Hm.",)))
        found = await at.finish()
        assert found.served is not None
        assert found.served.performance.coverage == at.worker.coverage
        assert found.warnings[0] == "Hm."
        (warning,) = found.warnings[1:]
        assert "4 of the 20 images of datasets/test" in warning
        assert "did you mean 'wren'?" in warning
        assert "rename" in warning


async def test_after_a_failed_final_evaluation_the_model_predicts_and_says_why_it_failed() -> None:
    async with world() as at:
        await at.create(model(test_dataset="datasets/test"))
        coordinator = at.coordinator()
        error = CategoriesUnknown(
            unknown=11, total=20, what="images", dataset="datasets/test", categories="'Wren'", known="'wren'"
        )
        while (final := at.store.final_of(NAME)) is None:
            await at.work()
            await coordinator.reconcile()
        await at.store.evaluations.change(
            final.name, lambda found: found.with_work(found.work.failed(at.clock.now(), error.failure()), START)
        )
        found = await at.finish(coordinator)
        assert found.state is ModelState.SUCCEEDED
        assert found.served is not None
        assert found.served.performance.source == "HOLD_OUT"
        assert found.served.performance.coverage is None
        assert error.message in found.warnings[-1]


async def test_a_training_waits_for_its_dataset_to_be_validated() -> None:
    async with world() as at:
        at.datasets.put(dataset(state="VALIDATING"))
        await at.create(model())
        coordinator = at.coordinator()
        await coordinator.reconcile()
        assert (await at.model()).state is ModelState.NOT_STARTED
        at.datasets.put(dataset())
        await coordinator.reconcile()
        assert (await at.model()).state is ModelState.TRAINING


async def test_a_training_waits_for_a_dataset_service_that_is_down() -> None:
    async with world() as at:
        at.datasets.away = True
        await at.create(model())
        await at.coordinator().reconcile()
        assert (await at.model()).state is ModelState.NOT_STARTED
        at.datasets.away = False
        assert (await at.finish()).state is ModelState.SUCCEEDED


@pytest.mark.parametrize(
    ("changed", "reason", "text"),
    [
        (None, "datasetNotFound", "datasets/birds does not exist"),
        (dataset(state="FAILED"), "datasetNotReady", "datasets/birds is FAILED"),
        (dataset(annotation_kind="OBJECT_DETECTION"), "incorrectModelKind", "OBJECT_DETECTION"),
        (dataset(image_count=0), "datasetEmpty", "no usable image"),
        (dataset(image_count=5000), "notEnoughBudget", "the minimum is"),
        (dataset(categories=(("owl", 99, 99), ("wren", 1, 1))), "datasetAnnotationsInvalid", "'wren'"),
        (dataset(categories=(("owl", 100, 100),)), "datasetAnnotationsInvalid", "1 category"),
        (
            dataset(categories=tuple((f"{n:04d}" * 20, 2, 2) for n in range(2500))),
            "datasetAnnotationsInvalid",
            "the names of its 2500 categories take 203 KiB together, and a model has room for 192 KiB; shorten them",
        ),
    ],
)
async def test_a_model_that_cannot_be_trained_fails_with_the_reason_at_no_cost(
    changed: object, reason: str, text: str
) -> None:
    async with world() as at:
        at.datasets.present.pop("datasets/birds")
        if changed is not None:
            at.datasets.present["datasets/birds"] = changed  # pyright: ignore[reportArgumentType] - a Dataset
        await at.create(model(budget=timedelta(seconds=20.0)))
        await at.coordinator().reconcile()
        found = await at.model()
        assert found.state is ModelState.FAILED
        assert found.error is not None
        assert (found.error.reason, text in found.error.message) == (reason, True), found.error
        assert not found.training_cost
        assert found.end_time is not None
        assert not at.queue.jobs[jobs.KIND]


@pytest.mark.parametrize(
    ("categories", "reason", "text"),
    [
        ((("Owl", 30, 30), ("wren", 10, 10)), "categoriesUnknown", "'Owl' (30 images; did you mean 'owl'?)"),
        ((("owl", 0, 0), ("wren", 0, 0)), "datasetAnnotationsInvalid", "has no annotations that can be used (crowds"),
    ],
)
async def test_an_unusable_test_dataset_fails_the_model_before_anything_is_spent(
    categories: tuple[tuple[str, int, int], ...], reason: str, text: str
) -> None:
    async with world() as at:
        at.datasets.put(dataset("datasets/test", image_count=40, categories=categories))
        await at.create(model(test_dataset="datasets/test"))
        await at.coordinator().reconcile()
        found = await at.model()
        assert found.state is ModelState.FAILED
        assert found.error is not None
        assert (found.error.reason, text in found.error.message) == (reason, True), found.error
        assert "datasets/test" in found.error.message
        assert not at.queue.jobs[jobs.KIND]


async def test_a_model_whose_record_would_be_too_large_fails_instead_of_waiting_forever() -> None:
    async with world() as at:
        started = training()
        left = MAX_RECORD_BYTES - len(codec.encode(started)) - 1000  # enough for an error, but not for a trial
        await at.create(replace(started, categories=("x" * left,)))
        await at.settle()
        await at.coordinator().reconcile()
        found = await at.model()
        assert (found.state, at.store.trials_of(NAME)) == (ModelState.FAILED, [])
        assert found.error is not None
        assert "The record of models/m would have" in found.error.message


async def test_a_model_of_many_categories_with_long_names_that_look_alike_trains_to_its_end() -> None:
    async with world() as at:
        names = [f"{kind} {number:04d} {'x' * 62}" for number in range(1250) for kind in ("Owl", "owl")]
        at.datasets.put(dataset(categories=tuple((name, 2, 2) for name in names), image_count=5000))
        await at.create(model(budget=timedelta(hours=2)))
        found = await at.finish()
        assert found.state is ModelState.SUCCEEDED
        assert found.categories == tuple(names)
        *first, last = found.warnings
        assert len(first) == 10
        assert last == "The same is true of 1240 more groups of categories."


async def test_two_coordinators_plan_every_trial_once_and_stay_within_the_budget() -> None:
    async with world() as at, running(at.records) as other:
        await at.create(model(test_dataset="datasets/test", budget=timedelta(seconds=60.0)))
        one, two = at.coordinator(), at.coordinator(other)
        for _ in range(60):
            await asyncio.gather(one.reconcile(), two.reconcile())
            if (await at.model()).ended:
                break
            await at.work()
            at.clock.advance(1)
        found, trials = await at.model(), at.store.trials_of(NAME)
        assert found.state is ModelState.SUCCEEDED
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert len({trial.recipe.name for trial in trials}) == len(trials)
        assert training_cost(trials, at.store.final_of(NAME)) <= timedelta(seconds=60)


@pytest.mark.parametrize("after", [False, True])
async def test_another_coordinator_continues_after_a_death_at_any_write(after: bool) -> None:
    async with world() as plain:
        await plain.create(model(test_dataset="datasets/test"))
        expected = await plain.finish()
    died = 0
    for number in range(200):
        records = CrashingRecords()
        records.after = after
        async with world(records) as at:
            await at.create(model(test_dataset="datasets/test"))
            records.left = number
            try:
                found = await at.finish()
            except Crash:
                died += 1
                records.left = None
                await at.settle()
                at.clock.advance(TTL.total_seconds() + 1)
                found = await at.finish()
            assert found.state is ModelState.SUCCEEDED, number
            assert found.served is not None
            assert expected.served is not None
            assert found.served.trial == expected.served.trial
            assert found.training_cost == expected.training_cost
            if records.left is not None:  # the training ended before that write
                break
    assert died > 10


async def test_cancelling_before_the_start_ends_the_model_at_once() -> None:
    async with world() as at:
        await at.create(model(state=ModelState.CANCELLING, stop_reason=StopReason.CANCELLED_BY_CALLER))
        await at.coordinator().reconcile()
        assert (await at.model()).state is ModelState.CANCELLED


async def cancelling(at: World) -> None:
    await at.store.models.change(NAME, lambda found: found.moved(ModelState.CANCELLING, at.clock.now()))


async def test_cancelling_ends_waiting_work_at_once_and_keeps_the_bundle() -> None:
    async with world() as at:
        await at.create(training())
        coordinator = at.coordinator()
        await coordinator.reconcile()
        await at.work()
        await coordinator.reconcile()  # the second trial waits
        await cancelling(at)
        await coordinator.reconcile()
        found = await at.model()
        assert found.state is ModelState.CANCELLED
        assert found.served is not None
        assert found.training_cost == at.worker.spends
        assert [trial.work.state for trial in at.store.trials_of(NAME)] == [WorkState.SUCCEEDED, WorkState.CANCELLED]


async def test_cancelling_waits_for_a_live_worker_and_not_for_a_dead_one() -> None:
    async with world() as at:
        await at.create(training())
        coordinator = at.coordinator()
        await coordinator.reconcile()
        attempt = await Attempt[Trial].begin(at.store.trials.table, T0, "w", at.clock, TTL, 1.0)
        assert attempt is not None
        await attempt.beat(timedelta(seconds=3.0), 0.1, "fit")
        await cancelling(at)
        await coordinator.reconcile()
        assert (await at.model()).state is ModelState.CANCELLING
        assert (await at.trial()).work.cancel_requested
        at.clock.advance(TTL.total_seconds() + 1)
        await coordinator.reconcile()
        found = await at.model()
        assert found.state is ModelState.CANCELLED
        assert not found.training_cost  # an attempt that died is not charged


async def test_a_trial_planned_by_an_outdated_replica_ends_with_its_model() -> None:
    async with world() as at:
        await at.create(training())
        await at.coordinator().reconcile()
        await at.store.models.change(
            NAME, lambda found: replace(found, state=ModelState.CANCELLED, end_time=at.clock.now())
        )
        await at.coordinator().reconcile()
        assert (await at.trial()).work.state is WorkState.CANCELLED


async def test_the_remains_of_a_deleted_model_are_removed() -> None:
    async with world() as at:
        await at.create(training())
        await at.coordinator().reconcile()
        await at.work()
        await at.store.models.delete(NAME)
        await at.coordinator().reconcile()
        assert at.store.trials.view.all() == []
        assert [blob async for blob in at.blobs.list("models/")] == []


async def test_trials_of_a_deleted_model_of_the_same_name_are_removed_and_the_new_one_trains() -> None:
    async with world() as at:
        await at.create(training())
        await at.coordinator().reconcile()
        await at.store.models.delete(NAME)
        await at.create(model(uid="uid2"))
        assert (await at.finish()).state is ModelState.SUCCEEDED
        assert {trial.model_uid for trial in at.store.trials_of(NAME)} == {"uid2"}


async def test_work_that_an_outage_kept_from_being_announced_is_announced_by_the_next_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable(what="the queue", problem="it is away")

    async with world() as at:
        coordinator, publish = at.coordinator(), at.queue.publish
        await at.create(training())
        monkeypatch.setattr(at.queue, "publish", away)
        await coordinator.reconcile()
        monkeypatch.setattr(at.queue, "publish", publish)
        await at.queue.publish(jobs.KIND, b"of other work, which hides that one is lost")
        await coordinator.reconcile()
        assert len(at.queue.jobs[jobs.KIND]) == 2


async def test_work_that_a_worker_gives_back_is_announced_at_once() -> None:
    async with world() as at:
        await at.create(training())
        coordinator = at.coordinator()
        await coordinator.reconcile()
        at.queue.jobs[jobs.KIND].clear()
        attempt = await Attempt[Trial].begin(at.store.trials.table, T0, "w", at.clock, TTL, 1.0)
        assert attempt is not None
        at.clock.advance(TTL.total_seconds() + 1)
        await coordinator.reconcile()  # the lease has expired, and the job is lost again
        assert len(at.queue.jobs[jobs.KIND]) == 1
        at.queue.jobs[jobs.KIND].clear()
        await attempt.beat(timedelta(seconds=1.0), 0.1, "fit")
        await attempt.end(lambda work: work.released(at.clock.now()))
        await at.settle()
        await coordinator.reconcile()
        assert len(at.queue.jobs[jobs.KIND]) == 1


async def test_work_whose_worker_died_is_announced_when_its_lease_expires() -> None:
    async with world() as at:
        await at.create(training())
        coordinator = at.coordinator()
        await coordinator.reconcile()
        at.queue.jobs[jobs.KIND].clear()
        assert await Attempt[Trial].begin(at.store.trials.table, T0, "w", at.clock, TTL, 1.0)
        await at.settle()
        await coordinator.reconcile()
        assert not at.queue.jobs[jobs.KIND]
        at.clock.advance(TTL.total_seconds())
        await coordinator.reconcile()
        assert len(at.queue.jobs[jobs.KIND]) == 1
        assert (await at.finish()).state is ModelState.SUCCEEDED


async def test_jobs_lost_by_the_queue_are_announced_again() -> None:
    async with world() as at:
        await at.create(training())
        coordinator = at.coordinator()
        await coordinator.reconcile()
        at.queue.jobs[jobs.KIND].clear()
        await coordinator.reconcile()
        assert not at.queue.jobs[jobs.KIND]
        at.clock.advance(121)  # longer than the queue remembers keys
        await coordinator.reconcile()
        assert len(at.queue.jobs[jobs.KIND]) == 1
        assert (await at.finish(coordinator)).state is ModelState.SUCCEEDED


async def test_waiting_work_is_not_announced_in_every_pass() -> None:
    class Counting(MemoryQueue):
        published = 0

        async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
            self.published += 1
            await super().publish(kind, body, dedup_id)

    async with world() as at:
        at.queue = Counting(at.clock)
        await at.create(training())
        coordinator = at.coordinator()
        for _ in range(50):
            await coordinator.reconcile()
        assert at.queue.published == 1


async def test_work_that_waits_for_hours_has_one_job() -> None:
    async with world() as at:
        await at.create(training())
        coordinator = at.coordinator()
        for _ in range(100):
            await coordinator.reconcile()
            at.clock.advance(60)
        assert len(at.queue.jobs[jobs.KIND]) == 1


async def test_planning_goes_on_without_the_queue() -> None:
    class Away(MemoryQueue):
        async def publish(self, kind: str, body: bytes, dedup_id: str = "") -> None:
            raise Unavailable(what="the queue", problem="it is down")

    async with world() as at:
        at.queue = Away(at.clock)
        await at.create(training())
        await at.coordinator().reconcile()
        assert (await at.trial()).work.state is WorkState.QUEUED


async def test_an_evaluation_that_fails_leaves_a_model_with_a_warning() -> None:
    async with world() as at:
        await at.create(model(test_dataset="datasets/test", hyperparameters=Hyperparameters(max_trials=1)))
        coordinator = at.coordinator()
        while at.store.final_of(NAME) is None:
            await coordinator.reconcile()
            if at.store.final_of(NAME) is None:
                await at.work()
        name = f"{NAME}/evaluations/final"
        evaluations: Table[Evaluation] = at.store.evaluations.table
        attempt = await Attempt[Evaluation].begin(evaluations, name, "w", at.clock, TTL, 1.0)
        assert attempt is not None
        await attempt.end(lambda work: work.stopped(at.clock.now()))
        await at.settle()
        await coordinator.reconcile()
        found = await at.model()
        assert found.state is ModelState.SUCCEEDED
        assert "left in the budget were not enough" in found.warnings[-1]
        assert found.training_cost == found.budget


async def test_an_outdated_view_never_reverts_the_served_bundle() -> None:
    async with world() as at:
        at.worker.score = lambda trial: 50 + 20 * trial.number
        await at.create(training())
        coordinator = at.coordinator()
        for _ in range(2):
            await coordinator.reconcile()
            await at.work()
        await coordinator.reconcile()
        present = await at.model()
        assert present.served is not None
        first = await at.trial()
        await coordinator._search.serve_best(replace(present, served=None), [first])
        assert (await at.model()).served == present.served


async def test_a_change_between_reading_and_waiting_is_not_missed() -> None:
    async with world() as at:
        changes = at.store.changes()
        await at.create(model())
        await asyncio.wait_for(changes.wait(60), 10)
        await at.store.models.change(NAME, lambda found: replace(found, display_name="a"))
        await asyncio.wait_for(changes.wait(60), 10)
        await changes.wait(0.01)  # nothing has changed since


async def test_a_running_coordinator_plans_without_waiting_for_its_tick() -> None:
    async with world() as at:
        at.datasets.put(dataset("datasets/other", state="VALIDATING"))
        await at.create(model("models/waits", training_dataset="datasets/other"))
        task = asyncio.create_task(at.coordinator().run())
        try:
            await asyncio.sleep(0)
            begun = asyncio.get_running_loop().time()
            await at.create(model())
            async with asyncio.timeout(30):
                while not (await at.model()).ended:
                    await at.worker.work_off()
            assert asyncio.get_running_loop().time() - begun < 0.9  # less than one tick for all steps
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_the_dedup_key_of_a_job_depends_on_why_it_is_due() -> None:
    work = Work(create_time=START, allowance=timedelta(seconds=10))
    taken = work.taken(T0, "w", START, TTL)
    beaten = taken.beaten(START + timedelta(seconds=5), TTL, used=timedelta(seconds=5), progress=0, phase="")
    released = beaten.released(START + timedelta(seconds=6))
    keys = [jobs.dedup_key(T0, each) for each in (work, taken, beaten, released)]
    assert len(set(keys)) == 4
