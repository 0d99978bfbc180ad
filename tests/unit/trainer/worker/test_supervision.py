"""What a worker does with offers, and with children that may have run out of memory."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from services.kit import codec
from services.trainer import metrics
from services.trainer.coverage import in_record
from services.trainer.messages import Checkpoint, EvaluationResult, Message, Offer, Result, Task, TrainTask
from services.trainer.performance import Coverage, Finding, Performance
from services.trainer.work import MAX_ATTEMPTS_WITHOUT_COMMIT, Work, WorkState
from tests.support.waiting import jump
from tests.unit.trainer.support import START
from tests.unit.trainer.worker.test_worker import E0, FINE_TUNING, T0, FakePool, World, checkpoint, dies, outcome


@pytest.fixture
def at(tmp_path: Path) -> World:
    return World(tmp_path)


async def offers_and_never_ends(task: Task) -> AsyncGenerator[Message]:
    result = outcome(task, 0.01)
    assert isinstance(result, Result)
    yield Offer(result=result)
    yield checkpoint(task, 1, 0.02)
    await asyncio.Event().wait()


async def test_a_child_beyond_its_allowance_is_ended_and_its_offer_is_the_result(
    at: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def offers_and_goes_on(task: Task) -> AsyncGenerator[Message]:
        async for message in offers_and_never_ends(task):
            yield message
            if isinstance(message, Checkpoint):
                at.clock.advance(1.0)
                await jump(1.0)

    await at.begin(allowance=1.0)
    pool = FakePool(offers_and_goes_on)
    await at.worker(pool=pool).handle(T0)
    trial = await at.trial()
    assert trial.work.state is WorkState.SUCCEEDED
    assert trial.work.charged == timedelta(seconds=1)
    assert trial.result is not None
    (delivered,) = [record for record in caplog.records if record.message == "trial_delivered"]
    assert vars(delivered)["fields"]["stop_reason"] == "allowance"
    assert await at.blobs.get(trial.result.bundle_key + "card.json") == b"{}"
    assert pool.children[0].ended


async def test_an_offer_does_not_end_a_child_that_dies_within_its_allowance(at: World) -> None:
    async def offers_then_dies(task: Task) -> AsyncGenerator[Message]:
        async for message in offers_and_never_ends(task):
            yield message
            break
        async for message in dies(task):
            yield message

    async def delivers(task: Task) -> AsyncGenerator[Message]:
        yield outcome(task, 0.03)

    await at.begin()
    await at.worker(offers_then_dies, delivers).handle(T0)
    assert (await at.trial()).work.attempt == 2


async def test_coverage_is_kept_in_brief_in_the_record_and_in_full_in_the_store(at: World) -> None:
    names = tuple(f"category {number}" for number in range(100))
    coverage = Coverage(image_count=9, measured_image_count=9, untested_categories=names)
    found = (Finding(code="categoriesUntested", message="None of them.", remedy="Add some."),)

    async def delivers(task: Task) -> AsyncGenerator[Message]:
        result = outcome(task, 0.01)
        assert isinstance(result, EvaluationResult)
        measured = replace(result.performance, coverage=coverage)
        yield msgspec.structs.replace(result, performance=measured, findings=found)

    await at.begin_evaluation()
    await at.worker(delivers).handle(E0)
    evaluation = (await at.evaluations.get(E0)).value
    assert evaluation.findings == found
    assert evaluation.performance is not None
    assert evaluation.performance.coverage == in_record(coverage) != coverage
    assert not evaluation.performance.calibration_bins
    whole = codec.decode(await at.blobs.get(evaluation.performance_key), Performance)
    assert whole.coverage == coverage
    assert whole.calibration_bins


@pytest.mark.parametrize(("processes", "device", "charged"), [(1, "cuda", 0.004), (4, "cuda", 0.016)])
async def test_every_device_that_works_on_a_trial_is_charged(
    at: World, processes: int, device: str, charged: float
) -> None:
    told: list[timedelta] = []

    async def delivers(task: Task) -> AsyncGenerator[Message]:
        told.append(task.allowance)
        yield outcome(task, 0.004)

    await at.begin(allowance=100.0)
    await at.worker(pool=FakePool(delivers, device=device, devices=processes)).handle(T0)
    assert told == [timedelta(seconds=100 / processes)]
    assert (await at.trial()).work.charged == timedelta(seconds=charged)


async def test_an_evaluation_is_charged_for_the_one_device_that_it_uses(at: World) -> None:
    async def delivers(task: Task) -> AsyncGenerator[Message]:
        yield outcome(task, 0.004)

    await at.begin_evaluation()
    await at.worker(pool=FakePool(delivers, device="cuda", devices=4)).handle(E0)
    assert (await at.evaluations.get(E0)).value.work.charged == timedelta(seconds=0.004)


async def test_how_many_images_fit_is_remembered_for_recipes_that_need_the_same_memory(at: World) -> None:
    told: list[tuple[int, bool]] = []

    async def runs_out_of_memory(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        told.append((task.batch_size_limit, task.frugal))
        result = outcome(task, 0.001)
        assert isinstance(result, Result)
        yield msgspec.structs.replace(result, batch_size_limit=4, numerics="bfloat16")

    await at.begin(recipe=FINE_TUNING)
    worker = at.worker(runs_out_of_memory)
    await worker.handle(T0)
    done = await at.trial()
    fresh = msgspec.structs.replace(done, result=None, work=Work(create_time=START, allowance=timedelta(seconds=9)))
    larger = msgspec.structs.replace(FINE_TUNING, resolution=512)
    for number, recipe in enumerate((msgspec.structs.replace(FINE_TUNING, learning_rate=1e-4), larger), 1):
        name = f"models/m/trials/t{number:03d}"
        await at.table.create(name, msgspec.structs.replace(fresh, name=name, number=number, recipe=recipe))
        await worker.handle(name)
    assert told == [(0, False), (4, False), (0, False)]
    assert at.telemetry.value(metrics.NUMERICS, numerics="bfloat16") == 3


async def test_attempts_after_deaths_without_a_checkpoint_take_less_memory(at: World) -> None:
    limits: list[int] = []

    async def notes_and_dies(task: Task) -> AsyncGenerator[Message]:
        assert isinstance(task, TrainTask)
        limits.append(task.batch_size_limit)
        async for message in dies(task):
            yield message

    await at.begin()
    await at.worker(notes_and_dies).handle(T0)
    assert limits == [0, 8, 8, 1, 1]
    assert len(limits) == MAX_ATTEMPTS_WITHOUT_COMMIT
