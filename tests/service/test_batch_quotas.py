"""The quotas of projects, as batch predictions count towards them."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from services.kit.account import Account
from services.kit.errors import NotFound, ProjectQuotaExceeded
from services.kit.quotas import Limits, month_of
from services.predictor.batch.states import State
from services.predictor.settings import PredictorSettings
from tests.support.batches import MODEL_URI, Batches, Life, live, photos, running
from tests.support.waiting import eventually
from tests.unit.predictor.support import info

NAME = "batchPredictions/b"
SETTINGS = PredictorSettings(batch_chunk_images=3, batch_heartbeat_seconds=0.01)


def limited(seconds: int = 0, *, cost: float = 1.0, settings: PredictorSettings = SETTINGS, **limits: Any) -> Batches:
    """Of a project with so much compute, with a model that needs `cost` seconds for an image."""
    batches = Batches(settings=settings, limits=Limits(compute_seconds=seconds, **limits))
    batches.models.models["models/m"] = info(uri=MODEL_URI, prediction_cost=timedelta(seconds=cost))
    return batches


def slowly(batches: Batches, seconds: float) -> None:
    """Each image takes so long from now on."""
    predict = batches.runner.predict_prepared

    def slow(images: Any) -> Any:
        batches.clock.advance(seconds * len(images))
        return predict(images)

    batches.runner.predict_prepared = slow


async def used(batches: Batches) -> tuple[float, float]:
    """Charged and reserved, as the predictor publishes it once its view has what workers wrote."""
    with suppress(NotFound):
        await batches.app.batches.view.caught_up((await batches.app.get(NAME)).revision)
    await batches.app.quotas.publish()
    found = await batches.app.quotas.accounts.current("default")
    use = found.compute(batches.clock.now())
    return use.charged.total_seconds(), use.reserved.total_seconds()


async def trainer(batches: Batches, seconds: float) -> None:
    """The trainer says that the project has used so much."""
    computed = {month_of(batches.clock.now()): timedelta(seconds=seconds)}
    await batches.write_account(Account("accounts/trainer", computed=computed))


async def test_one_that_the_quota_cannot_pay_is_refused_before_it_starts() -> None:
    async with running(limited(10, cost=3)) as batches:
        await batches.put(photos(4))
        with pytest.raises(ProjectQuotaExceeded, match="0 s in use, and 12 s more would exceed the limit of 10 s"):
            await batches.create()
        with pytest.raises(ProjectQuotaExceeded):
            await batches.create(validate_only=True)
        assert not batches.app.batches.view.all()
        await batches.put_dataset([1, 2, 3], {"cat": 1})
        await batches.create(dataset_name="datasets/d")
        assert (await batches.get()).expected.total_seconds() == 9


async def test_it_reserves_what_it_may_be_charged_until_its_end() -> None:
    async with running(limited(3600)) as batches:
        await batches.put(photos(4))
        slowly(batches, 2)
        await batches.create()
        assert (await batches.get()).allowance == timedelta(minutes=10), "generous for something small"
        assert await used(batches) == (0, 600)
        await batches.step()
        await batches.step()
        assert await used(batches) == (6, 594)
        await batches.work()
        assert (await batches.get()).state is State.SUCCEEDED
        assert await used(batches) == (8, 0)
        await batches.app.delete(NAME, "")
        await batches.recover()
        assert await used(batches) == (8, 0)


async def test_without_a_quota_nothing_is_counted_or_reserved() -> None:
    async with running(limited()) as batches:
        await batches.put(photos(4))
        await batches.create()
        record = await batches.get()
        assert (record.allowance, record.expected) == (None, timedelta(seconds=1))
        assert await used(batches) == (0, 0)


async def test_work_that_others_reserve_counts() -> None:
    async with running(limited(1000)) as batches:
        await batches.put(photos(4))
        await trainer(batches, 998)
        with pytest.raises(ProjectQuotaExceeded, match="998 s in use, and 4 s more"):
            await batches.create()
        await trainer(batches, 990)
        await batches.create()
        assert (await batches.get()).allowance == timedelta(seconds=10)
        with pytest.raises(ProjectQuotaExceeded, match=r"10 s of it reserved.*Wait for other work to end or until"):
            await batches.create("second")


async def test_what_the_trainer_reserves_at_the_same_time_is_noticed() -> None:
    """The trainer writes its reservation after this one was decided."""
    async with running(limited(1000)) as batches:
        await batches.put(photos(4))
        quotas = batches.app.quotas
        counting = quotas.accounts.change

        async def change(*arguments: Any, **options: Any) -> None:
            await counting(*arguments, **options)
            if options:
                await batches.write_account(
                    Account("accounts/trainer", computed={month_of(batches.clock.now()): timedelta(seconds=999)})
                )

        quotas.accounts.change = change
        with pytest.raises(ProjectQuotaExceeded, match="999 s in use"):
            await batches.create()
        assert not batches.app.batches.view.all()
        account = await quotas.accounts.current("default")
        assert (account.reservations, any(account.computed.values())) == ({}, False)


async def test_of_many_at_the_same_time_no_more_are_created_than_the_quota_pays() -> None:
    async with running(limited(1500)) as batches:
        await batches.put(photos(4))
        made = await asyncio.gather(*(batches.create(f"b{n}") for n in range(9)), return_exceptions=True)
        assert {type(one) for one in made if isinstance(one, Exception)} == {ProjectQuotaExceeded}
        allowances = [found.value.allowance for found in batches.app.batches.view.all()]
        assert sum((one or timedelta() for one in allowances), timedelta()) == timedelta(seconds=1500)


async def test_one_that_takes_longer_than_its_allowance_fails_with_the_results_so_far() -> None:
    async with running(limited(100, cost=1)) as batches:
        await batches.put(photos(8))
        slowly(batches, 20)
        await batches.create()
        await batches.work()
        record = await batches.get()
        assert (record.state, record.cost) == (State.FAILED, record.allowance)
        assert record.error is not None
        assert "Seconds of compute of batchPredictions/b: more than" in record.error.message
        assert len((await batches.json("images.json"))["images"]) == record.tally.done > 0
        charged, reserved = await used(batches)
        assert (charged <= 100, reserved) == (True, 0)


async def test_a_chunk_stops_at_the_heartbeat_after_the_allowance_is_used_up() -> None:
    async with running(limited(100, cost=1)) as batches:
        await batches.put(photos(4))
        await batches.create()
        await batches.step()
        predict = batches.predictor.predict

        async def late(*arguments: Any, **options: Any) -> Any:
            batches.clock.advance(1000)
            await asyncio.sleep(0.05)
            return await predict(*arguments, **options)

        batches.predictor.predict = late
        await batches.work()
        record = await batches.get()
        assert (record.state, record.tally.done, record.cost) == (State.FAILED, 0, record.allowance)


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after it"])
async def test_a_worker_killed_at_any_call_charges_no_more_than_was_reserved(*, after: bool) -> None:
    async with running(limited(40, cost=1)) as batches:
        await batches.put(photos(7))
        slowly(batches, 9)
        for calls in range(1, 1000):
            await batches.create()
            assert (await batches.get()).remaining == timedelta(seconds=40)
            life = Life(calls, after=after)
            await live(batches, life)
            assert sum(await used(batches)) <= 40, calls
            await batches.recover()
            record = await batches.get()
            assert (record.ended, record.cost <= timedelta(seconds=40)) == (True, True), calls
            assert sum(await used(batches)) <= 40, calls
            await batches.app.delete(NAME, "")
            await batches.recover()
            batches.clock.advance(40 * 86_400)  # another month
            if not life.ended:
                assert calls > 20
                return
        raise AssertionError("the worker never lived to the end")


async def test_results_count_as_storage_until_they_are_deleted() -> None:
    async with running(limited(storage_bytes=1000)) as batches:
        await batches.put(photos(4))
        await batches.create()
        await batches.work()
        record = await batches.get()
        assert record.stored_bytes == sum(output.size_bytes for output in record.outputs) > 1000
        with pytest.raises(ProjectQuotaExceeded, match="Project default, storage"):
            await batches.create("second")
        quotas = batches.app.quotas
        await quotas.publish()
        await eventually(lambda: quotas.accounts.stored("default", "predictor") == record.stored_bytes)
        await batches.app.delete(NAME, "")
        await batches.recover()
        await quotas.publish()
        await eventually(lambda: quotas.accounts.stored("default", "predictor") == 0)
        await batches.create("second")


async def test_uploads_datasets_and_models_leave_no_room_for_results() -> None:
    async with running(limited(storage_bytes=1000)) as batches:
        await batches.put(photos(1))
        await batches.write_account(Account("accounts/dataset", held_bytes={"uploads": 900}))
        await batches.create()
        await batches.write_account(Account("accounts/trainer", held_bytes={"models": 100}))
        with pytest.raises(ProjectQuotaExceeded, match="1000 bytes in use"):
            await batches.create("second")
