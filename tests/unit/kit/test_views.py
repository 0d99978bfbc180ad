"""Tables and views, over records that fail on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace

import pytest

from services.kit.errors import Conflict, EtagMismatch, InvalidRequest, RecordNotFound, RecordUnusable, Unavailable
from services.kit.memory import MemoryRecords
from services.kit.records import MAX_RECORD_BYTES, Change, Deleted, Record, Synced, Table, Versioned
from services.kit.views import View
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Thing:
    text: str = ""
    count: int = 0


class LossyRecords(MemoryRecords):
    """Records whose watches break on demand, and whose next updates lose their races."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = asyncio.Event()
        self.watches = 0
        self.races = 0

    async def update(self, key: str, value: bytes, revision: int) -> int:
        if self.races:
            self.races -= 1
            await super().update(key, b'{"text": "theirs"}', revision)
        return await super().update(key, value, revision)

    async def watch(self, *collections: str) -> AsyncIterator[Change]:
        self.watches += 1
        inner = super().watch(*collections)
        while True:
            step = asyncio.ensure_future(anext(inner))
            breaking = asyncio.ensure_future(self.broken.wait())
            await asyncio.wait((step, breaking), return_when=asyncio.FIRST_COMPLETED)
            breaking.cancel()
            if not step.done():
                step.cancel()
                raise Unavailable(what="the records", problem="a test")
            yield step.result()


@contextlib.asynccontextmanager
async def running(view: View[Thing]) -> AsyncGenerator[View[Thing]]:
    task = asyncio.create_task(view.run())
    try:
        async with asyncio.timeout(10):
            await view.synced()
            yield view
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def records() -> LossyRecords:
    return LossyRecords()


async def test_a_change_is_decided_again_after_every_lost_race(records: LossyRecords) -> None:
    table = Table(records, Thing)
    await table.create("models/m", Thing("ours"))
    records.races = 3
    seen: list[str] = []

    def decide(thing: Thing) -> Thing:
        seen.append(thing.text)
        return replace(thing, count=thing.count + 1)

    changed = await table.change("models/m", decide)
    assert changed.value == Thing("theirs", 1)
    assert seen == ["ours", "theirs", "theirs", "theirs"]
    assert await table.get("models/m") == changed


async def test_a_decision_that_returns_its_argument_writes_nothing(records: LossyRecords) -> None:
    table = Table(records, Thing)
    created = await table.create("models/m", Thing())
    assert await table.change("models/m", lambda thing: thing) == created


async def test_a_change_with_an_etag_is_applied_to_that_revision_only(records: LossyRecords) -> None:
    table = Table(records, Thing)
    old = await table.create("models/m", Thing())
    new = await table.change("models/m", lambda _: Thing("new"), etag=old.etag)
    with pytest.raises(EtagMismatch, match=old.etag) as refused:
        await table.change("models/m", lambda _: Thing("late"), etag=old.etag)
    assert refused.value.metadata["current"] == new.etag
    with pytest.raises(EtagMismatch):
        await table.delete("models/m", etag=old.etag)
    await table.delete("models/m", etag=new.etag)
    with pytest.raises(RecordNotFound):
        await table.get("models/m")
    with pytest.raises(RecordNotFound):
        await table.change("models/m", lambda _: Thing())
    with pytest.raises(RecordNotFound):
        await table.delete("models/m")


async def test_a_stale_update_is_a_conflict_and_a_large_one_is_refused(records: LossyRecords) -> None:
    table = Table(records, Thing)
    old = await table.create("models/m", Thing())
    await table.update("models/m", Thing("new"), old)
    with pytest.raises(Conflict):
        await table.update("models/m", Thing("late"), old)
    with pytest.raises(InvalidRequest, match="models/n"):
        await table.create("models/n", Thing("x" * MAX_RECORD_BYTES))


