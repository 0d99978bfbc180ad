"""Batch predictions hold the dataset whose images they predict, until they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.kit.errors import DatasetNotReady, NotFound
from services.kit.hold_keeping import SWEEP_SECONDS
from services.kit.holds import Holder
from services.predictor.batch.states import State
from tests.support.batches import Batches, photos, running
from tests.support.waiting import eventually

D, B = "datasets/d", "batchPredictions/b"


@pytest.fixture
async def batches() -> AsyncIterator[Batches]:
    async with running(Batches()) as made:
        await made.put_dataset(range(1, 5), {"cat": 1, "dog": 2, "owl": 3})
        await made.put(photos(1))
        yield made


async def held(batches: Batches) -> dict[str, str]:
    """Once the views have caught up."""
    for _ in range(5):
        await batches.clock.sleep(0)
    return batches.holding.holds.of(D)


async def test_it_holds_its_dataset_until_it_has_ended(batches: Batches) -> None:
    made = await batches.create(dataset_name=D)
    await batches.create("below", input_uri_prefix="s3://sightline/uploads/u1/photos")
    keeper = batches.keeper()
    await keeper.reconcile()
    assert await held(batches) == {B: made.value.uid}
    await batches.work()
    assert (await batches.get()).state is State.SUCCEEDED
    await keeper.reconcile()
    assert await held(batches) == {}


async def test_what_is_cancelled_holds_it_until_no_worker_reads_it(batches: Batches) -> None:
    await batches.create(dataset_name=D)
    await batches.app.cancel(B)
    keeper = batches.keeper()
    await keeper.reconcile()
    assert B in await held(batches)
    await batches.work()
    await keeper.reconcile()
    assert await held(batches) == {}


async def test_a_dataset_that_is_deleted_at_the_same_time_leaves_neither_record_nor_hold(batches: Batches) -> None:
    batches.datasets.deleting.add(D)
    with pytest.raises(DatasetNotReady, match="DELETING"):
        await batches.create(dataset_name=D)
    with pytest.raises(NotFound):
        await batches.get()
    assert await held(batches) == {}
    assert not await batches.step(), "no worker was told"


async def test_a_repeated_request_does_not_remove_what_the_first_one_made(batches: Batches) -> None:
    await batches.create(dataset_name=D, request_id="r")
    batches.datasets.deleting.add(D)
    again = await batches.create(dataset_name=D, request_id="r")
    assert (await batches.get()).uid == again.value.uid


async def test_trying_takes_no_hold(batches: Batches) -> None:
    await batches.create(dataset_name=D, validate_only=True)
    assert await held(batches) == {}


async def test_missing_holds_are_taken_and_those_of_nothing_or_of_an_earlier_one_end(batches: Batches) -> None:
    made = await batches.create(dataset_name=D)
    holds = batches.holding.holds
    await holds.remove(D, Holder(B, made.value.uid))
    for holder in (Holder("batchPredictions/gone", "u"), Holder("models/m", "another service's")):
        await holds.add(D, holder)
    await held(batches)
    keeper = batches.keeper()
    await keeper.reconcile()
    assert await held(batches) == {B: made.value.uid, "models/m": "another service's"}
    await holds.remove(D, Holder(B, made.value.uid))
    await holds.add(D, Holder(B, "of an earlier one"))
    await held(batches)
    batches.clock.advance(SWEEP_SECONDS)
    await keeper.reconcile()
    await held(batches)
    batches.clock.advance(SWEEP_SECONDS)
    await keeper.reconcile()
    assert (await held(batches))[B] == made.value.uid


async def test_a_hold_that_the_view_does_not_explain_is_kept_if_its_record_does(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views lag: it was created through another replica."""
    made = await batches.create(dataset_name=D)
    await held(batches)
    monkeypatch.setattr(batches.app.batches.view, "find", lambda _: None)
    await batches.keeper().reconcile()
    assert await held(batches) == {B: made.value.uid}


async def test_a_hold_ends_soon_after_its_batch_prediction(batches: Batches) -> None:
    await batches.create(dataset_name=D)
    running_keeper = asyncio.create_task(batches.keeper().run())
    try:
        await held(batches)
        assert B in await held(batches)
        await batches.work()
        await eventually(lambda: not batches.holding.holds.of(D))
    finally:
        running_keeper.cancel()
