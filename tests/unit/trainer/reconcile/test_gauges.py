"""The trainer api's gauges: states, waits, budgets."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from msgspec.structs import replace

from services.kit.clock import ManualClock
from services.kit.leases import Lease
from services.kit.memory import MemoryQueue, MemoryRecords
from services.kit.telemetry import MemoryTelemetry, Metric
from services.trainer import metrics
from services.trainer.domain import ModelState, Trial
from services.trainer.ledger import Reason, Segment
from services.trainer.planner.plan import plan
from services.trainer.planner.steps import StartTrial
from services.trainer.reconcile.gauges import Gauges
from services.trainer.store import Store
from services.trainer.work import Work, WorkState
from tests.unit.trainer.support import START, TTL, model, running, snapshot, training


class Bench:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.telemetry = MemoryTelemetry()
        self.clock = ManualClock(START + timedelta(minutes=5))
        self.gauges = Gauges(self.store, MemoryQueue(self.clock), self.clock, self.telemetry)

    def value(self, metric: Metric, **labels: str) -> float:
        return self.telemetry.value(metric, **labels)


@asynccontextmanager
async def bench() -> AsyncGenerator[Bench]:
    async with running(MemoryRecords()) as store:
        yield Bench(store)


def trial(name: str, work: Work) -> Trial:
    step = plan(training(), [], None)
    assert isinstance(step, StartTrial)
    return Trial(
        name=name,
        model_uid="uid1",
        number=0,
        training=snapshot(),
        recipe=step.recipe,
        holdout_fraction=0.2,
        seed=7,
        work=work,
        update_time=START,
    )


def charged(seconds: float, **changes: object) -> Work:
    segment = Segment(
        attempt=1, number=0, duration=timedelta(seconds=seconds), charged=True, reason=Reason.FINISHED, end_time=START
    )
    lost = replace(segment, number=1, charged=False, duration=timedelta(seconds=1000))
    return replace(Work(create_time=START, allowance=timedelta(seconds=600.0), segments=(segment, lost)), **changes)


async def test_gauges_show_what_runs_and_how_long_work_waits():
    async with bench() as at:
        await at.store.models.create(training())
        await at.store.models.create(model("models/done", state=ModelState.SUCCEEDED))
        held = Lease().taken("w1", at.clock.now(), TTL)
        at_work = charged(5, state=WorkState.RUNNING, lease=held)
        await at.store.trials.create(trial("models/m/trials/t000", at_work))
        await at.store.trials.create(trial("models/m/trials/t001", charged(0)))
        at.gauges.count()
        assert at.value(metrics.MODELS, state="TRAINING") == 1
        assert at.value(metrics.MODELS, state="SUCCEEDED") == 1
        assert at.value(metrics.WORK, kind="trial", state="RUNNING") == 1
        assert at.value(metrics.WORK, kind="trial", state="QUEUED") == 1
        assert at.value(metrics.OLDEST_QUEUED, kind="trial") == 300
        assert at.value(metrics.OLDEST_QUEUED, kind="evaluation") == 0


async def test_a_trial_that_was_given_back_has_waited_since_then() -> None:
    async with bench() as at:
        back = START + timedelta(minutes=4)
        for number, end in enumerate(("released", "lost")):
            begun = charged(0).taken("t", "w1", START, TTL)
            work = begun.released(back) if end == "released" else begun.lost(back, "t", "killed")
            await at.store.trials.create(trial(f"models/m/trials/t00{number}", work))
        at.gauges.count()
        assert at.value(metrics.OLDEST_QUEUED, kind="trial") == 60


async def test_a_trial_whose_worker_was_lost_has_waited_since_its_lease_expired() -> None:
    async with bench() as at:
        begun = charged(0).taken("t", "w1", START + timedelta(minutes=4) - TTL, TTL)
        await at.store.trials.create(trial("models/m/trials/t000", begun))
        at.gauges.count()
        assert at.value(metrics.OLDEST_QUEUED, kind="trial") == 60
        assert at.value(metrics.WORK, kind="trial", state="QUEUED") == 1
        assert at.value(metrics.WORK, kind="trial", state="RUNNING") == 0


async def test_budgets_are_of_models_that_have_not_ended_and_only_charged_segments_count():
    async with bench() as at:
        await at.store.models.create(training(budget=timedelta(seconds=600.0)))
        await at.store.models.create(model("models/done", state=ModelState.SUCCEEDED, budget=timedelta(seconds=60.0)))
        await at.store.trials.create(trial("models/m/trials/t000", charged(150)))
        at.gauges.count()
        assert at.value(metrics.BUDGET) == 600
        assert at.value(metrics.BUDGET_LEFT) == 450
        assert at.value(metrics.BUDGET_OVERRUN) == 0


@pytest.mark.parametrize("root", ["", "projects/acme/"])
async def test_an_overrun_is_reported_for_ended_models_of_any_project_too(root):
    async with bench() as at:
        for name in ("models/m", "models/n"):
            ended = model(f"{root}{name}", state=ModelState.SUCCEEDED, budget=timedelta(seconds=100.0))
            await at.store.models.create(ended)
        await at.store.trials.create(trial(f"{root}models/m/trials/t000", charged(60)))
        await at.store.trials.create(trial(f"{root}models/m/trials/t001", charged(42.5)))
        at.gauges.count()
        assert at.value(metrics.BUDGET_OVERRUN) == 2.5


async def test_without_models_all_gauges_are_0():
    async with bench() as at:
        at.gauges.count()
        assert set(at.telemetry.values.values()) == {0}