async def test_a_view_follows_creations_changes_and_deletions(records: LossyRecords) -> None:
    table = Table(records, Thing)
    await table.create("models/b", Thing("b"))
    await table.create("models/b/trials/t0", Thing("of another view"))
    async with running(View(records, Thing, "models")) as view:
        a = await table.create("models/a", Thing("a"))
        await view.caught_up(a.revision)
        assert [found.value.text for found in view.all()] == ["a", "b"]
        assert view.all("models/a") == [a]
        await view.caught_up(await table.delete("models/b"))
        assert view.find("models/b") is None


async def test_a_view_keeps_its_state_during_an_outage_and_then_resynchronises(records: LossyRecords) -> None:
    table = Table(records, Thing)
    for name in ("models/kept", "models/gone"):
        await table.create(name, Thing(name))
    async with running(View(records, Thing, "models", retry_seconds=0.01)) as view:
        records.broken.set()
        await eventually(lambda: records.watches > 2)
        assert len(view.all()) == 2
        deleted = await table.delete("models/gone")
        records.broken.clear()
        await view.caught_up(deleted)  # although no watch yielded the deletion
        assert [found.value.text for found in view.all()] == ["models/kept"]


async def test_a_view_that_does_not_catch_up_is_unavailable(records: LossyRecords) -> None:
    async with running(View(records, Thing, "models")) as view:
        with pytest.raises(Unavailable, match="models"):
            await view.caught_up(99, timeout_seconds=0.01)


async def test_a_view_is_unavailable_until_it_is_complete(records: LossyRecords) -> None:
    view = View(records, Thing, "models")
    for read in (view.all, lambda: view.find("models/a")):
        with pytest.raises(Unavailable, match="not complete"):
            read()


async def test_waiting_for_a_change_ends_with_the_change_or_at_the_timeout(records: LossyRecords) -> None:
    async with running(View(records, Thing, "models")) as view:
        await view.changed(0.01)
        waiting = asyncio.create_task(view.changed(60))
        await asyncio.sleep(0)
        await Table(records, Thing).create("models/m", Thing())
        await waiting
        assert view.find("models/m") is not None


async def test_a_view_tolerates_repeated_and_unknown_changes() -> None:
    class Scripted(MemoryRecords):
        async def watch(self, *collections: str) -> AsyncIterator[Change]:
            yield Deleted("models/never", 1)
            yield Record("models/m", b'{"text": "1", "field_of_a_newer_version": 7}', 2)
            yield Synced(5)
            yield Record("models/m", b'{"text": "1"}', 2)
            yield Deleted("models/m", 6)
            yield Deleted("models/m", 6)
            yield Record("models/m", b'{"text": "2"}', 7)
            await asyncio.Event().wait()

    async with running(View(Scripted(), Thing, "models")) as view:
        await view.caught_up(7)
        assert view.all() == [Versioned(Thing("2"), 7)]


async def test_an_unreadable_record_is_logged_and_affects_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = MemoryRecords()
    table, view = Table(records, Thing), View(records, Thing, "things")
    await records.create("things/a", b'{"count": "many"}')
    await table.create("things/b", Thing("b"))
    async with running(view):
        assert [found.value.text for found in view.all()] == ["b"]
        assert "record_unusable" in caplog.text
        with pytest.raises(RecordUnusable, match="things/a"):
            await table.get("things/a")
        (b,) = view.all()
        await view.caught_up(await records.update("things/b", b"not JSON", b.revision))
        assert view.all() == []
        await view.caught_up((await table.create("things/c", Thing("c"))).revision)
        assert [found.value.text for found in view.all()] == ["c"]


async def test_a_follower_sees_the_latest_of_several_changes_and_ends_with_the_resource() -> None:
    records = MemoryRecords()
    table, view = Table(records, Thing), View(records, Thing, "things")
    found = await table.create("things/a", Thing())
    async with running(view), asyncio.timeout(10):
        seen: list[int] = []
        async for present in view.follow("things/a", found):
            seen.append(present.value.count)
            if len(seen) == 1:
                for count in (1, 2):
                    await table.change("things/a", lambda thing, count=count: replace(thing, count=count))
                await view.caught_up(await records.create("things/b", b"{}"))
            else:
                await table.delete("things/a")
        assert seen == [0, 2]
