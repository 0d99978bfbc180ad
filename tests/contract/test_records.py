"""The law of Records, over the double and a real nats-server, and of the View on top of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from nats.aio.client import Client
from nats.errors import MaxPayloadError

from services.infra.jetstream import connect
from services.infra.jetstream_records import JetStreamRecords, to_key, to_subject
from services.kit.errors import Conflict, RecordExists, RecordNotFound, Unavailable
from services.kit.memory import MemoryRecords
from services.kit.records import MAX_RECORD_BYTES, Change, Deleted, Record, Records, Synced, Table
from services.kit.views import View
from tests.support.servers import NATS_SERVERS, NatsServer
from tests.support.waiting import eventually

BEAT = timedelta(milliseconds=200)


@pytest.fixture(params=["memory", *NATS_SERVERS])
async def records(request: pytest.FixtureRequest) -> AsyncIterator[Records]:
    """An empty bucket."""
    if request.param == "memory":
        yield MemoryRecords()
        return
    server: NatsServer = request.getfixturevalue(request.param)
    connection = await connect(server.url, "test")
    yield JetStreamRecords(connection, f"records_{uuid.uuid4().hex[:8]}")
    await connection.close()


async def until_synced(watch: AsyncIterator[Change]) -> list[Change]:
    seen: list[Change] = []
    async for change in watch:
        if isinstance(change, Synced):
            return seen
        seen.append(change)
    raise AssertionError("the watch ended")


async def take(watch: AsyncIterator[Change], count: int) -> list[Change]:
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(count)]


# Reading and writing.


async def test_a_created_record_is_read_with_its_revision(records: Records) -> None:
    revision = await records.create("datasets/a", b"\0one")
    assert await records.get("datasets/a") == Record("datasets/a", b"\0one", revision)


async def test_a_missing_record_is_not_found(records: Records) -> None:
    await records.create("models/m", b"")
    for key in ("datasets/a", "models", "models/m/trials/t0", "models/mm"):
        with pytest.raises(RecordNotFound, match=key):
            await records.get(key)


async def test_a_get_sees_every_write_that_returned_before(records: Records) -> None:
    revision = await records.create("models/m", b"0")
    for i in range(1, 30):
        revision = await records.update("models/m", str(i).encode(), revision)
        assert await records.get("models/m") == Record("models/m", str(i).encode(), revision)


async def test_a_second_create_is_refused(records: Records) -> None:
    await records.create("models/m", b"first")
    with pytest.raises(RecordExists, match="models/m"):
        await records.create("models/m", b"second")
    assert (await records.get("models/m")).value == b"first"


async def test_an_update_at_another_revision_is_a_conflict(records: Records) -> None:
    first = await records.create("models/m", b"1")
    second = await records.update("models/m", b"2", first)
    for wrong in (first, second + 1, 0, -1):
        with pytest.raises(Conflict):
            await records.update("models/m", b"3", wrong)
        with pytest.raises(Conflict):
            await records.delete("models/m", wrong)
    assert await records.get("models/m") == Record("models/m", b"2", second)


async def test_a_missing_record_can_be_neither_updated_nor_deleted(records: Records) -> None:
    for revision in (0, 1, 7):
        with pytest.raises(Conflict):
            await records.update("models/m", b"", revision)
        with pytest.raises(Conflict):
            await records.delete("models/m", revision)
    with pytest.raises(RecordNotFound):
        await records.get("models/m")


async def test_a_deleted_record_is_gone_and_can_be_created_again(records: Records) -> None:
    for _ in range(3):
        revision = await records.create("models/m", b"x")
        deleted = await records.delete("models/m", revision)
        assert deleted > revision
        with pytest.raises(RecordNotFound):
            await records.get("models/m")
        with pytest.raises(Conflict):
            await records.update("models/m", b"y", revision)
        with pytest.raises(Conflict):
            await records.delete("models/m", revision)


async def test_revisions_rise_over_all_keys_and_over_deletions(records: Records) -> None:
    revisions = [await records.create("datasets/a", b""), await records.create("models/m", b"")]
    revisions.append(await records.update("datasets/a", b"", revisions[0]))
    revisions.append(await records.delete("models/m", revisions[1]))
    revisions.append(await records.create("models/m", b""))
    assert revisions == sorted(set(revisions))
    assert all(revision > 0 for revision in revisions)


async def test_an_empty_value_is_a_value(records: Records) -> None:
    revision = await records.create("models/m", b"")
    assert await records.get("models/m") == Record("models/m", b"", revision)


async def test_a_record_may_have_256_kib(records: Records) -> None:
    value = os.urandom(MAX_RECORD_BYTES)
    await records.create("models/m", value)
    assert (await records.get("models/m")).value == value


@pytest.mark.parametrize("name", ["birds.v1", "a.", "a..", "a.b.c", "x_y-z.", "0", "A" * 255])
async def test_an_id_may_contain_dots_even_at_its_end(records: Records, name: str) -> None:
    key = f"models/{name}/trials/{name}"
    revision = await records.create(key, b"1")
    assert (await records.get(key)).key == key
    watch = records.watch("models", "trials")
    assert await until_synced(watch) == [Record(key, b"1", revision)]


async def test_names_that_look_alike_are_different_records(records: Records) -> None:
    for key in ("models/a.b", "models/a/b", "models/a", "models/a-b", "models/a_b", "models/A"):
        await records.create(key, key.encode())
    for key in ("models/a.b", "models/a/b", "models/a", "models/a-b", "models/a_b", "models/A"):
        assert (await records.get(key)).value == key.encode()


@pytest.mark.parametrize("key", ["", "/", "a/", "/a", "a//b", "a b", "a*", ">", "a/>", "ä", "a=b", "a\n"])
async def test_a_key_that_is_not_a_resource_name_is_a_value_error(records: Records, key: str) -> None:
    for call in (records.get(key), records.create(key, b""), records.update(key, b"", 1), records.delete(key, 1)):
        with pytest.raises(ValueError, match="not a record's key"):
            await call


def test_keys_and_subjects_map_both_ways() -> None:
    for key in ("models/m", "models/a.b./trials/t..0", "projects/acme/models/m", "projects/a-1/models/a.b/trials/t.0"):
        assert to_key(to_subject(key)) == key
        assert ".." not in to_subject(key)
        assert not to_subject(key).endswith(".")


async def test_a_watch_has_the_records_of_every_project_under_their_full_names(records: Records) -> None:
    keys = ("models/m", "projects/acme/models/m", "projects/umbrella/models/m")
    for key in (*keys, "projects/acme/models/m/trials/t0", "projects/acme/datasets/m"):
        await records.create(key, key.encode())
    watch = aiter(records.watch("models"))
    found = await until_synced(watch)
    assert {change.key for change in found if isinstance(change, Record)} == set(keys)
    created = await records.create("projects/acme/models/n", b"")
    assert await take(watch, 1) == [Record("projects/acme/models/n", b"", created)]
    await records.delete(keys[1], (await records.get(keys[1])).revision)
    assert [change.key for change in await take(watch, 1) if isinstance(change, Deleted)] == [keys[1]]
    assert (await records.get("models/m")).value == b"models/m"


# Races.


async def test_one_of_many_concurrent_creates_wins(records: Records) -> None:
    answers = await asyncio.gather(
        *(records.create("models/m", str(i).encode()) for i in range(30)), return_exceptions=True
    )
    winners = [i for i, answer in enumerate(answers) if isinstance(answer, int)]
    assert len(winners) == 1
    assert all(isinstance(a, RecordExists) for i, a in enumerate(answers) if i != winners[0])
    assert (await records.get("models/m")).value == str(winners[0]).encode()


async def test_one_of_many_concurrent_creates_after_a_deletion_wins(records: Records) -> None:
    await records.delete("models/m", await records.create("models/m", b""))
    answers = await asyncio.gather(*(records.create("models/m", b"") for _ in range(20)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["RecordExists"] * 19 + ["int"]


async def test_one_of_many_writers_at_one_revision_wins_and_the_others_conflict(records: Records) -> None:
    revision = await records.create("models/m", b"")
    writes = [records.update("models/m", str(i).encode(), revision) for i in range(20)]
    answers = await asyncio.gather(*writes, records.delete("models/m", revision), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict"] * 20 + ["int"]


async def test_racing_changes_are_all_applied(records: Records) -> None:
    @dataclass(frozen=True)
    class Counter:
        count: int

    table = Table(records, Counter)
    await table.create("models/m", Counter(0))
    changes = (table.change("models/m", lambda c: Counter(c.count + 1)) for _ in range(25))
    await asyncio.gather(*changes)
    assert (await table.get("models/m")).value == Counter(25)


# Watching.


async def test_a_watch_yields_what_exists_then_synced_then_each_change(records: Records) -> None:
    a = await records.create("models/a", b"1")
    b = await records.create("models/b", b"2")
    gone = await records.create("models/gone", b"3")
    await records.delete("models/gone", gone)

    watch = records.watch("models")
    existing = await until_synced(watch)
    assert sorted(existing, key=str) == [Record("models/a", b"1", a), Record("models/b", b"2", b)]

    a2 = await records.update("models/a", b"4", a)
    assert await take(watch, 1) == [Record("models/a", b"4", a2)]
    deleted = await records.delete("models/b", b)
    assert await take(watch, 1) == [Deleted("models/b", deleted)]
    again = await records.create("models/b", b"5")
    assert await take(watch, 1) == [Record("models/b", b"5", again)]


async def test_a_watch_of_an_empty_collection_is_synced_at_once_and_yields_later_changes(records: Records) -> None:
    watch = records.watch("models")
    assert await until_synced(watch) == []
    revision = await records.create("models/m", b"")
    assert await take(watch, 1) == [Record("models/m", b"", revision)]


async def test_synced_has_the_revision_that_the_watch_has_reached(records: Records) -> None:
    revision = await records.create("models/m", b"")
    other = await records.create("datasets/d", b"")
    changes = await take(records.watch("models"), 2)
    assert changes == [Record("models/m", b"", revision), Synced(other)]


async def test_a_watch_yields_only_its_own_collections(records: Records) -> None:
    keys = ["models/m", "models/m/trials/t0", "models/m/evaluations/e", "models/n/trials/t.1.", "datasets/d"]
    for key in keys:
        await records.create(key, b"")
    seen = {
        collections: {
            change.key for change in await until_synced(records.watch(*collections)) if not isinstance(change, Synced)
        }
        for collections in (("models",), ("models", "trials"), ("models", "evaluations"), ("datasets",), ("others",))
    }
    assert seen == {
        ("models",): {"models/m"},
        ("models", "trials"): {"models/m/trials/t0", "models/n/trials/t.1."},
        ("models", "evaluations"): {"models/m/evaluations/e"},
        ("datasets",): {"datasets/d"},
        ("others",): set(),
    }


async def test_every_watch_yields_all_changes_in_order_of_revision(records: Records) -> None:
    first, second = records.watch("models"), records.watch("models")
    await until_synced(first)
    await until_synced(second)
    written = [await records.create(f"models/m{i}", b"") for i in range(40)]
    for watch in (first, second):
        assert [change.revision for change in await take(watch, 40)] == written


async def test_a_watch_that_starts_during_writes_misses_no_record(records: Records) -> None:
    names = [f"models/m{i}" for i in range(256)]
    for name in names:
        await records.create(name, b"0" * 1000)
    written = 0

    async def write() -> None:
        nonlocal written
        while written < 1000:
            record = await records.get(f"models/m{os.urandom(1)[0]}")
            with contextlib.suppress(Conflict):
                await records.update(record.key, b"1" * 1000, record.revision)
                written += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(write())
        watches = 0
        while written < 1000:
            existing = await until_synced(records.watch("models"))
            assert {change.key for change in existing if isinstance(change, Record)} == set(names)
            watches += 1
            await asyncio.sleep(0)
    assert watches > 5


async def test_a_closed_watch_blocks_neither_writes_nor_other_watches(records: Records) -> None:
    watch = records.watch("models")
    await until_synced(watch)
    await watch.aclose()  # type: ignore[attr-defined]  # every watch is a generator
    await records.create("models/m", b"")
    assert len(await until_synced(records.watch("models"))) == 1


async def test_a_watch_that_has_ended_leaves_no_consumer(own_connection: Client) -> None:
    async def consumers() -> int:
        return (await own_connection.jetstream().stream_info("KV_watched")).state.consumer_count

    watch = JetStreamRecords(own_connection, "watched").watch("models")
    await until_synced(watch)
    assert await consumers() == 1
    await watch.aclose()
    async with asyncio.timeout(5):
        while await consumers():  # noqa: ASYNC110 - the server removes it
            await asyncio.sleep(0.01)


async def test_watches_read_what_is_there_one_after_the_other(nats_server: NatsServer) -> None:
    """nats-server sends 32 MiB ahead for each, and ends a connection that is 64 MiB behind."""
    connection = await connect(nats_server.url, "test")
    records = JetStreamRecords(connection, f"records_{uuid.uuid4().hex[:8]}")
    for key in ("models/m", "models/n", "datasets/d"):
        await records.create(key, b"")
    first = records.watch("models")
    await take(first, 1)
    second = asyncio.create_task(until_synced(records.watch("datasets")))
    await asyncio.sleep(0.5)
    assert not second.done()
    await until_synced(first)
    assert [change.revision for change in await second] == [3]
    await connection.close()


# The view.


@dataclass(frozen=True)
class Thing:
    text: str


@contextlib.asynccontextmanager
async def running(view: View[Thing]) -> AsyncGenerator[View[Thing]]:
    task = asyncio.create_task(view.run())
    try:
        async with asyncio.timeout(60):
            yield view
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_view_reads_its_own_writes_once_it_has_caught_up(records: Records) -> None:
    table = Table(records, Thing)
    await table.create("models/a", Thing("1"))
    async with running(View(records, Thing, "models")) as view:
        await view.synced()
        assert [thing.value.text for thing in view.all()] == ["1"]
        changed = await table.change("models/a", lambda _: Thing("2"))
        await view.caught_up(changed.revision)
        assert view.find("models/a") == changed
        created = await table.create("models/b", Thing("3"))
        await view.caught_up(await table.delete("models/a"))
        assert view.all() == [created]
        assert view.find("models/a") is None


async def test_a_view_lists_by_name_whatever_came_and_went(records: Records) -> None:
    table, known, luck = Table(records, Thing), dict[str, Thing](), Random(1)
    async with running(View(records, Thing, "models")) as view:
        await view.synced()
        for number in range(60):
            name, thing = f"models/{luck.choice('abcd')}", Thing(str(number))
            if name not in known:
                revision = (await table.create(name, thing)).revision
            elif luck.random() < 0.3:
                revision, thing = await table.delete(name), None
            else:
                revision = (await table.change(name, lambda _, thing=thing: thing)).revision
            known = {key: value for key, value in (known | {name: thing}).items() if value}
            await view.caught_up(revision)
            assert [found.value for found in view.all()] == [known[key] for key in sorted(known)]
            assert [found.value for found in view.all("models/b")] == [known[key] for key in known if key == "models/b"]


# Real servers only.


async def test_old_tombstones_are_removed_and_live_records_stay(own_connection: Client) -> None:
    records = JetStreamRecords(own_connection, "b", tombstone_age=timedelta(milliseconds=1))
    for i in range(20):
        await records.delete(f"models/m{i}", await records.create(f"models/m{i}", b""))
        await asyncio.sleep(0.002)
    again = await records.create("models/m19", b"again")
    watch = records.watch("models")
    assert await until_synced(watch) == [Record("models/m19", b"again", again)]
    for i in (20, 21):
        await records.delete(f"models/m{i}", await records.create(f"models/m{i}", b""))
        await asyncio.sleep(0.002)
    state = (await own_connection.jetstream().stream_info("KV_b")).state
    assert state.messages <= 4
    assert (await records.get("models/m19")).value == b"again"

    fresh = JetStreamRecords(own_connection, "b", tombstone_age=timedelta(milliseconds=1))
    await until_synced(fresh.watch("models"))  # sees the tombstones of another process
    await fresh.delete("models/last", await fresh.create("models/last", b""))
    await asyncio.sleep(0.01)
    await fresh.delete("models/last", await fresh.create("models/last", b""))
    assert (await own_connection.jetstream().stream_info("KV_b")).state.messages <= 3


async def test_a_server_that_goes_silent_ends_the_watch_and_fails_the_calls(
    own_nats_server: NatsServer, own_connection: Client
) -> None:
    records = JetStreamRecords(own_connection, "b", heartbeat=BEAT)
    await records.create("models/m", b"")
    watch = records.watch("models")
    await until_synced(watch)
    own_nats_server.pause()
    try:
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable, match="heartbeats"):
                await anext(watch)
        with pytest.raises(Unavailable):
            await records.get("models/m")
    finally:
        own_nats_server.resume()
    await eventually(lambda: own_connection.is_connected)
    assert (await records.get("models/m")).value == b""


async def test_a_view_survives_a_killed_server_and_loses_nothing(
    own_nats_server: NatsServer, own_connection: Client
) -> None:
    records = JetStreamRecords(own_connection, "b", heartbeat=BEAT)
    table = Table(records, Thing)
    async with running(View(records, Thing, "models", retry_seconds=0.1)) as view:
        await view.synced()
        acked: dict[str, int] = {}
        for i in range(20):
            acked[f"models/m{i}"] = (await table.create(f"models/m{i}", Thing("before"))).revision
        await view.caught_up(acked["models/m19"])

        own_nats_server.kill()
        with pytest.raises(Unavailable):
            await table.create("models/away", Thing(""))
        assert len(view.all()) == 20  # it keeps its last state
        own_nats_server.start()

        await eventually(lambda: own_connection.is_connected)
        created = await table.create("models/after", Thing("after"))
        deleted = await table.delete("models/m0")
        await view.caught_up(deleted, timeout_seconds=10)
        await view.caught_up(created.revision, timeout_seconds=10)
        seen = {name: thing.revision for name in acked if (thing := view.find(name))}
        assert seen == {name: revision for name, revision in acked.items() if name != "models/m0"}
        assert view.find("models/after") == created


async def test_a_deleted_bucket_ends_the_watch_and_is_recreated(own_connection: Client) -> None:
    records = JetStreamRecords(own_connection, "b", heartbeat=BEAT)
    old = await records.create("models/old", b"")
    watch = records.watch("models")
    await until_synced(watch)
    await own_connection.jetstream().delete_stream("KV_b")
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await anext(watch)
    with pytest.raises(Conflict):
        await records.update("models/old", b"", old)
    await records.create("models/new", b"")
    assert [change.key for change in await until_synced(records.watch("models")) if isinstance(change, Record)] == [
        "models/new"
    ]


async def test_the_first_connection_waits_for_the_server_and_gives_up_with_an_explanation(
    own_nats_server: NatsServer,
) -> None:
    own_nats_server.stop()
    url = own_nats_server.url.replace("nats://", "nats://user:secret@")
    with pytest.raises(Unavailable, match=r"nats-server at nats://127\.0\.0\.1") as failed:
        await connect(url, "test", deadline_seconds=0.5)
    assert "secret" not in str(failed.value)
    opening = asyncio.create_task(connect(own_nats_server.url, "test", deadline_seconds=20))
    await asyncio.sleep(0.3)
    own_nats_server.start()
    await (await opening).close()


async def test_an_existing_bucket_keeps_its_operators_configuration(own_connection: Client) -> None:
    js = own_connection.jetstream()
    await js.create_key_value(bucket="b", description="mine", history=1)
    records = JetStreamRecords(own_connection, "b")
    await records.create("models/m", b"x")
    assert (await js.stream_info("KV_b")).config.description == "mine"
    assert (await (await js.key_value("b")).get("models.m")).value == b"x"  # NATS's own tools read it


async def test_a_wrong_password_is_reported_and_the_right_one_connects(tmp_path: Path) -> None:
    users = 'authorization { users: [ { user: "u", password: "right" } ] }'
    with NatsServer(tmp_path, config=users) as server:
        wrong, right = (server.url.replace("nats://", f"nats://u:{password}@") for password in ("wrong", "right"))
        with pytest.raises(Unavailable, match=r"(?i)authorization"):
            await connect(wrong, "test", deadline_seconds=3)
        connection = await connect(right, "test")
        await JetStreamRecords(connection).create("models/m", b"")
        await connection.close()


async def test_a_value_beyond_the_servers_limit_is_not_reported_as_an_outage(own_connection: Client) -> None:
    with pytest.raises(MaxPayloadError):
        await JetStreamRecords(own_connection).create("models/m", bytes(1_100_000))
