"""No creates at the same time exceed a quota, over the double and a real nats-server, with two replicas."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from services.infra.jetstream import connect
from services.infra.jetstream_records import JetStreamRecords
from services.kit.account import Account, Use, computed_by_month
from services.kit.accounts import ABANDONED, Accounts
from services.kit.collection import Collection
from services.kit.errors import ModelNotFound, ProjectQuotaExceeded, RecordExists, Unavailable
from services.kit.memory import MemoryRecords
from services.kit.quotas import Limits, Quota, month_of, require
from services.kit.records import Change, Record, Records, Synced, Versioned
from tests.support.servers import NatsServer

NOW = datetime(2026, 11, 28, tzinfo=UTC)
LIMITS = Limits(models=5)


@dataclass(frozen=True, slots=True)
class Thing:
    """A resource."""

    name: str


class Interleaved(MemoryRecords):
    """Lets others run before each request, as a network does."""

    async def get(self, key: str) -> Record:
        await asyncio.sleep(0)
        return await super().get(key)

    async def create(self, key: str, value: bytes) -> int:
        await asyncio.sleep(0)
        return await super().create(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        await asyncio.sleep(0)
        return await super().update(key, value, revision)


class Replica:
    """One process that creates models, of which a project may have five."""

    def __init__(self, records: Records) -> None:
        self.things = Collection(records, Thing, ModelNotFound, "models")
        self.accounts = Accounts(records, "test", {"models": self.things.view})

    async def create(self, name: str, now: datetime = NOW) -> Versioned[Thing]:
        def decide(account: Account) -> tuple[Thing, timedelta]:
            present = {found.value.name for found in self.things.view.all("models/")}
            require(Quota.MODELS, account.project, LIMITS, len(present | account.reserved_names("models")), 1)
            return Thing(name), timedelta()

        return await self.accounts.create(self.things, name, decide, now)

    async def attempt(self, name: str) -> bool:
        """Whether it could be created."""
        try:
            await self.create(name)
        except ProjectQuotaExceeded:
            return False
        return True


@asynccontextmanager
async def replicas(records: list[Records]) -> AsyncGenerator[list[Replica]]:
    """A replica over each, with running views."""
    made = [Replica(each) for each in records]
    tasks = [asyncio.create_task(view.run()) for one in made for view in (one.things.view, one.accounts.view)]
    try:
        for one in made:
            await one.things.view.synced()
            await one.accounts.view.synced()
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(params=["memory", "jetstream"])
async def two(request: pytest.FixtureRequest) -> AsyncGenerator[list[Replica]]:
    """Two replicas over the same empty bucket, each with its own connection."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            records: list[Records] = [Interleaved()] * 2
        else:
            server: NatsServer = request.getfixturevalue("nats_server")
            connections = [await connect(server.url, "test") for _ in range(2)]
            for connection in connections:
                stack.push_async_callback(connection.close)
            bucket = f"records_{uuid.uuid4().hex[:8]}"
            records = [JetStreamRecords(connection, bucket) for connection in connections]
        yield await stack.enter_async_context(replicas(records))


async def test_of_twenty_creates_at_once_a_limit_of_five_lets_five_through(two: list[Replica]) -> None:
    results = await asyncio.gather(*(two[number % 2].attempt(f"models/m{number}") for number in range(20)))
    assert sum(results) == 5
    assert len(two[0].things.view.all()) == 5
    account = await two[1].accounts.current("default")
    assert account.reservations == {}


async def test_what_another_replica_has_just_created_counts_before_the_view_shows_it(two: list[Replica]) -> None:
    for number in range(40):
        await two[number % 2].attempt(f"models/m{number}")
    assert len(two[0].things.view.all()) == 5


class Service:
    """One of two services that compute, of whose compute a project may have five seconds."""

    def __init__(self, records: Records, name: str, other: str) -> None:
        self.things = Collection(records, Thing, ModelNotFound, f"{name}s")
        self.accounts = Accounts(records, name, {f"{name}s": self.things.view}, (other,))
        self._name, self._other = name, other

    async def attempt(self, number: int) -> bool:
        """Whether one could be created that is charged a second."""
        made = Thing(f"{self._name}s/{number}")

        def decide(account: Account) -> tuple[Thing, timedelta]:
            use = self._use(account).computed.get(month_of(NOW), timedelta())
            use += self.accounts.last(account.project, self._other).compute(NOW).used
            require(Quota.COMPUTE, account.project, Limits(compute_seconds=5), use.total_seconds(), 1, remedy="Wait")
            return made, timedelta(seconds=1)

        try:
            await self.accounts.create(self.things, made.name, decide, NOW)
        except ProjectQuotaExceeded:
            return False
        return True

    async def publish(self) -> None:
        await self.accounts.publish("default", self._use, NOW)

    def _use(self, account: Account) -> Use:
        names = {found.value.name for found in self.things.view.all()} | account.reserved_names(f"{self._name}s")
        return Use(len(names), {}, computed_by_month(timedelta(), timedelta(seconds=len(names)), NOW))


