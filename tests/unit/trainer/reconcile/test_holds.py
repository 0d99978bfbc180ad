"""The coordinator ends holds of what has ended, and takes those that are missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.kit.clock import ManualClock
from services.kit.errors import DatasetNotFound, DatasetNotReady, Unavailable
from services.kit.hold_keeping import SWEEP_SECONDS
from services.kit.holds import Holder
from services.kit.memory import MemoryRecords
from services.trainer.domain import FINAL_EVALUATION, Evaluation, Model, ModelState
from services.trainer.holding import Holding, holder_of
from services.trainer.reconcile.holds import HoldKeeper
from services.trainer.store import Store
from services.trainer.work import Work
from services.vision.card import ModelKind
from tests.unit.trainer.support import START, FakeDatasets, dataset, model, running, snapshot, training

BIRDS, TEST = "datasets/birds", "datasets/test"


class World:
    """A store, the dataset service as a dictionary, and a keeper."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, ManualClock(START)
        self.datasets = FakeDatasets(dataset(revision=3), dataset(TEST, revision=4))
        self.holding = Holding(store.holds, self.datasets, self.clock)
        self.keeper = HoldKeeper(store, self.holding, self.clock)

    def held(self, name: str = BIRDS) -> list[str]:
        return sorted(self.store.holds.of(name))

    async def reconcile(self) -> None:
        await self.keeper.reconcile()
        await self.settle()

    async def settle(self) -> None:
        """Lets the views catch up."""
        for _ in range(5):
            await self.clock.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    records = MemoryRecords()
    for number in range(10):  # the datasets' among them
        await records.create(f"datasets/{number}", b"{}")
    async with running(records) as store:
        yield World(store)


def evaluation(name: str = "e") -> Evaluation:
    return Evaluation(
        name=f"models/m/evaluations/{name}",
        model_uid="uid1",
        test_dataset=TEST,
        test=snapshot(TEST),
        model_version="v",
        bundle_key="b/",
        model_kind=ModelKind.GENERIC_CLASSIFIER,
        work=Work(create_time=START, allowance=timedelta(minutes=1)),
        update_time=START,
    )


def ended(found: Model) -> Model:
    return found.moved(ModelState.FAILED, START)


async def test_the_hold_of_a_training_ends_with_it(world: World) -> None:
    await world.store.models.create(training(test_dataset=TEST))
    await world.holding.hold_all(training(test_dataset=TEST))
    await world.reconcile()
    assert (world.held(), world.held(TEST)) == (["models/m"], ["models/m"])
    await world.store.models.change("models/m", ended)
    await world.reconcile()
    assert (world.held(), world.held(TEST)) == ([], [])


async def test_the_hold_of_an_evaluation_ends_with_it_or_with_its_record(world: World) -> None:
    for name in ("done", "deleted"):
        await world.store.evaluations.create(evaluation(name))
        await world.holding.hold_all(evaluation(name))
    await world.reconcile()
    assert len(world.held(TEST)) == 2
    await world.store.evaluations.change(
        "models/m/evaluations/done", lambda found: found.with_work(found.work.cancelled(START), START)
    )
    await world.store.evaluations.delete("models/m/evaluations/deleted")
    await world.reconcile()
    assert world.held(TEST) == []


async def test_a_hold_that_the_views_do_not_explain_is_kept_if_its_record_does(world: World) -> None:
    """Views lag: the model was created through another replica."""
    await world.holding.holds.add(BIRDS, holder_of(model()))
    await world.settle()
    find = world.store.models.view.find
    await world.store.models.create(model())
    world.store.models.view.find = lambda name: None
    await world.reconcile()
    world.store.models.view.find = find
    assert world.held() == ["models/m"]


async def test_holds_of_an_earlier_model_of_the_name_or_on_another_dataset_end(world: World) -> None:
    await world.store.models.create(model())
    await world.holding.holds.add(BIRDS, Holder("models/m", "earlier"))
    await world.holding.holds.add(TEST, holder_of(model()))
    await world.settle()
    await world.reconcile()
    assert (world.held(), world.held(TEST)) == ([], [])


async def test_what_began_before_there_were_holds_gets_them(world: World) -> None:
    await world.store.models.create(training())
    await world.store.evaluations.create(evaluation())
    await world.store.evaluations.create(evaluation(FINAL_EVALUATION))
    await world.reconcile()
    assert (world.held(), world.held(TEST)) == (["models/m"], ["models/m/evaluations/e"])


async def test_while_the_dataset_service_is_away_a_hold_is_taken_once(world: World) -> None:
    """It is listed before the dataset is asked for, so a deletion finds it."""
    world.datasets.away = True
    await world.store.models.create(training())
    for _ in range(3):
        await world.reconcile()
        world.clock.advance(SWEEP_SECONDS)
    assert (world.datasets.asked, world.held()) == (1, ["models/m"])


async def test_a_hold_on_what_is_gone_or_going_is_refused_and_leaves_nothing(world: World) -> None:
    world.datasets.put(dataset(state="DELETING", revision=9))
    with pytest.raises(DatasetNotReady):
        await world.holding.hold(model(), BIRDS)
    world.datasets.present.pop(BIRDS)
    with pytest.raises(DatasetNotFound):
        await world.holding.hold(model(), BIRDS)
    await world.settle()
    assert world.held() == []


async def test_a_hold_waits_for_a_deletion_to_decide(world: World) -> None:
    await world.holding.holds.close(BIRDS, 3, START)
    with pytest.raises(Unavailable, match="its deletion was interrupted"):
        await world.holding.hold(model(), BIRDS)
    world.datasets.put(dataset(revision=5))
    assert (await world.holding.hold(model(), BIRDS)).revision == 5


async def test_a_failed_version_does_not_end_the_hold_of_a_training_on_an_earlier_one(world: World) -> None:
    world.datasets.put(dataset(state="FAILED", revision=9))
    await world.store.models.create(training())
    await world.reconcile()
    assert world.held() == ["models/m"]
