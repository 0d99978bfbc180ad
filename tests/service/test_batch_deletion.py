"""Batch predictions are deleted with their results and nothing else, whoever dies in between."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.kit.blobs import Blobs
from services.kit.errors import EtagMismatch, NotFound, WrongState
from services.kit.quotas import month_of
from services.predictor.batch import metrics
from services.predictor.batch.advance import give_up
from services.predictor.batch.domain import PREDICT
from services.predictor.batch.states import State
from services.predictor.settings import PredictorSettings
from tests.support.batches import Batches, Life, Stuck, live, photos, running
from tests.support.waiting import eventually

NAME = "batchPredictions/b"


async def finished(batches: Batches, id_: str = "b", **fields: Any) -> None:
    await batches.create(id_, **fields)
    await batches.work()
    assert (await batches.get(id_)).state is State.SUCCEEDED


async def delete(batches: Batches, *, force: bool = False, etag: str = "") -> None:
    await batches.app.delete(NAME, etag, force=force)


async def is_gone(batches: Batches, id_: str = "b") -> bool:
    try:
        await batches.get(id_)
    except NotFound:
        return True
    return False


async def test_results_and_record_go_and_the_name_can_be_used_again() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(4))
        await finished(batches)
        await delete(batches)
        assert (await batches.get()).state is State.DELETING
        with pytest.raises(NotFound):
            await batches.file("results.json")
        await delete(batches)  # again
        await batches.work()
        assert await batches.keys() == []
        await batches.remover().reconcile()
        assert await is_gone(batches)
        with pytest.raises(NotFound):
            await delete(batches)
        await finished(batches)
        assert len(await batches.keys()) == 4


async def test_one_that_has_not_ended_is_deleted_by_force_only() -> None:
    async with running(Batches()) as batches:
        await batches.put_dataset([1, 2, 3, 4], {"cat": 1})
        await batches.create(dataset_name="datasets/d")
        await batches.step()
        with pytest.raises(WrongState, match=r"RUNNING; deleting is possible in CANCELLED, FAILED, SUCCEEDED \(cancel"):
            await delete(batches)
        assert NAME in batches.holding.holds.of("datasets/d")
        await delete(batches, force=True)
        await batches.keeper().reconcile()
        await eventually(lambda: not batches.holding.holds.of("datasets/d"))
        await batches.work()
        await batches.remover().reconcile()
        assert (await is_gone(batches), await batches.keys()) == (True, [])


async def test_an_etag_that_is_not_current_deletes_nothing() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(1))
        await finished(batches)
        with pytest.raises(EtagMismatch):
            await delete(batches, etag="1")
        etag = (await batches.app.get(NAME)).etag
        for _ in range(2):  # a call may be repeated
            await delete(batches, etag=etag)


async def test_a_chunk_in_progress_stops_at_its_next_heartbeat() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(8))
        await batches.create()
        await batches.step()
        stuck = asyncio.create_task(batches.step(replace(batches.context(), blobs=Stuck(batches.blobs))))
        await eventually(lambda: batches.telemetry.value(metrics.IN_FLIGHT) > 0)
        await delete(batches, force=True)
        await asyncio.wait_for(stuck, 5)


class Slow:
    """A store whose puts of results wait until they are let through."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs, self.reached, self.go = blobs, asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def put(self, key: str, data: bytes) -> None:
        if "/results/" in key:
            self.reached.set()
            await self.go.wait()
        await self._blobs.put(key, data)


@pytest.mark.parametrize("again", [False, True], ids=["gone", "there is a later one of the name"])
async def test_what_an_attempt_stores_after_the_removal_goes_too_and_a_later_one_keeps_its_own(*, again: bool) -> None:
    settings = PredictorSettings(batch_chunk_images=8, batch_heartbeat_seconds=1000)
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(4))
        await batches.create()
        await batches.step()
        store = Slow(batches.blobs)
        late = asyncio.create_task(batches.step(replace(batches.context("slow"), blobs=store)))
        await store.reached.wait()
        await delete(batches, force=True)
        await batches.work()
        await batches.remover().reconcile()
        assert await is_gone(batches)
        if again:
            await finished(batches)
        kept = await batches.keys()
        store.go.set()
        await late
        assert await batches.keys() == kept
        assert len(kept) == (4 if again else 0)


async def test_the_next_attempt_at_a_chunk_removes_what_one_left_that_died_after_the_removal() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(8))
        await batches.create()
        uid = (await batches.get()).uid
        await batches.step()
        await delete(batches, force=True)
        await batches.step()  # removes it; the jobs of its chunks are still there
        await batches.remover().reconcile()
        await batches.blobs.put(f"{NAME}/{uid}/work/results/00000-late.json", b"[]")
        await batches.create()
        assert await batches.queue.depth(PREDICT)
        await batches.work()
        assert (await batches.get()).state is State.SUCCEEDED
        assert not [key for key in await batches.keys() if uid in key]