async def test_two_services_together_never_reserve_more_compute_than_a_project_has() -> None:
    for _ in range(20):
        records = Interleaved()
        pair = Service(records, "model", "batch"), Service(records, "batch", "model")
        views = [view for one in pair for view in (one.things.view, one.accounts.view)]
        tasks = [asyncio.create_task(view.run()) for view in views]
        for view in views:
            await view.synced()
        attempts = [pair[number % 2].attempt(number) for number in range(12)]
        results = await asyncio.gather(*attempts, *(one.publish() for one in pair))
        results += [await one.attempt(number) for number in range(12, 24) for one in pair]
        assert sum(map(bool, results)) == 5
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Lagging:
    """The same records, whose watches say nothing new for now."""

    def __init__(self, records: MemoryRecords) -> None:
        self.get, self.create, self.update, self.delete = records.get, records.create, records.update, records.delete
        self._records = records
        self.caught_up = asyncio.Event()

    async def watch(self, *collections: str) -> AsyncIterator[Change]:
        synced = False
        async for change in self._records.watch(*collections):
            if synced:
                await self.caught_up.wait()
            synced = synced or isinstance(change, Synced)
            yield change


async def test_a_replica_whose_view_lags_waits_until_it_shows_what_others_have_created() -> None:
    records = MemoryRecords()
    late = Lagging(records)
    async with replicas([records, late]) as (prompt, lagging):
        for number in range(5):
            await prompt.create(f"models/m{number}")
        attempt = asyncio.create_task(lagging.attempt("models/x"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert lagging.things.view.all() == []
        late.caught_up.set()
        assert not await attempt
        assert len(prompt.things.view.all()) == 5


async def test_deleting_makes_room_for_as_many(two: list[Replica]) -> None:
    for number in range(5):
        await two[0].create(f"models/m{number}")
    assert not await two[1].attempt("models/x")
    await two[1].things.delete("models/m3")
    assert await two[1].attempt("models/x")
    assert not await two[1].attempt("models/y")


async def test_creates_of_one_name_count_once_and_leave_no_reservation(two: list[Replica]) -> None:
    creates = (two[number % 2].create("models/m") for number in range(6))
    results = await asyncio.gather(*creates, return_exceptions=True)
    assert sum(isinstance(result, RecordExists) for result in results) == 5
    assert (await two[0].accounts.current("default")).reservations == {}


async def test_projects_count_apart() -> None:
    async with replicas([MemoryRecords()]) as (only,):
        for number in range(5):
            await only.create(f"models/m{number}")
        assert (await only.accounts.current("acme")) == Account("projects/acme/accounts/test")


class Dying(MemoryRecords):
    """Its process dies before it creates a model, having reserved it."""

    dead = True

    async def create(self, key: str, value: bytes) -> int:
        if self.dead and key.startswith("models/"):
            raise Unavailable(what="the process", problem="it died")
        return await super().create(key, value)


async def test_the_reservation_of_a_process_that_died_counts_for_a_while_and_then_ends() -> None:
    records = Dying()
    async with replicas([records]) as (only,):
        for number in range(5):
            with pytest.raises(Unavailable):
                await only.create(f"models/lost{number}")
        records.dead = False
        assert not await only.attempt("models/m")
        await only.create("models/m", NOW + ABANDONED)
        assert [found.value.name for found in only.things.view.all()] == ["models/m"]


class Stalling(MemoryRecords):
    """Stands still between reserving a model and creating it."""

    def __init__(self) -> None:
        super().__init__()
        self.stalled, self.go_on = asyncio.Event(), asyncio.Event()

    async def create(self, key: str, value: bytes) -> int:
        if key == "models/slow":
            self.stalled.set()
            await self.go_on.wait()
        return await super().create(key, value)


async def test_a_process_that_stood_still_until_others_took_its_place_does_not_exceed_the_quota() -> None:
    records = Stalling()
    async with replicas([records]) as (only,):
        slow = asyncio.create_task(only.create("models/slow"))
        await records.stalled.wait()
        for number in range(5):
            await only.create(f"models/m{number}", NOW + ABANDONED)
        records.go_on.set()
        with pytest.raises(Unavailable, match="was not created"):
            await slow
        assert len(only.things.view.all()) == 5


async def test_a_bucket_that_was_copied_to_another_stream_still_counts() -> None:
    """There, revisions begin anew: one that the account remembers may never come."""
    async with replicas([MemoryRecords()]) as (only,):
        await only.accounts.change("default", lambda account: Account(account.name, seen={"models": 10**9}), NOW)
        assert await only.attempt("models/m")
