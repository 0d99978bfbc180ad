"""Whoever lost the lease of a record writes nothing into it."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from services.kit.errors import LeaseLost, RecordNotFound
from services.kit.leases import Lease, LeaseGuard
from services.kit.memory import MemoryRecords
from services.kit.records import Table

NAME = "things/a"
TTL = timedelta(seconds=30)
START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = START + timedelta(seconds=60)
FREE = Lease()


@dataclass(frozen=True)
class Thing:
    name: str = NAME
    uid: str = "u"
    lease: Lease = FREE
    count: int = 0


def more(thing: Thing) -> Thing:
    return replace(thing, count=thing.count + 1)


def renewed(thing: Thing) -> Thing:
    return replace(thing, lease=thing.lease.renewed(LATER, TTL))


def released(thing: Thing) -> Thing:
    return replace(thing, lease=thing.lease.released())


class Bench:
    def __init__(self) -> None:
        self.table = Table(MemoryRecords(), Thing)

    async def take(self, holder: str = "w1", now: datetime = START) -> LeaseGuard[Thing]:
        def taken(thing: Thing) -> Thing:
            return replace(thing, lease=thing.lease.taken(holder, now, TTL))

        taken_by = (await self.table.change(NAME, taken)).value
        return LeaseGuard(self.table, taken_by, lambda thing: thing.lease, lambda thing: thing.uid)

    async def thing(self) -> Thing:
        return (await self.table.get(NAME)).value


@pytest.fixture
async def at() -> Bench:
    bench = Bench()
    await bench.table.create(NAME, Thing())
    return bench


async def assert_lost(at: Bench, guard: LeaseGuard[Thing]) -> None:
    """Nothing that the guard does has an effect."""
    before = await at.thing()
    for call in (guard.write(more), guard.renew(renewed), guard.delete()):
        with pytest.raises(LeaseLost, match=NAME):
            await call
    assert await at.thing() == before


async def test_the_holder_writes_renews_and_deletes(at: Bench) -> None:
    guard = await at.take()
    assert (await guard.write(more)).count == 1
    await guard.renew(renewed)
    assert guard.record == await at.thing()
    assert guard.record.lease.is_live(LATER)
    await guard.delete()
    with pytest.raises(RecordNotFound):
        await at.thing()


@pytest.mark.parametrize("rival", ["w2", "w1"])
async def test_a_lease_that_was_taken_again_is_lost_also_to_the_same_worker(at: Bench, rival: str) -> None:
    guard = await at.take()
    await at.take(rival, LATER)
    await assert_lost(at, guard)


async def test_a_lease_that_another_released_is_lost(at: Bench) -> None:
    guard = await at.take()
    await at.table.change(NAME, released)
    await assert_lost(at, guard)


async def test_a_record_created_again_under_the_same_name_epoch_and_worker_is_another(at: Bench) -> None:
    guard = await at.take()
    await at.table.delete(NAME)
    await at.table.create(NAME, Thing(uid="v"))
    again = await at.take()
    assert again.record.lease == guard.record.lease
    await assert_lost(at, guard)
    assert (await again.write(more)).count == 1


async def test_a_record_that_is_gone_is_lost(at: Bench) -> None:
    guard = await at.take()
    await at.table.delete(NAME)
    for call in (guard.write(more), guard.renew(renewed), guard.delete()):
        with pytest.raises(LeaseLost, match=NAME):
            await call


async def test_after_its_own_release_a_worker_writes_nothing_and_a_late_renewal_is_no_loss(at: Bench) -> None:
    guard = await at.take()
    await guard.write(released)
    await guard.renew(renewed)
    assert not (await at.thing()).lease.is_live(START)
    with pytest.raises(LeaseLost):
        await guard.write(more)


async def test_writes_of_several_tasks_take_turns_so_the_record_never_goes_back(at: Bench) -> None:
    guard = await at.take()
    seen = [thing.count for thing in await asyncio.gather(*(guard.write(more) for _ in range(5)))]
    assert seen == [1, 2, 3, 4, 5]
    assert guard.record == await at.thing()
