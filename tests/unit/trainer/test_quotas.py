"""What a project computes in a month never exceeds its quota, and adds up, whatever is created, charged and deleted."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from services.kit import codec
from services.kit.account import Account
from services.kit.clock import ManualClock
from services.kit.errors import EtagMismatch, ProjectQuotaExceeded
from services.kit.memory import MemoryRecords
from services.kit.quotas import Limits
from services.kit.telemetry import MemoryTelemetry
from services.kit.views import View
from services.trainer import usage
from services.trainer.domain import Evaluation, Model, ModelState, Trial, training_cost
from services.trainer.ledger import MAX_SEGMENTS, ZERO, Reason, Segment, added, charged_by_month, total
from services.trainer.quotas import Quotas
from services.trainer.recipe import Recipe
from services.trainer.reconcile.counts import Counts
from services.trainer.store import Store
from services.trainer.usage import ComputeUse, compute_use
from services.trainer.work import Work
from services.vision.card import ModelKind
from tests.contract.test_accounts import Interleaved
from tests.unit.trainer.support import TTL, model, result, running, snapshot

NOVEMBER = datetime(2026, 11, 28, 12, tzinfo=UTC)
RECIPE = Recipe(name="r", rung=0, backbones=("mobilenet_v2",))
LIMITS = Limits(models=100, compute_seconds=1000)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def trial(owner: Model, number: int, allowance: timedelta, now: datetime) -> Trial:
    return Trial(
        name=f"{owner.name}/trials/t{number:03d}",
        model_uid=owner.uid,
        number=number,
        training=snapshot(),
        recipe=RECIPE,
        holdout_fraction=0.2,
        seed=0,
        work=Work(create_time=now, allowance=allowance),
        update_time=now,
    )


def evaluation(name: str, now: datetime, allowance: timedelta = timedelta(hours=24)) -> Evaluation:
    return Evaluation(
        name=name,
        model_uid="uid1",
        test_dataset="datasets/birds",
        test=snapshot(),
        model_version="1",
        bundle_key="b/",
        model_kind=ModelKind.GENERIC_CLASSIFIER,
        work=Work(create_time=now, allowance=allowance),
        update_time=now,
    )


class Replica:
    """One trainer api."""

    def __init__(self, store: Store, clock: ManualClock, limits: Limits) -> None:
        self.store, self.clock = store, clock
        self.quotas = Quotas(store, lambda _: limits, clock)
        self.counts = Counts(store, clock, MemoryTelemetry())

    async def use(self, project: str = "default") -> ComputeUse:
        return compute_use(self.store, await self.store.accounts.current(project), self.clock.now())

    async def create(self, name: str, budget: float, **changes: Any) -> Model:
        now = self.clock.now()
        made: dict[str, Any] = {"uid": f"uid of {name}", "create_time": now, "update_time": now, **changes}
        draft = model(name, budget=seconds(budget), **made)
        return (await self.quotas.create_model(draft)).value

    async def attempt(self, name: str, budget: float, **changes: Any) -> bool:
        try:
            await self.create(name, budget, **changes)
        except ProjectQuotaExceeded:
            return False
        return True

    async def charge(self, owner: Model, number: int, spent: float) -> Trial:
        """A trial that ends, charged so much."""
        now = self.clock.now()
        begun = trial(owner, number, owner.budget, now)
        work = begun.work.taken(begun.name, "w", now, TTL).succeeded(now, seconds(spent))
        return (await self.store.trials.create(replace(begun, work=work))).value

    async def end(self, owner: Model) -> None:
        cost, now = training_cost(self.store.trials_of(owner.name), None), self.clock.now()
        ended = {"state": ModelState.SUCCEEDED, "training_cost": cost, "end_time": now}
        await self.store.models.change(owner.name, lambda present: replace(present, **ended))

    async def evaluate(self, name: str, spent: float) -> timedelta:
        """An evaluation that ends; what it was charged, nothing if it was refused."""
        now = self.clock.now()
        try:
            found = (await self.quotas.create_evaluation(evaluation(name, now), seconds(spent))).value
        except ProjectQuotaExceeded:
            return ZERO
        work = found.work.taken(name, "w", now, TTL).succeeded(now, seconds(spent))
        await self.store.evaluations.change(name, lambda present: replace(present, work=work))
        return work.charged

    async def settle(self, other: "Replica") -> None:
        """Waits until this replica's views show what the other's do."""
        for mine, its in zip(self.views, other.views, strict=True):
            while mine.version != its.version:
                await mine.changed(1, mine.version)

    @property
    def views(self) -> tuple[View[Any], ...]:
        return self.store.models.view, self.store.trials.view, self.store.evaluations.view

    async def delete(self, owner: Model) -> None:
        await self.store.models.delete(owner.name)
        for found in self.store.trials.view.all(f"{owner.name}/"):
            await self.counts.delete(self.store.trials, found.value.name)


@asynccontextmanager
async def replica(
    records: MemoryRecords, clock: ManualClock | None = None, limits: Limits = LIMITS
) -> AsyncGenerator[Replica]:
    async with running(records) as store:
        yield Replica(store, clock or ManualClock(NOVEMBER), limits)


async def test_the_budgets_of_trainings_that_have_not_ended_are_reserved() -> None:
    async with replica(MemoryRecords()) as api:
        first = await api.create("models/a", 600)
        assert await api.use() == ComputeUse(ZERO, seconds(600))
        await api.charge(first, 0, 100)
        assert await api.use() == ComputeUse(seconds(100), seconds(500))
        assert not await api.attempt("models/b", 401)
        assert await api.attempt("models/b", 400)
        await api.end(first)
        assert await api.use() == ComputeUse(seconds(100), seconds(400))
        assert await api.attempt("models/c", 500)


async def test_a_refusal_names_the_quota_what_is_used_the_limit_and_what_to_do() -> None:
    async with replica(MemoryRecords()) as api:
        await api.charge(await api.create("models/a", 600), 0, 100)
        with pytest.raises(ProjectQuotaExceeded) as refused:
            await api.create("models/b", 500)
    assert refused.value.message == (
        "Project default, compute this month: 600 s in use (500 s of it reserved by work that has not ended), and 500 s"
        " more would exceed the limit of 1000 s (SIGHTLINE_MAX_PROJECT_COMPUTE_SECONDS). Ask for at most 400 s, wait"
        " for other work to end or until 2026-12-01 (UTC), or ask an operator for a higher limit."
    )
    assert refused.value.reason == "QuotaExceeded"
    assert refused.value.metadata["setting"] == "SIGHTLINE_MAX_PROJECT_COMPUTE_SECONDS"


async def test_a_repeated_refusal_reserves_nothing() -> None:
    async with replica(MemoryRecords()) as api:
        for number in range(5):
            assert not await api.attempt(f"models/m{number}", 2000)
        assert await api.attempt("models/m", 1000)


@pytest.mark.parametrize(("limits", "fits"), [(LIMITS, 10), (Limits(models=5), 5)])
async def test_creates_of_two_replicas_at_once_exceed_no_quota(limits: Limits, fits: int) -> None:
    records = Interleaved()
    async with replica(records, limits=limits) as one, replica(records, limits=limits) as other:
        attempts = ((one, other)[number % 2].attempt(f"models/m{number}", 100) for number in range(20))
        assert sum(await asyncio.gather(*attempts)) == fits
        assert len(one.store.models.view.all()) == fits


async def test_a_model_and_evaluations_at_once_do_not_exceed_it_either() -> None:
    records = Interleaved()
    async with replica(records) as one, replica(records) as other:
        await one.create("models/a", 100)

        async def evaluate(api: Replica, number: int) -> None:
            draft = evaluation(f"models/a/evaluations/e{number}", api.clock.now())
            await api.quotas.create_evaluation(draft, seconds(10))

        creates = [evaluate((one, other)[number % 2], number) for number in range(6)]
        await asyncio.gather(*creates, one.attempt("models/b", 500), return_exceptions=True)
        use = await other.use()
        assert use.used <= seconds(1000)
        assert one.store.evaluations.view.all()


async def test_an_evaluation_may_take_what_is_left_and_not_less_than_it_is_expected_to_cost() -> None:
    async with replica(MemoryRecords()) as api:
        await api.create("models/a", 900)
        found = await api.quotas.create_evaluation(evaluation("models/a/evaluations/e", NOVEMBER), seconds(30))
        assert found.value.work.allowance == seconds(100)
        with pytest.raises(ProjectQuotaExceeded, match=r"Wait for other work to end or until 2026-12-01 \(UTC\)"):
            await api.quotas.create_evaluation(evaluation("models/a/evaluations/f", NOVEMBER), seconds(30))
    async with replica(MemoryRecords(), limits=Limits(compute_seconds=10**6)) as api:
        found = await api.quotas.create_evaluation(evaluation("models/a/evaluations/e", NOVEMBER), seconds(100))
        assert found.value.work.allowance == seconds(1000)
    async with replica(MemoryRecords(), limits=Limits()) as api:
        found = await api.quotas.create_evaluation(evaluation("models/a/evaluations/e", NOVEMBER), seconds(30))
        assert found.value.work.allowance == timedelta(hours=24)


async def test_other_projects_count_apart() -> None:
    async with replica(MemoryRecords()) as api:
        await api.create("projects/acme/models/a", 1000)
        assert not await api.attempt("projects/acme/models/b", 1)
        assert await api.attempt("models/a", 1000)
        assert await api.use("acme") == ComputeUse(ZERO, seconds(1000))


async def test_bundles_count_towards_storage_with_what_the_dataset_service_holds() -> None:
    records = MemoryRecords()
    async with replica(records, limits=Limits(storage_bytes=100)) as api:
        owner = await api.create("models/a", 10)
        ended = await api.charge(owner, 0, 5)
        kept = result(ended, bundle_bytes=60)
        await api.store.trials.change(ended.name, lambda present: replace(present, result=kept))
        assert await api.attempt("models/b", 10)
        others = Account("accounts/dataset", held_bytes={"uploads": 30, "datasets": 10})
        await api.store.accounts.view.caught_up(await records.create(others.name, codec.encode(others)))
        with pytest.raises(ProjectQuotaExceeded, match="storage: 100 bytes in use, and any more would exceed"):
            await api.create("models/c", 10)


# Deletion and months.


async def test_what_deleted_models_were_charged_stays_used_for_the_month() -> None:
    records, clock = MemoryRecords(), ManualClock(NOVEMBER)
    async with replica(records, clock) as api:
        for round_ in range(3):
            owner = await api.create("models/a", 300, uid=f"uid{round_}")
            await api.charge(owner, 0, 200)
            await api.end(owner)
            await api.delete(owner)
            assert await api.use() == ComputeUse(seconds(200 * (round_ + 1)), ZERO)
        assert not await api.attempt("models/b", 401)
        clock.advance(2 * 3600)
        owner = await api.create("models/b", 300, uid="b")
        await api.charge(owner, 0, 50)
        await api.end(owner)
        await api.delete(owner)  # adds up the older ones
        account = await api.store.accounts.current("default")
        assert (len(account.gone), account.charged) == (1, {"2026-11": seconds(600)})
        assert await api.use() == ComputeUse(seconds(650), ZERO)
    async with replica(records, clock) as restarted:
        assert await restarted.use() == ComputeUse(seconds(650), ZERO)


async def test_a_record_deleted_by_two_replicas_counts_once() -> None:
    records = Interleaved()
    async with replica(records) as one, replica(records) as other:
        owner = await one.create("models/a", 300)
        name = (await one.charge(owner, 0, 200)).name
        deletes = [api.counts.delete(api.store.trials, name) for api in (one, other, one)]
        await asyncio.gather(*deletes, return_exceptions=True)
        await one.end(owner)
        await one.store.models.delete(owner.name)
        assert (await other.use()).charged == seconds(200)


async def test_a_deletion_that_was_refused_leaves_the_charges_to_the_record() -> None:
    clock = ManualClock(NOVEMBER)
    async with replica(MemoryRecords(), clock) as api:
        running_one = evaluation("models/a/evaluations/e", NOVEMBER, seconds(500))
        begun = replace(running_one, work=running_one.work.taken(running_one.name, "w", NOVEMBER, TTL))
        begun = replace(begun, work=begun.work.committed(NOVEMBER, TTL, used=seconds(100), checkpoint_key="c"))
        await api.store.evaluations.create(begun)
        with pytest.raises(EtagMismatch):
            await api.counts.delete(api.store.evaluations, begun.name, "1000")
        ended = replace(begun, work=begun.work.succeeded(NOVEMBER, seconds(300)))
        await api.store.evaluations.change(begun.name, lambda _: ended)
        assert await api.use() == ComputeUse(seconds(300), ZERO)
        clock.advance(7200)
        await usage.keep_charges(api.store, replace(ended, name="models/x/evaluations/e"), clock.now())
        assert (await api.store.accounts.current("default")).charged == {}
        assert (await api.use()).charged == seconds(600)


async def test_a_charge_counts_in_the_month_in_which_it_was_made_and_what_is_reserved_in_every_month() -> None:
    clock = ManualClock(NOVEMBER)
    async with replica(MemoryRecords(), clock) as api:
        owner = await api.create("models/a", 800)
        await api.charge(owner, 0, 300)
        clock.advance(3 * 86400)
        assert await api.use() == ComputeUse(ZERO, seconds(500))
        await api.charge(owner, 1, 200)
        assert await api.use() == ComputeUse(seconds(200), seconds(300))
        assert not await api.attempt("models/b", 501)
        assert await api.attempt("models/b", 500)


async def test_a_charge_that_the_view_does_not_show_yet_counts_already() -> None:
    async with replica(MemoryRecords()) as api:
        owner = await api.create("models/a", 800)
        ended = {"state": ModelState.SUCCEEDED, "training_cost": seconds(300), "end_time": NOVEMBER}
        await api.store.models.change(owner.name, lambda present: replace(present, **ended))
        assert await api.use() == ComputeUse(seconds(300), ZERO)


@pytest.mark.parametrize("count", [40, MAX_SEGMENTS * 2])
def test_a_ledger_that_is_shortened_keeps_what_each_month_was_charged(count: int) -> None:
    segments, expected = tuple[Segment, ...](), defaultdict[str, timedelta](timedelta)
    at = NOVEMBER - timedelta(days=9)  # so that the month ends after as many segments as an attempt keeps apart
    for number in range(count):
        at += timedelta(hours=8)
        attempt = 1 if count == 40 else number // 4
        segment = Segment(attempt=attempt, duration=seconds(1), charged=True, reason=Reason.CHECKPOINT, end_time=at)
        segments = added(segments, segment)
        expected[f"{at:%Y-%m}"] += seconds(1)
    assert charged_by_month(segments) == expected
    assert len(segments) < count


# Everything at once.


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_the_month_adds_up_and_stays_below_the_limit(seed: int) -> None:
    chance, clock, records = random.Random(seed), ManualClock(NOVEMBER), MemoryRecords()
    charged = defaultdict[str, timedelta](timedelta)
    made = 0
    async with replica(records, clock) as one, replica(records, clock) as other:
        for _ in range(120):
            api = chance.choice((one, other))
            models = [found.value for found in api.store.models.view.all()]
            match chance.choice(("create", "create", "trial", "trial", "end", "delete", "evaluate", "forget", "wait")):
                case "create":
                    made += 1
                    await api.attempt(f"models/m{made}", chance.choice((50, 200, 700)), uid=f"u{made}")
                case "trial" if going := [found for found in models if not found.ended]:
                    owner = chance.choice(going)
                    left = owner.budget - training_cost(api.store.trials_of(owner.name), None)
                    spent = chance.randint(0, int(left.total_seconds()))
                    await api.charge(owner, len(api.store.trials_of(owner.name)), spent)
                    charged[f"{clock.now():%Y-%m}"] += seconds(spent)
                case "end" if going := [found for found in models if not found.ended]:
                    await api.end(chance.choice(going))
                case "delete" if ended := [found for found in models if found.ended]:
                    await api.delete(chance.choice(ended))
                case "evaluate" if models:
                    made += 1
                    name = f"{chance.choice(models).name}/evaluations/e{made}"
                    charged[f"{clock.now():%Y-%m}"] += await api.evaluate(name, chance.randint(1, 60))
                case "forget" if found := api.store.evaluations.view.all():
                    await api.counts.delete(api.store.evaluations, chance.choice(found).value.name)
                case _:
                    clock.advance(chance.choice((1, 3700, 86400)))
            await other.settle(one)
            for found in (await one.use(), await other.use()):
                assert found.charged == charged[f"{clock.now():%Y-%m}"]
                assert found.used <= seconds(1000)
    assert total(charged.values()) > ZERO
