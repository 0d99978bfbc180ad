"""Why a training does not move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from services.kit.clock import SystemClock
from services.kit.errors import Unavailable
from services.kit.memory import MemoryQueue, MemoryRecords
from services.trainer.domain import ModelState, Trial
from services.trainer.estimate import Estimate
from services.trainer.recipe import Recipe
from services.trainer.reconcile import jobs
from services.trainer.store import Store
from services.trainer.waiting import Waiting, WaitReason, Waits
from services.trainer.work import Work
from tests.unit.trainer.support import TTL, FakeDatasets, dataset, model, running, snapshot, training

RECIPE = Recipe(name="mobilenet_v2 linear", rung=0, backbones=("mobilenet_v2",))


class UnreachableQueue(MemoryQueue):
    async def waiting(self, kind: str) -> int:
        raise Unavailable(what="the queue", problem=f"no answer about {kind}")


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with running(MemoryRecords()) as made:
        yield made


async def add_trial(store: Store, name: str, holder: str = "", age_seconds: float = 60) -> Trial:
    """A trial that waits, or that `holder` runs."""
    now = SystemClock().now()
    work = Work(create_time=now - timedelta(seconds=age_seconds), allowance=timedelta(seconds=60))
    trial = Trial(
        name=name, model_uid="uid1", number=0, training=snapshot(), recipe=RECIPE, holdout_fraction=0.2, seed=0,
        work=work.taken(name, holder, now, TTL) if holder else work, update_time=now,
    )  # fmt: skip
    return (await store.trials.create(trial)).value


def waits(store: Store, queue: MemoryQueue | None = None, datasets: FakeDatasets | None = None) -> Waits:
    return Waits(store, queue or MemoryQueue(), datasets or FakeDatasets(), SystemClock())


async def test_a_dataset_that_is_still_validated_is_named_with_its_progress(store: Store) -> None:
    validating = dataset(state="VALIDATING", phase="CHECKING_IMAGES", images_done=12, images_total=48)
    found = await waits(store, datasets=FakeDatasets(validating, dataset("datasets/test"))).reason_of(
        model(test_dataset="datasets/test")
    )
    assert found == Waiting(WaitReason.DATASET_VALIDATING, validating=(validating,))


async def test_a_dataset_service_that_does_not_respond_is_a_reason(store: Store) -> None:
    datasets = FakeDatasets(dataset())
    datasets.away = True
    found = await waits(store, datasets=datasets).reason_of(model())
    assert found == Waiting(WaitReason.DATASET_SERVICE_UNREACHABLE)


async def test_a_model_whose_datasets_are_ready_or_gone_waits_for_nothing_but_the_coordinator(store: Store) -> None:
    assert await waits(store, datasets=FakeDatasets(dataset())).reason_of(model()) is None
    assert await waits(store, datasets=FakeDatasets()).reason_of(model()) is None


async def test_without_any_worker_that_is_the_reason(store: Store) -> None:
    await add_trial(store, "models/m/trials/t000")
    assert await waits(store).reason_of(training()) == Waiting(WaitReason.NO_WORKER)


async def test_a_worker_that_goes_from_one_job_to_the_next_is_not_missed(store: Store) -> None:
    await add_trial(store, "models/m/trials/t000", age_seconds=1)
    assert await waits(store).reason_of(training()) == Waiting(WaitReason.WORKER_STARTING)


async def test_workers_that_are_all_busy_are_counted_once_each(store: Store) -> None:
    await add_trial(store, "models/m/trials/t000")
    await add_trial(store, "models/other/trials/t000", holder="worker-1")
    await add_trial(store, "models/other/trials/t001", holder="worker-2")
    found = await waits(store).reason_of(training())
    assert found == Waiting(WaitReason.WORKERS_BUSY, workers=2, busy_workers=2)


async def test_a_worker_that_measures_for_an_estimate_is_busy(store: Store) -> None:
    await add_trial(store, "models/m/trials/t000")
    now = SystemClock().now()
    work = Work(create_time=now, allowance=timedelta(seconds=60)).taken("e", "worker-1", now, TTL)
    await store.estimates.create(Estimate(name="estimates/e", model=model(), fewest=9, work=work, update_time=now))
    found = await waits(store).reason_of(training())
    assert found == Waiting(WaitReason.WORKERS_BUSY, workers=1, busy_workers=1)


async def test_a_worker_that_waits_for_a_job_will_take_it(store: Store) -> None:
    await add_trial(store, "models/m/trials/t000")
    await add_trial(store, "models/other/trials/t000", holder="worker-1")
    queue = MemoryQueue()
    fetching = asyncio.create_task(queue.fetch(jobs.KIND, timedelta(seconds=30)))
    await asyncio.sleep(0)
    found = await waits(store, queue).reason_of(training())
    fetching.cancel()
    assert found == Waiting(WaitReason.WORKER_STARTING, workers=2, busy_workers=1)


async def test_a_model_with_a_running_trial_does_not_wait_even_if_another_of_its_trials_does(store: Store) -> None:
    await add_trial(store, "models/m/trials/t000", holder="worker-1")
    await add_trial(store, "models/m/trials/t001")
    assert await waits(store).reason_of(training()) is None


async def test_a_trial_whose_worker_died_waits_although_it_is_running_on_record(store: Store) -> None:
    trial = await add_trial(store, "models/m/trials/t000", holder="worker-1")
    dead = replace(trial.work, lease=trial.work.lease.renewed(trial.work.create_time, -TTL))
    await store.trials.change(trial.name, lambda present: present.with_work(dead, present.update_time))
    assert await waits(store).reason_of(training()) == Waiting(WaitReason.NO_WORKER)


async def test_a_training_that_has_ended_or_plans_its_next_step_waits_for_nothing(store: Store) -> None:
    assert await waits(store).reason_of(training()) is None
    await add_trial(store, "models/m/trials/t000")
    assert await waits(store).reason_of(replace(training(), state=ModelState.SUCCEEDED)) is None


async def test_a_queue_that_does_not_respond_leaves_the_reason_open(store: Store) -> None:
    await add_trial(store, "models/m/trials/t000")
    assert await waits(store, UnreachableQueue()).reason_of(training()) is None
