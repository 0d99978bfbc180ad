"""EstimateTraining's use case: a record lives as long as somebody waits for it, whoever dies in the meantime."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import (
    DatasetAnnotationsInvalid,
    DatasetCorrupt,
    DatasetNotFound,
    DatasetNotReady,
    EstimateTimedOut,
    IncorrectModelKind,
    LeaseLost,
    RemoteError,
    TooManyEstimates,
    Unavailable,
)
from services.kit.memory import MemoryBlobs, MemoryQueue, MemoryRecords
from services.kit.telemetry import MemoryTelemetry
from services.trainer import metrics
from services.trainer.domain import Hyperparameters, Model
from services.trainer.estimate import Estimate
from services.trainer.estimates import INTEREST, Estimates
from services.trainer.reconcile.coordinator import Coordinator
from services.trainer.store import Store
from services.trainer.worker.attempt import Attempt
from services.vision.card import ModelKind
from tests.support.waiting import eventually
from tests.unit.trainer.support import START, TTL, FakeDatasets, dataset, model, probe, running

PATIENCE = 60.0  # seconds; no test waits for them


@dataclass
class World:
    """Two apis over one store, and a coordinator driven step by step."""

    store: Store
    datasets: FakeDatasets
    clock: ManualClock
    queue: MemoryQueue
    telemetry: MemoryTelemetry

    def api(self) -> Estimates:
        return Estimates(self.store, self.datasets, MemoryBlobs(), self.clock, self.telemetry)

    async def reconcile(self) -> None:
        coordinator = Coordinator(self.store, self.datasets, MemoryBlobs(), self.queue, self.clock, MemoryTelemetry())
        await coordinator.reconcile()

    def records(self) -> list[Estimate]:
        return [found.value for found in self.store.estimates.view.all()]

    async def one(self) -> Estimate:
        """The only record, once it is there."""
        await eventually(lambda: bool(self.records()))
        (record,) = self.records()
        return record

    async def taken(self) -> "Attempt[Estimate]":
        record = await self.one()
        attempt = await Attempt[Estimate].begin(self.store.estimates.table, record.name, "w", self.clock, TTL, 0.5)
        assert attempt is not None
        return attempt

    async def measured(self) -> None:
        """A worker's whole part."""
        attempt = await self.taken()
        await attempt.succeed(timedelta(seconds=8), probe=probe(attempt.record.recipes), device_factor=attempt.factor)


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with a_world() as made:
        yield made


@asynccontextmanager
async def a_world() -> AsyncGenerator[World]:
    clock = ManualClock(START)
    datasets = FakeDatasets(
        dataset(),
        dataset("datasets/new", state="VALIDATING"),
        dataset("datasets/boxes", annotation_kind="OBJECT_DETECTION"),
        dataset("datasets/one", categories=(("owl", 100, 100),)),
    )
    async with running(MemoryRecords()) as store:
        yield World(store, datasets, clock, MemoryQueue(clock), MemoryTelemetry())


def asked(**changes: Any) -> Model:
    return model("models/estimate", **changes)