async def test_a_job_of_an_earlier_one_that_is_given_up_ends_no_later_one_of_the_name() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(8))
        await batches.create()
        await batches.step()
        for _ in range(5):
            await live(batches, Life(2, after=False))
            batches.clock.advance(31)
        await delete(batches, force=True)
        await batches.step()
        await batches.remover().reconcile()
        await batches.create()
        await batches.work()
        assert (await batches.get()).error is None


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after it"])
async def test_a_worker_killed_at_any_call_leaves_nothing_of_a_deleted_one(*, after: bool) -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(7))
        for calls in range(1, 100):
            await batches.create()
            await batches.step()
            await batches.step()
            await delete(batches, force=True)
            life = Life(calls, after=after)
            await live(batches, life)
            await batches.recover()
            assert (await is_gone(batches), await batches.keys()) == (True, []), calls
            if not life.ended:
                assert calls > 10
                return
        raise AssertionError("the worker never lived to the end")


async def test_results_that_were_written_elsewhere_are_kept_and_unfinished_ones_are_not() -> None:
    settings = PredictorSettings(batch_chunk_images=3, open_output_prefixes="results/")
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(4))
        await finished(batches, output_uri_prefix="s3://sightline/results/one")
        await delete(batches)
        await batches.recover()
        assert len(await batches.keys("results/one/")) == 4
        await batches.create(output_uri_prefix="s3://sightline/results/two")
        await batches.step()
        await batches.blobs.put("results/two/results.json", b"[")  # of a worker that died
        await delete(batches, force=True)
        await batches.recover()
        assert (await is_gone(batches), await batches.keys("results/two/")) == (True, [])


async def test_the_results_of_another_at_the_prefix_of_one_that_ended_without_any_are_kept() -> None:
    settings = PredictorSettings(batch_chunk_images=3, open_output_prefixes="results/", max_batch_images=3)
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(4))
        await batches.put(photos(2), "uploads/u1/fewer/")
        out: dict[str, Any] = {"output_uri_prefix": "s3://sightline/results/one"}
        fewer: dict[str, Any] = {**out, "input_uri_prefix": "s3://sightline/uploads/u1/fewer"}
        await batches.create("failed", **out)
        await batches.work()
        await batches.create("cancelled", **out)
        await batches.app.cancel("batchPredictions/cancelled")
        await batches.work()
        await finished(batches, "good", **fewer)
        for id_, state in ("failed", State.FAILED), ("cancelled", State.CANCELLED):
            assert (await batches.get(id_)).state is state
            await batches.app.delete(f"batchPredictions/{id_}", "")
        await batches.recover()
        assert await is_gone(batches, "failed")
        assert await is_gone(batches, "cancelled")
        assert len(await batches.keys("results/one/")) == 4


async def test_what_was_written_of_results_that_are_given_up_is_removed() -> None:
    settings = PredictorSettings(open_output_prefixes="results/")
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(1))
        await batches.create(output_uri_prefix="s3://sightline/results/one")
        await batches.step()
        await batches.step()
        assert (await batches.get()).is_to_finish
        await batches.blobs.put("results/one/results.json", b"[")  # of a worker that died
        await give_up(batches.context(), NAME, "writing its results", write_results=False)
        assert ((await batches.get()).state, await batches.keys("results/")) == (State.FAILED, [])


async def test_a_watch_ends_with_not_found() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(1))
        await batches.create()
        states = list[State]()

        async def watch() -> None:
            async for found in batches.app.watch(NAME):
                states.append(found.value.state)

        watching = asyncio.create_task(watch())
        await eventually(lambda: bool(states))
        await delete(batches, force=True)
        await batches.recover()
        with pytest.raises(NotFound):
            await watching
        assert states[0] is State.NOT_STARTED


async def test_what_was_charged_stays_charged() -> None:
    async with running(Batches()) as batches:
        await batches.put(photos(1))
        month, quotas = month_of(batches.clock.now()), batches.app.quotas
        for spent in (11, 5):
            await finished(batches)
            charged = {month: timedelta(seconds=spent)}
            await batches.app.batches.change(NAME, lambda now, charged=charged: replace(now, charged=charged))
            await delete(batches)
            await batches.recover()
        assert await is_gone(batches)

        def computed() -> float:
            return quotas.accounts.last("default", "predictor").compute(batches.clock.now()).charged.total_seconds()

        await quotas.publish()
        await eventually(lambda: computed() == 16)
        batches.clock.advance(7200)
        await finished(batches)
        charged = {month: timedelta(seconds=1)}
        await batches.app.batches.change(NAME, lambda now: replace(now, charged=charged))
        await delete(batches)
        await batches.recover()
        await quotas.publish()
        await eventually(lambda: computed() == 17)


async def test_those_that_ended_long_ago_are_deleted_if_an_operator_wants_that() -> None:
    settings = PredictorSettings(batch_chunk_images=3, batch_days=2)
    async with running(Batches(settings=settings)) as batches:
        await batches.put(photos(2))
        await finished(batches)
        batches.clock.advance(86_400)
        await finished(batches, "later")
        await batches.remover().reconcile()
        assert (await batches.get()).state is State.SUCCEEDED
        batches.clock.advance(86_400)
        await batches.remover().reconcile()
        await batches.work()
        await batches.remover().reconcile()
        assert (await is_gone(batches), await is_gone(batches, "later")) == (True, False)