async def test_a_call_is_answered_by_a_workers_probe_and_leaves_nothing_behind(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    await world.measured()
    ended = await call
    assert ended.probe is not None
    assert ended.device_factor == 0.5
    assert world.records() == []
    assert world.telemetry.value(metrics.ESTIMATES, result="succeeded") == 1


async def test_the_work_is_announced_to_the_workers(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    await world.one()
    await world.reconcile()
    assert await world.queue.depth("trainer") == 1
    call.cancel()
    await asyncio.wait([call])


async def test_a_call_that_is_cancelled_ends_the_probe(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    attempt = await world.taken()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert world.records() == []
    with pytest.raises(LeaseLost):
        await attempt.beat(timedelta(seconds=1), 0.1, "probe")
    assert world.telemetry.value(metrics.ESTIMATES, result="cancelled") == 1


async def test_a_worker_that_reports_just_then_does_not_keep_the_record_of_a_cancelled_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    attempt = await world.taken()
    delete, reports = world.store.estimates.delete, iter(range(3))

    async def late(name: str, etag: str = "") -> None:
        if next(reports, None) is not None:
            world.clock.advance(0.1)
            await attempt.beat(timedelta(seconds=1), 0.1, "probe")
        await delete(name, etag)

    monkeypatch.setattr(world.store.estimates, "delete", late)
    call.cancel()
    await asyncio.wait([call])
    assert world.records() == []


async def test_equal_calls_share_a_probe_which_outlives_the_one_that_leaves(world: World) -> None:
    first = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    await world.one()
    second = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    await eventually(lambda: len(world.records()[0].callers) == 2)
    first.cancel()
    await asyncio.wait([first])
    await world.measured()
    assert (await second).probe is not None
    assert world.records() == []


async def test_different_questions_do_not_share_a_probe(world: World) -> None:
    calls = [
        asyncio.create_task(world.api().estimate(asked(hyperparameters=Hyperparameters(max_rung=rung)), PATIENCE))
        for rung in (0, 1)
    ]
    await eventually(lambda: len(world.records()) == 2)
    await cancelled(*calls)


async def test_calls_that_differ_in_their_seed_share_a_probe(world: World) -> None:
    calls = [
        asyncio.create_task(world.api().estimate(asked(hyperparameters=Hyperparameters(seed=seed)), PATIENCE))
        for seed in (0, 1)
    ]
    await eventually(lambda: [len(record.callers) for record in world.records()] == [2])
    await cancelled(*calls)


async def test_a_project_waits_for_two_estimates_at_once_however_many_it_asks_for_together(world: World) -> None:
    api = world.api()
    wanted = [asked(hyperparameters=Hyperparameters(max_trials=most)) for most in range(1, 7)]
    calls = [asyncio.create_task(api.estimate(each, PATIENCE)) for each in wanted]
    await eventually(lambda: sum(call.done() for call in calls) == 4)
    assert len(world.records()) == 2
    for call in filter(asyncio.Task.done, calls):
        with pytest.raises(TooManyEstimates, match="project default already waits for 2 estimates") as caught:
            await call
        assert (caught.value.reason, caught.value.retry) == ("Throttled", True)
    await cancelled(*(call for call in calls if not call.done()))


async def test_a_project_that_waits_for_two_estimates_shares_them_and_holds_no_other_project_back(world: World) -> None:
    world.datasets.put(dataset("projects/acme/datasets/birds"))
    wanted = [asked(hyperparameters=Hyperparameters(max_trials=most)) for most in (1, 2, 2)]
    wanted.append(asked(training_dataset="projects/acme/datasets/birds"))
    calls = [asyncio.create_task(world.api().estimate(each, PATIENCE)) for each in wanted]
    await eventually(lambda: sorted(len(record.callers) for record in world.records()) == [1, 1, 2])
    await cancelled(*calls)


async def test_an_ended_estimate_leaves_room_for_another(world: World) -> None:
    wanted = [asked(hyperparameters=Hyperparameters(max_trials=most)) for most in (1, 2, 3)]
    first = asyncio.create_task(world.api().estimate(wanted[0], PATIENCE))
    await world.measured()
    await first
    calls = [asyncio.create_task(world.api().estimate(each, PATIENCE)) for each in wanted[1:]]
    await eventually(lambda: len(world.records()) == 2)
    await cancelled(*calls)


async def test_a_call_repeated_after_the_apis_death_finds_the_probe_in_progress(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    attempt = await world.taken()
    await without_leaving(world, call)
    again = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    await eventually(lambda: len(world.records()[0].callers) == 2)
    assert (await world.one()).work.attempt == attempt.record.work.attempt
    again.cancel()
    await asyncio.wait([again])


async def test_a_probe_whose_callers_died_is_ended_after_a_while(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    attempt = await world.taken()
    await without_leaving(world, call)
    await world.reconcile()
    assert len(world.records()) == 1
    world.clock.advance(INTEREST.total_seconds() + 1)
    await world.reconcile()
    assert world.records() == []
    with pytest.raises(LeaseLost):
        await attempt.beat(timedelta(seconds=1), 0.1, "probe")


async def test_a_call_that_waits_for_long_keeps_its_record(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    attempt = await world.taken()
    for _ in range(5):
        world.clock.advance(0.6 * INTEREST.total_seconds())
        before = (await world.one()).callers
        await attempt.beat(timedelta(seconds=1), 0.1, "probe")  # a change, after which the call looks again
        await eventually(lambda before=before: world.records()[0].callers != before)
        await world.reconcile()
    assert len(world.records()) == 1
    call.cancel()
    await asyncio.wait([call])


async def test_a_record_that_vanishes_is_created_again(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    await world.store.estimates.delete((await world.one()).name)
    await world.measured()
    assert (await call).probe is not None


@pytest.mark.parametrize(("begun", "problem"), [(False, "no worker was free"), (True, "still measuring")])
async def test_a_deadline_before_the_result_says_what_was_missing(world: World, begun: bool, problem: str) -> None:
    patience = 0.2
    call = asyncio.create_task(world.api().estimate(asked(), patience))
    if begun:
        await world.taken()
    with pytest.raises(EstimateTimedOut, match=problem) as caught:
        await call
    assert caught.value.retry
    assert world.records() == []
    assert world.telemetry.value(metrics.ESTIMATES, result="timed_out") == 1


async def test_a_probes_failure_is_the_calls(world: World) -> None:
    call = asyncio.create_task(world.api().estimate(asked(), PATIENCE))
    attempt = await world.taken()
    failure = DatasetCorrupt(unreadable=9, image_count=10, dataset="datasets/birds", files="a.png").failure()
    await attempt.end(lambda work: work.failed(world.clock.now(), failure))
    with pytest.raises(RemoteError) as caught:
        await call
    assert caught.value.reason == "datasetCorrupt"
    assert world.records() == []


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"training_dataset": "datasets/none"}, DatasetNotFound),
        ({"training_dataset": "datasets/new"}, DatasetNotReady),
        ({"test_dataset": "datasets/new"}, DatasetNotReady),
        ({"training_dataset": "datasets/boxes"}, IncorrectModelKind),
        ({"training_dataset": "datasets/one"}, DatasetAnnotationsInvalid),
        ({"model_kind": ModelKind.GENERIC_DETECTOR}, IncorrectModelKind),
    ],
)
async def test_an_unfit_dataset_is_refused_before_any_work(
    world: World, wanted: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await world.api().estimate(asked(**wanted), PATIENCE)
    assert world.records() == []
    assert world.telemetry.value(metrics.ESTIMATES, result="failed") == 1


async def cancelled(*calls: "asyncio.Task[Estimate]") -> None:
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def without_leaving(world: World, call: "asyncio.Task[Estimate]") -> None:
    """Ends the call as the death of its process would: its record stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store.estimates, "change", _unreachable)
        call.cancel()
        await asyncio.wait([call])


async def _unreachable(*_: Any) -> Any:
    raise Unavailable(what="the store", problem="this process is dead")
